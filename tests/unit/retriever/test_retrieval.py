from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from recipe_retriever.metrics import RetrieverMetrics
from recipe_retriever.retrieval import Decision, Retriever, Thresholds
from recipe_store import LogPosition, StoreUnavailableError
from recipe_store.edge_store import EdgeStore
from retrieval_harness import (
    MODEL_VERSION,
    NOW,
    TableEncoder,
    axis,
    damage,
    make_fact,
    make_write,
    prompt_of,
    retraction,
)


@pytest.fixture
def encoder() -> TableEncoder:
    return TableEncoder({"east": axis(1), "both": axis(0) + axis(1)})


@pytest.fixture
def retriever(encoder: TableEncoder, store: EdgeStore, registry: CollectorRegistry) -> Retriever:
    return Retriever(encoder, store, RetrieverMetrics(registry))


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

    assert (found.decision, found.min_confidence, found.degraded_reason) == (Decision.HIT, 0.5, "")
    assert found.nearest is not None
    assert (found.nearest.candidate.fact, found.nearest.candidate.similarity) == (make_fact("mayor"), 1.0)
    assert found.nearest.margin == 3.0
    assert found.nearest.confidence == pytest.approx(0.9526, abs=1e-4)
    np.testing.assert_array_equal(found.prompt, prompt_of(0.25))


def test_a_retrieval_searches_once_and_reads_so_many_facts_at_once(
    store: EdgeStore, encoder: TableEncoder, retriever: Retriever, registry: CollectorRegistry
) -> None:
    store.write([make_write(make_fact(f"fact-{number}"), axis(0, 3.0)) for number in range(20)])
    assert retriever.retrieve("cities", "north", NOW).decision is Decision.HIT
    assert encoder.verifier.read == [encoder.decider.candidates]
    assert counts(registry)["recipe_retriever_stage_seconds_countsearch"] == 1
    assert registry.get_sample_value("recipe_retriever_candidates_sum") == encoder.decider.candidates


def test_a_miss_names_the_nearest_fact_and_reads_no_prompt(
    store: EdgeStore, retriever: Retriever, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.write([make_write(make_fact(name), axis(0, length)) for name, length in (("weak", 1.0), ("weaker", 0.5))])
    monkeypatch.setattr(store, "prompt", None)
    found = retriever.retrieve("cities", "north", NOW)
    assert (found.decision, found.prompt) == (Decision.BELOW_SENTINEL, None)
    assert found.nearest is not None
    assert (found.nearest.candidate.fact.fact_id, found.nearest.margin) == ("weak", -1.0)


def test_the_likeliest_candidate_is_the_hit_even_if_another_is_nearer(store: EdgeStore, retriever: Retriever) -> None:
    store.write(
        [make_write(make_fact("near"), axis(0, 3.0)), make_write(make_fact("likely"), axis(0, 5.0) + axis(1, 2.0))]
    )
    found = retriever.retrieve("cities", "north", NOW)
    assert found.nearest is not None
    assert found.nearest.candidate.fact.fact_id == "likely"


def test_a_failed_verifier_is_a_degraded_miss_and_never_a_hit(
    store: EdgeStore, encoder: TableEncoder, retriever: Retriever, registry: CollectorRegistry
) -> None:
    store.write([make_write(make_fact(), axis(0, 5.0))])
    encoder.verifier.broken = "it gives numbers that are not finite"

    found = retriever.retrieve("cities", "north", NOW, min_confidence=0.0)

    assert (found.decision, found.nearest, found.prompt) == (Decision.BELOW_SENTINEL, None, None)
    assert found.degraded_reason == (
        "the second step of the decision failed, so no fact applies: it gives numbers that are not finite"
    )
    counted = counts(registry)
    assert counted["recipe_retriever_verifier_failures_total"] == 1
    assert counted["recipe_retriever_decisions_totalbelow_sentinel"] == 1
    assert not any("confidence" in name for name in counted)


def test_a_damaged_fact_is_left_out_of_the_decision_about_the_others(
    store: EdgeStore, encoder: TableEncoder, retriever: Retriever, registry: CollectorRegistry
) -> None:
    store.write([make_write(make_fact(name), axis(0, length)) for name, length in (("mayor", 9.0), ("river", 5.0))])
    damage(store, "mayor")

    found = retriever.retrieve("cities", "north", NOW)

    assert (found.decision, found.degraded_reason) == (Decision.HIT, "")
    assert found.nearest is not None
    assert found.nearest.candidate.fact.fact_id == "river"
    assert encoder.verifier.read == [1]
    assert registry.get_sample_value("recipe_retriever_damaged_facts_total") == 1
    assert registry.get_sample_value("recipe_retriever_candidates_sum") == 1
    assert registry.get_sample_value("recipe_retriever_verifier_failures_total") == 0


def test_a_miss_beside_a_damaged_fact_is_degraded_and_names_it(store: EdgeStore, retriever: Retriever) -> None:
    store.write([make_write(make_fact(name), axis(0, length)) for name, length in (("mayor", 9.0), ("river", 1.0))])
    damage(store, "mayor")
    found = retriever.retrieve("cities", "north", NOW)
    assert found.decision is Decision.BELOW_SENTINEL
    assert found.nearest is not None
    assert (found.nearest.candidate.fact.fact_id, found.nearest.margin) == ("river", -1.0)
    assert found.degraded_reason.startswith(
        "a candidate cannot be read, so it may apply or not: "
        "the stored token data of fact 'mayor' in namespace 'cities' is corrupt: "
    )


def test_where_only_a_damaged_fact_is_near_the_miss_is_degraded(
    store: EdgeStore, encoder: TableEncoder, retriever: Retriever
) -> None:
    store.write([make_write(make_fact(), axis(0, 5.0))])
    damage(store)
    found = retriever.retrieve("cities", "north", NOW)
    assert (found.decision, found.nearest, encoder.verifier.read) == (Decision.BELOW_SENTINEL, None, [])
    assert "fact 'mayor'" in found.degraded_reason


def test_a_damaged_fact_that_is_no_candidate_changes_nothing(store: EdgeStore, retriever: Retriever) -> None:
    store.write([make_write(make_fact("mayor"), axis(0, 1.0)), make_write(make_fact("river"), axis(1, 5.0))])
    damage(store, "river")
    assert retriever.retrieve("cities", "north", NOW).degraded_reason == ""


def test_a_damaged_fact_is_counted_at_every_decision_and_logged_once_for_a_revision(
    store: EdgeStore, retriever: Retriever, registry: CollectorRegistry, caplog: pytest.LogCaptureFixture
) -> None:
    later = LogPosition("recipe.knowledge-updates.v1", 3, 18)
    for fact in (make_fact(), make_fact(revision=4, position=later)):
        store.write([make_write(fact, axis(0, 5.0))])
        damage(store)
        for _ in range(2):
            retriever.retrieve("cities", "north", NOW)
    assert registry.get_sample_value("recipe_retriever_damaged_facts_total") == 4
    assert [record.levelname for record in caplog.records] == ["ERROR", "ERROR"]
    assert "left out of decisions: the stored token data of fact 'mayor' in namespace 'cities'" in caplog.text


def test_a_verifier_that_fails_at_the_start_is_told_and_nothing_more(
    encoder: TableEncoder, retriever: Retriever, caplog: pytest.LogCaptureFixture
) -> None:
    encoder.verifier.broken = "no numbers"
    retriever.warm_up()
    assert "the second step of decisions fails, so that no fact will apply: no numbers" in caplog.text


@pytest.mark.parametrize(
    ("namespace", "asked", "applied"),
    [("cities", None, 0.75), ("towns", None, 0.25), ("towns", 0.9, 0.9), ("cities", 0.0, 0.0)],
)
def test_the_least_confidence_is_the_requests_or_the_namespaces(
    store: EdgeStore, encoder: TableEncoder, namespace: str, asked: float | None, applied: float
) -> None:
    thresholds = Thresholds(0.75, {"towns": 0.25})
    retriever = Retriever(encoder, store, RetrieverMetrics(CollectorRegistry()), thresholds=thresholds)
    store.write([make_write(make_fact(namespace=namespace), axis(0, 2.5))])
    found = retriever.retrieve(namespace, "north", NOW, asked)  # with a confidence of 0.62
    assert found.min_confidence == applied
    assert (found.decision is Decision.HIT) is (applied < 0.62)


def test_the_best_of_several_facts_above_the_sentinel_is_the_hit(store: EdgeStore, retriever: Retriever) -> None:
    store.write([make_write(make_fact("mayor"), axis(0, 5.0)), make_write(make_fact("river"), axis(1, 5.5))])
    found = retriever.retrieve("cities", "both", NOW)
    assert found.nearest is not None
    assert found.nearest.candidate.fact.fact_id == "river"


@pytest.mark.parametrize(
    ("length", "decision"),
    [
        (2.001, Decision.HIT),
        (1.999, Decision.BELOW_SENTINEL),
        (-5.0, Decision.BELOW_SENTINEL),
    ],
)
def test_a_fact_must_say_more_than_the_sentinel(
    store: EdgeStore, retriever: Retriever, length: float, decision: Decision
) -> None:
    store.write([make_write(make_fact(), axis(0, length))])

    found = retriever.retrieve("cities", "north", NOW)

    assert found.decision is decision
    assert (found.nearest is not None and found.nearest.margin > 0) is (decision is Decision.HIT)
    assert (found.prompt is not None) is (decision is Decision.HIT)


def test_a_base_without_facts_is_empty(retriever: Retriever) -> None:
    found = retriever.retrieve("cities", "north", NOW)
    assert (found.decision, found.nearest, found.min_confidence) == (Decision.EMPTY_BASE, None, 0.5)


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
        f"{stage}verify": 2.0,
        f"{stage}fetch": 2.0,
        f"{stage}count": 2.0,  # where no fact is a candidate: is there any at all?
        "recipe_retriever_prompts_totalfetched": 2.0,
        f"{decision}hit": 2.0,
        f"{decision}below_sentinel": 1.0,
        f"{decision}empty_base": 1.0,
        "recipe_retriever_candidates_count": 4.0,
        "recipe_retriever_confidence_counthit": 2.0,
    }


def confidences_up_to(registry: CollectorRegistry, decision: str, bound: float) -> float | None:
    labels = {"decision": decision, "le": str(bound)}
    return registry.get_sample_value("recipe_retriever_confidence_bucket", labels)


def test_confidences_of_hits_and_misses_are_counted_apart(
    store: EdgeStore, retriever: Retriever, registry: CollectorRegistry
) -> None:
    store.write([make_write(make_fact("mayor"), axis(0, 5.0)), make_write(make_fact("river"), axis(1, 1.0))])
    for query in ("north", "east"):  # of 0.953 and 0.269
        retriever.retrieve("cities", query, NOW)
    assert [confidences_up_to(registry, "hit", bound) for bound in (0.95, 0.99)] == [0, 1]
    assert [confidences_up_to(registry, "below_sentinel", bound) for bound in (0.2, 0.3)] == [0, 1]


def test_the_model_version_is_a_metric(retriever: Retriever, registry: CollectorRegistry) -> None:
    labels = {"model_version": retriever.model_version}
    assert registry.get_sample_value("recipe_retriever_model_info", labels) == 1


def test_every_series_is_there_before_anything_happens(registry: CollectorRegistry) -> None:
    RetrieverMetrics(registry)
    for decision in Decision:
        assert registry.get_sample_value("recipe_retriever_decisions_total", {"decision": decision.value}) == 0
    for stage in ("queue", "encode", "search", "verify", "fetch", "count", "total"):
        assert registry.get_sample_value("recipe_retriever_stage_seconds_count", {"stage": stage}) == 0
    for method, code in (("Retrieve", "UNAVAILABLE"), ("ListFacts", "OK")):
        assert registry.get_sample_value("recipe_retriever_calls_total", {"method": method, "code": code}) == 0


def test_a_store_that_does_not_answer_is_an_error_and_no_decision(
    store: EdgeStore, retriever: Retriever, registry: CollectorRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    def search(*_: object, **__: object) -> None:
        raise StoreUnavailableError("the store is away")

    monkeypatch.setattr(store, "search", search)
    with pytest.raises(StoreUnavailableError):
        retriever.retrieve("cities", "north", NOW)
    assert not any("decisions" in name for name in counts(registry))
