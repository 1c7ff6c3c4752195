"""What is kept of the prompts, and that nothing old or damaged comes out of it."""

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from recipe_retriever.metrics import RetrieverMetrics
from recipe_retriever.prompt_cache import PromptCache
from recipe_retriever.retrieval import Decision, Retriever
from recipe_store import CorruptPromptError, Match, StoreUnavailableError
from recipe_store.edge_store import EdgeStore
from retrieval_harness import (
    NOW,
    TableEncoder,
    axis,
    damage,
    make_fact,
    make_write,
    prompt_of,
    retraction,
)

PROMPT_BYTES = prompt_of(0).nbytes


@pytest.fixture
def retriever(store: EdgeStore, registry: CollectorRegistry) -> Retriever:
    return Retriever(TableEncoder({"east": axis(1)}), store, RetrieverMetrics(registry), cache_bytes=2 * PROMPT_BYTES)


def sources(registry: CollectorRegistry) -> tuple[float | None, float | None]:
    """Prompts that were fetched, and that were cached."""
    fetched, cached = ("recipe_retriever_prompts_total",) * 2
    return (
        registry.get_sample_value(fetched, {"source": "fetched"}),
        registry.get_sample_value(cached, {"source": "cached"}),
    )


def prompt_value(retriever: Retriever, query: str = "north") -> float | None:
    """The value that fills the prompt of a hit, None on a miss."""
    found = retriever.retrieve("cities", query, NOW)
    return None if found.prompt is None else float(found.prompt[0, 0])


def test_a_prompt_is_fetched_once(store: EdgeStore, retriever: Retriever, registry: CollectorRegistry) -> None:
    store.write([make_write(make_fact(), axis(0, 5.0), value=0.25)])
    assert [prompt_value(retriever) for _ in range(3)] == [0.25] * 3
    assert sources(registry) == (1, 2)
    assert registry.get_sample_value("recipe_retriever_cached_prompt_bytes") == PROMPT_BYTES


def test_a_superseded_or_retracted_fact_is_never_served(store: EdgeStore, retriever: Retriever) -> None:
    store.write([make_write(make_fact(revision=3), axis(0, 5.0), value=0.25)])
    assert prompt_value(retriever) == 0.25
    store.write([make_write(make_fact(revision=4), axis(0, 5.0), value=0.5)])
    assert prompt_value(retriever) == 0.5
    store.write([retraction(revision=5)])
    assert prompt_value(retriever) is None


def test_two_events_of_one_revision_are_told_apart(store: EdgeStore, retriever: Retriever) -> None:
    first = make_fact(revision=3)
    store.write([make_write(first, axis(0, 5.0), value=0.25)])
    assert prompt_value(retriever) == 0.25
    later = make_fact(revision=0, position=type(first.position)(first.position.topic, 3, 99))
    store.write([make_write(later, axis(0, 5.0), value=0.5)])
    found = retriever.retrieve("cities", "north", NOW)
    assert found.nearest is not None
    assert (found.nearest.candidate.fact.revision, prompt_value(retriever)) == (3, 0.5)


def test_the_least_recently_used_goes_first(
    store: EdgeStore, retriever: Retriever, registry: CollectorRegistry
) -> None:
    cache = PromptCache(store, 2 * PROMPT_BYTES, RetrieverMetrics(CollectorRegistry()))
    store.write([make_write(make_fact(name), axis(number, 5.0)) for number, name in enumerate("abc")])
    matches = {
        name: store.search(axis(number), namespace="cities", as_of=NOW, limit=1)[0] for number, name in enumerate("abc")
    }
    read: list[Match] = []
    fetch = store.prompt
    store.prompt = lambda match: read.append(match) or fetch(match)  # type: ignore[method-assign, func-returns-value]
    for name in "abacab":
        np.testing.assert_array_equal(cache.get(matches[name]), prompt_of(1.5))
    assert [match.fact.fact_id for match in read] == ["a", "b", "c", "b"]


def test_prompts_of_any_length_are_kept(store: EdgeStore, registry: CollectorRegistry) -> None:
    cache = PromptCache(store, 300 * PROMPT_BYTES, RetrieverMetrics(registry))
    lengths = {"a": 1, "b": 256}
    store.write([make_write(make_fact(name), axis(0, 5.0), tokens=length) for name, length in lengths.items()])
    matches = store.search(axis(0), namespace="cities", as_of=NOW, limit=2)
    for match in matches * 2:
        np.testing.assert_array_equal(cache.get(match), prompt_of(1.5, lengths[match.fact.fact_id]))
    size = prompt_of(0, 1).nbytes + prompt_of(0, 256).nbytes
    assert registry.get_sample_value("recipe_retriever_cached_prompt_bytes") == size


def test_a_cache_without_room_keeps_nothing(store: EdgeStore, registry: CollectorRegistry) -> None:
    retriever = Retriever(TableEncoder(), store, RetrieverMetrics(registry), cache_bytes=0)
    store.write([make_write(make_fact(), axis(0, 5.0))])
    assert [prompt_value(retriever) for _ in range(2)] == [1.5, 1.5]
    assert sources(registry) == (2, 0)


def test_a_prompt_that_was_damaged_after_it_was_cached_is_refused(store: EdgeStore, retriever: Retriever) -> None:
    store.write([make_write(make_fact(), axis(0, 5.0))])
    assert prompt_value(retriever) == 1.5
    damage(store, part="prompt")
    with pytest.raises(CorruptPromptError):
        prompt_value(retriever)


def test_a_fact_that_is_replaced_while_it_is_read_is_searched_for_again(
    store: EdgeStore, retriever: Retriever, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.write([make_write(make_fact(), axis(0, 5.0), value=0.25)])
    read = store.prompt

    def replaced_first(match: Match) -> object:
        monkeypatch.setattr(store, "prompt", read)
        store.write([retraction()])
        return read(match)

    monkeypatch.setattr(store, "prompt", replaced_first)
    assert retriever.retrieve("cities", "north", NOW).decision is Decision.EMPTY_BASE


def test_a_fact_that_never_stands_still_is_no_answer(
    store: EdgeStore, retriever: Retriever, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.write([make_write(make_fact(), axis(0, 5.0))])
    monkeypatch.setattr(store, "prompt", lambda _: None)
    with pytest.raises(StoreUnavailableError, match="was replaced 3 times while it was read; retry"):
        prompt_value(retriever)
