from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from recipe_common.errors import InvalidArgumentError
from recipe_retriever.metrics import RetrieverMetrics
from recipe_retriever.retrieval import Decision, Retriever
from recipe_store import StoreUnavailableError
from recipe_store.edge_store import EdgeStore, open_edge_store
from retrieval_harness import (
    KEY_SIZE,
    MODEL_VERSION,
    NOW,
    PROMPT_SHAPE,
    SENTINEL_SIMILARITY,
    TableEncoder,
    axis,
    make_fact,
    make_write,
    prompt_of,
    retraction,
)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[EdgeStore]:
    opened = open_edge_store(tmp_path / "store", MODEL_VERSION, KEY_SIZE, PROMPT_SHAPE)
    yield opened
    opened.close()


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


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
    np.testing.assert_array_equal(found.match.prompt, prompt_of(0.25))


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
        f"{stage}total": 4.0,
        f"{decision}hit": 2.0,
        f"{decision}below_sentinel": 1.0,
        f"{decision}empty_base": 1.0,
        "recipe_retriever_hit_margin_count": 2.0,
    }
    assert registry.get_sample_value("recipe_retriever_hit_margin_sum") == 6.0
    assert registry.get_sample_value("recipe_retriever_hit_margin_bucket", {"le": "2.0"}) == 0.0
    assert registry.get_sample_value("recipe_retriever_hit_margin_bucket", {"le": "5.0"}) == 2.0


def test_a_query_that_cannot_be_encoded_has_no_decision(retriever: Retriever, registry: CollectorRegistry) -> None:
    with pytest.raises(InvalidArgumentError, match="query: is 999 tokens long"):
        retriever.retrieve("cities", "too long", NOW)
    assert not any("decisions" in name or "margin" in name for name in counts(registry))


def test_a_store_that_does_not_answer_is_an_error_and_no_decision(
    store: EdgeStore, retriever: Retriever, registry: CollectorRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    def search(*_: object, **__: object) -> None:
        raise StoreUnavailableError("the store is away")

    monkeypatch.setattr(store, "search", search)
    with pytest.raises(StoreUnavailableError):
        retriever.retrieve("cities", "north", NOW)
    assert not any("decisions" in name for name in counts(registry))
