"""The state of the base depends on the events alone, not on their order, batching or repetition."""

import uuid
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from contract.store.samples import axis, make_fact, make_write, prompt_of, same_tokens, tokens_of
from recipe_store import Fact, FactWrite
from recipe_store.point_store import PointStore

FACTS = ("a", "b")
NOW = datetime(2025, 6, 1, tzinfo=UTC)

examples = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@dataclass(frozen=True)
class Event:
    """An event of the log; its place in the list is its offset."""

    fact_id: str
    revision: int
    retracted: bool


def events(least_revision: int) -> st.SearchStrategy[list[Event]]:
    event = st.builds(Event, st.sampled_from(FACTS), st.integers(least_revision, 3), st.booleans())
    return st.lists(event, min_size=1, max_size=8)


def to_writes(log: Iterable[Event], namespace: str) -> list[FactWrite]:
    return [
        make_write(make_fact(namespace, event.fact_id, event.revision, offset, retracted=event.retracted))
        for offset, event in enumerate(log)
    ]


def apply_one_by_one(writes: Iterable[FactWrite]) -> dict[str, Fact]:
    """The rule as it is stated, on plain dictionaries."""
    state: dict[str, Fact] = {}
    for fact in (write.fact for write in writes):
        stored = state.get(fact.fact_id)
        if stored is None:
            state[fact.fact_id] = fact
            continue
        revision = fact.revision if fact.revision > 0 else stored.revision
        if (stored.revision, stored.position.offset) < (revision, fact.position.offset):
            state[fact.fact_id] = replace(fact, revision=revision)
    return state


def assert_state(store: PointStore, namespace: str, expected: dict[str, Fact]) -> None:
    assert {fact.fact_id: fact for fact in store.list(namespace, limit=10)[0]} == expected
    live = {fact_id: fact for fact_id, fact in expected.items() if not fact.retracted}
    assert store.count(namespace) == len(live)
    matches = store.search(axis(0), namespace=namespace, as_of=NOW, limit=10)
    assert {match.fact.fact_id: match.fact for match in matches} == live
    for match in matches:
        np.testing.assert_array_equal(store.prompt(match), prompt_of(match.fact.position.offset))
        assert same_tokens(match.tokens, tokens_of(match.fact.position.offset))


def assert_history(store: PointStore, namespace: str, written: Iterable[FactWrite], expected: dict[str, Fact]) -> None:
    """Every event is kept once, and what stands comes first."""
    written = list(written)
    for fact_id, newest in expected.items():
        history = store.history(namespace, fact_id)
        events = [write.fact.event_id for write in written if write.fact.fact_id == fact_id]
        assert sorted(fact.event_id for fact in history) == sorted(events)
        assert history[0] == newest
        order = [(fact.revision, fact.position.offset) for fact in history]
        assert order == sorted(order, reverse=True)


@examples
@given(data=st.data(), log=events(least_revision=1))
def test_revisioned_events_in_any_order_and_batching(store: PointStore, data: st.DataObject, log: list[Event]) -> None:
    namespace = f"test-{uuid.uuid4()}"
    writes = to_writes(log, namespace)
    delivered = data.draw(st.permutations(writes + data.draw(st.lists(st.sampled_from(writes), max_size=4))))
    while delivered:
        size = data.draw(st.integers(1, len(delivered)))
        store.write(delivered[:size])
        delivered = delivered[size:]
    expected = apply_one_by_one(sorted(writes, key=_order))
    assert_state(store, namespace, expected)
    assert_history(store, namespace, writes, expected)


@examples
@given(data=st.data(), log=events(least_revision=0))
def test_any_events_in_log_order_with_replays(store: PointStore, data: st.DataObject, log: list[Event]) -> None:
    namespace = f"test-{uuid.uuid4()}"
    writes = to_writes(log, namespace)
    applied = 0
    while applied < len(writes):
        start = data.draw(st.integers(0, applied))  # a consumer restarts at its last committed offset
        end = data.draw(st.integers(applied + 1, len(writes)))
        store.write(writes[start:end])
        applied = end
    expected = apply_one_by_one(writes)
    assert_state(store, namespace, expected)
    assert_history(store, namespace, writes, expected)


def _order(write: FactWrite) -> tuple[int, int]:
    return write.fact.revision, write.fact.position.offset
