from types import SimpleNamespace

import pytest
from prometheus_client import CollectorRegistry

from recipe_retriever import fact_counts
from recipe_retriever.fact_counts import FactCounts
from recipe_retriever.metrics import RetrieverMetrics
from recipe_store.edge_store import EdgeStore
from retrieval_harness import axis, make_fact, make_write, retraction


class Clock:
    """Seconds that pass when they are told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr("recipe_retriever.fact_counts.time", SimpleNamespace(monotonic=lambda: self.now))


def write(store: EdgeStore, *names: str) -> None:
    store.write([make_write(make_fact(name), axis(0)) for name in names])


@pytest.fixture
def counts(store: EdgeStore, registry: CollectorRegistry) -> FactCounts:
    return FactCounts(store, 5.0, RetrieverMetrics(registry))


def test_a_count_is_of_one_namespace_and_not_of_what_is_retracted(store: EdgeStore, counts: FactCounts) -> None:
    write(store, "mayor", "river")
    store.write([make_write(make_fact(namespace="towns"), axis(0)), retraction()])
    assert [counts.of(name) for name in ("cities", "towns", "villages")] == [1, 1, 0]


def test_a_count_is_remembered_for_some_seconds(
    store: EdgeStore, counts: FactCounts, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch)
    assert counts.of("cities") == 0
    write(store, "mayor")
    clock.now += 4.9
    assert counts.of("cities") == 0
    clock.now += 0.1
    assert counts.of("cities") == 1


def test_of_many_namespaces_the_one_counted_longest_ago_is_forgotten(
    store: EdgeStore, counts: FactCounts, monkeypatch: pytest.MonkeyPatch, registry: CollectorRegistry
) -> None:
    monkeypatch.setattr(fact_counts, "NAMESPACES", 2)
    for name in ("a", "b", "c", "b", "c", "a"):
        counts.of(name)
    counted = registry.get_sample_value("recipe_retriever_stage_seconds_count", {"stage": "count"})
    assert counted == 4  # a, b, c, and a once more
