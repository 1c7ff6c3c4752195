import math
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from recipe_common.errors import InvalidArgumentError
from recipe_retriever import retrieval
from recipe_retriever.metrics import RetrieverMetrics
from recipe_retriever.retrieval import Decision, Retriever
from recipe_store import Match, StoreUnavailableError
from recipe_store.edge_store import EdgeStore
from retrieval_harness import (
    MODEL_VERSION,
    NOW,
    SENTINEL_SIMILARITY,
    TableEncoder,
    axis,
    make_fact,
    make_write,
    prompt_of,
    retraction,
)


@pytest.fixture
def retriever(store: EdgeStore, registry: CollectorRegistry) -> Retriever:
    return Retriever(TableEncoder({"east": axis(1), "both": axis(0) + axis(1)}), store, RetrieverMetrics(registry))


def counts(registry: CollectorRegistry) -> dict[str, float]:
    """The samples of all counters and all numbers of observations, but for those that are zero."""
    samples = [sample for metric in registry.collect() for sample in metric.samples]
    return {
        "".join([sample.name, *sample.labels.values()]): sample.value
        for sample in samples
        if sample.name.endswith(("_total", "_count")) and sample.value
    }


def test_the_model_version_is_the_encoders(retriever: Retriever) -> None:
    assert retriever.model_version == MODEL_VERSION


def test_a_fact_above_the_sentinel_is_a_hit(store: EdgeStore, retriever: Retriever) -> None:
    store.write(
        [make_write(make_fact("mayor"), axis(0, 5.0), value=0.25), make_write(make_fact("river"), axis(1, 9.0))]
    )

    found = retriever.retrieve("cities", "north", NOW)

    assert (found.decision, found.sentinel_similarity, found.margin) == (Decision.HIT, SENTINEL_SIMILARITY, 3.0)
    assert found.match is not None
    assert (found.match.fact, found.match.similarity) == (make_fact("mayor"), 5.0)
    np.testing.assert_array_equal(found.prompt, prompt_of(0.25))


def test_the_threshold_goes_with_the_number_of_facts(
    store: EdgeStore, registry: CollectorRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    retriever = Retriever(TableEncoder(growth=2.0), store, RetrieverMetrics(registry), count_seconds=0)
    store.write([make_write(make_fact("mayor"), axis(0, 5.0))])
    assert retriever.retrieve("cities", "north", NOW).decision is Decision.HIT

    monkeypatch.setattr(store, "count", lambda _: 10_000)

    found = retriever.retrieve("cities", "north", NOW)
    assert found.decision is Decision.BELOW_SENTINEL
    assert found.sentinel_similarity == pytest.approx(SENTINEL_SIMILARITY + 2.0 * math.log(10))


def test_a_fact_in_a_crowd_is_a_hit_only_if_it_stands_out(
    store: EdgeStore, registry: CollectorRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retrieval, "MISSES_PER_MARGIN", 1)
    retriever = Retriever(TableEncoder(crowd=1.0), store, RetrieverMetrics(registry))
    rivals = ("river", "bridge")
    store.write(
        [make_write(make_fact("mayor"), axis(0, 4.0)), *(make_write(make_fact(n), axis(0, 4.0)) for n in rivals)]
    )

    found = retriever.retrieve("cities", "north", NOW)

    assert (found.decision, found.sentinel_similarity) == (Decision.BELOW_SENTINEL, SENTINEL_SIMILARITY)
    assert [margins_up_to(registry, "below_sentinel", bound) for bound in (-1.0, 0.0)] == [0, 1]  # 2 - 2 ln 3 = -0.2
    store.write([make_write(make_fact("mayor", revision=4), axis(0, 9.0))])
    found = retriever.retrieve("cities", "north", NOW)
    assert (found.decision, found.margin) == (Decision.HIT, 7.0)


def test_the_best_of_several_facts_above_the_sentinel_is_the_hit(store: EdgeStore, retriever: Retriever) -> None:
    store.write([make_write(make_fact("mayor"), axis(0, 5.0)), make_write(make_fact("river"), axis(1, 5.5))])
    found = retriever.retrieve("cities", "both", NOW)
    assert found.match is not None
    assert found.match.fact.fact_id == "river"


@pytest.mark.parametrize(
    ("similarity", "decision"),
    [
        (np.nextafter(np.float32(2.0), np.float32(3.0)), Decision.HIT),
        (2.0, Decision.BELOW_SENTINEL),
        (1.9, Decision.BELOW_SENTINEL),
        (-5.0, Decision.BELOW_SENTINEL),
    ],
)
def test_a_fact_must_be_strictly_more_similar_than_the_sentinel(
    store: EdgeStore, retriever: Retriever, similarity: float, decision: Decision
) -> None:
    store.write([make_write(make_fact(), axis(0, similarity))])

    found = retriever.retrieve("cities", "north", NOW)

    assert found.decision is decision
    assert (found.margin is not None and found.margin > 0) is (decision is Decision.HIT)
    assert (found.match is not None) is (decision is Decision.HIT)


def test_a_base_without_facts_is_empty(retriever: Retriever) -> None:
    found = retriever.retrieve("cities", "north", NOW)
    assert (found.decision, found.match, found.margin) == (Decision.EMPTY_BASE, None, None)
    assert found.sentinel_similarity == SENTINEL_SIMILARITY


def test_a_base_of_retracted_facts_is_empty(store: EdgeStore, retriever: Retriever) -> None:
    store.write([make_write(make_fact(), axis(0, 5.0))])
    store.write([retraction()])
    assert retriever.retrieve("cities", "north", NOW).decision is Decision.EMPTY_BASE


def test_facts_of_another_namespace_are_not_there(store: EdgeStore, retriever: Retriever) -> None:
    store.write([make_write(make_fact(namespace="towns"), axis(0, 5.0))])
    assert retriever.retrieve("cities", "north", NOW).decision is Decision.EMPTY_BASE


@pytest.mark.parametrize(
    ("as_of", "decision"),
    [
        (datetime(2025, 1, 1, tzinfo=UTC) - timedelta(microseconds=1), Decision.BELOW_SENTINEL),
        (datetime(2025, 1, 1, tzinfo=UTC), Decision.HIT),
        (datetime(2030, 1, 1, tzinfo=UTC) - timedelta(microseconds=1), Decision.HIT),
        (datetime(2030, 1, 1, tzinfo=UTC), Decision.BELOW_SENTINEL),
    ],
)
def test_only_facts_that_are_valid_at_the_instant_are_found(
    store: EdgeStore, retriever: Retriever, as_of: datetime, decision: Decision
) -> None:
    store.write([make_write(make_fact(), axis(0, 5.0))])
    assert retriever.retrieve("cities", "north", as_of).decision is decision


def test_every_retrieval_is_counted_by_its_decision_and_timed_by_stage(
    store: EdgeStore, retriever: Retriever, registry: CollectorRegistry
) -> None:
    retriever.retrieve("cities", "north", NOW)
    store.write([make_write(make_fact(), axis(0, 5.0))])
    for query in ("north", "east", "north"):
        retriever.retrieve("cities", query, NOW)

    stage, decision = "recipe_retriever_stage_seconds_count", "recipe_retriever_decisions_total"
    assert counts(registry) == {
        f"{stage}encode": 4.0,
        f"{stage}search": 4.0,
        f"{stage}fetch": 2.0,
        f"{stage}count": 3.0,  # at the first question, and at each miss whether there is any fact
        "recipe_retriever_prompts_totalfetched": 2.0,
        f"{decision}hit": 2.0,
        f"{decision}below_sentinel": 1.0,
        f"{decision}empty_base": 1.0,
        "recipe_retriever_margin_counthit": 2.0,
        "recipe_retriever_margin_countbelow_sentinel": 1.0,
    }


def margins_up_to(registry: CollectorRegistry, decision: str, bound: float) -> float | None:
    labels = {"decision": decision, "le": str(bound)}
    return registry.get_sample_value("recipe_retriever_margin_bucket", labels)


def test_margins_lie_on_either_side_of_zero(
    store: EdgeStore, retriever: Retriever, registry: CollectorRegistry
) -> None:
    store.write([make_write(make_fact(), axis(0, 5.0))])
    for query in ("north", "east"):  # margins of 3 and, as nothing points east, -2
        retriever.retrieve("cities", query, NOW)
    assert [margins_up_to(registry, "hit", bound) for bound in (2.0, 5.0)] == [0, 1]
    assert [margins_up_to(registry, "below_sentinel", bound) for bound in (-5.0, -2.0)] == [0, 1]


def test_the_margin_of_one_miss_among_many_is_measured(
    store: EdgeStore, retriever: Retriever, registry: CollectorRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retrieval, "MISSES_PER_MARGIN", 3)
    store.write([make_write(make_fact(), axis(0, 5.0))])
    measured = []
    for _ in range(5):
        retriever.retrieve("cities", "east", NOW)
        measured.append(counts(registry)["recipe_retriever_margin_countbelow_sentinel"])
    assert measured == [1, 1, 1, 2, 2]


def test_a_miss_whose_margin_cannot_be_measured_is_a_miss_all_the_same(
    store: EdgeStore,
    retriever: Retriever,
    registry: CollectorRegistry,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store.write([make_write(make_fact(), axis(0, 5.0))])

    def search(*_: object, **__: object) -> list[Match]:
        raise StoreUnavailableError("the store is away")

    monkeypatch.setattr(store, "search", search)
    assert retriever.retrieve("cities", "east", NOW).decision is Decision.BELOW_SENTINEL
    assert margins_up_to(registry, "below_sentinel", 400.0) == 0


def test_the_model_version_is_a_metric(retriever: Retriever, registry: CollectorRegistry) -> None:
    labels = {"model_version": retriever.model_version}
    assert registry.get_sample_value("recipe_retriever_model_info", labels) == 1


def test_every_series_is_there_before_anything_happens(registry: CollectorRegistry) -> None:
    RetrieverMetrics(registry)
    for decision in Decision:
        assert registry.get_sample_value("recipe_retriever_decisions_total", {"decision": decision.value}) == 0
    for stage in ("queue", "encode", "search", "fetch", "count", "total"):
        assert registry.get_sample_value("recipe_retriever_stage_seconds_count", {"stage": stage}) == 0
    for method, code in (("Retrieve", "UNAVAILABLE"), ("ListFacts", "OK")):
        assert registry.get_sample_value("recipe_retriever_calls_total", {"method": method, "code": code}) == 0


def test_a_query_that_cannot_be_encoded_has_no_decision(retriever: Retriever, registry: CollectorRegistry) -> None:
    with pytest.raises(InvalidArgumentError, match="query: is 999 tokens long"):
        retriever.retrieve("cities", "too long", NOW)
    assert not any("decisions" in name or "margin" in name for name in counts(registry))


def test_a_store_that_does_not_answer_is_an_error_and_no_decision(
    store: EdgeStore, retriever: Retriever, registry: CollectorRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hit(*_: object, **__: object) -> None:
        raise StoreUnavailableError("the store is away")

    monkeypatch.setattr(store, "hit", hit)
    with pytest.raises(StoreUnavailableError):
        retriever.retrieve("cities", "north", NOW)
    assert not any("decisions" in name for name in counts(registry))
