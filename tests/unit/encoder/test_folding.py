"""What the encoder leaves in the store depends on the log alone: not on batches, repetition or order of delivery."""

import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from encoder_harness import PROMPT_WIDTH, VECTOR_SIZE, HashEncoder, prompt_of, vector_of
from encoder_records import Record, json_record
from recipe_encoder.events import InvalidEventError, parse_record
from recipe_encoder.metrics import EncoderMetrics
from recipe_encoder.settings import EncoderSettings
from recipe_encoder.worker import Worker
from recipe_store import Fact
from recipe_store.edge_store import EdgeStore, open_edge_store

FACTS = ("a", "b")
BAD = ("is not JSON", "cannot be encoded")

examples = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@dataclass(frozen=True)
class Event:
    """An event of the log; its place in the list is its offset."""

    fact_id: str
    revision: int
    kind: str  # "upsert", "retract", "tombstone" or one of the BAD


def logs(kinds: Sequence[str], least_revision: int) -> st.SearchStrategy[list[Event]]:
    event = st.builds(Event, st.sampled_from(FACTS), st.integers(least_revision, 3), st.sampled_from(kinds))
    return st.lists(event, min_size=1, max_size=12)


def to_record(event: Event, namespace: str, offset: int) -> Record:
    place: dict[str, Any] = {"key": f"{namespace}/{event.fact_id}".encode(), "offset": offset}
    change: dict[str, Any] = {"upsert": {"statement": f"{event.fact_id} as of {offset}"}}
    match event.kind:
        case "tombstone":
            return Record(None, **place)
        case "is not JSON":
            return Record(b"{", **place)
        case "cannot be encoded":
            change = {"upsert": {"statement": f"unreadable {offset}"}}
        case "retract":
            change = {"retract": {}}
    return json_record({"namespace": namespace, "factId": event.fact_id, "revision": event.revision} | change, **place)


def reference_fold(records: Sequence[Record]) -> dict[str, Fact]:
    """The log applied one by one, by the rule as it is stated, on a plain dictionary."""
    state: dict[str, Fact] = {}
    for record in records:
        try:
            fact = parse_record(record).fact
        except InvalidEventError:
            continue
        if "unreadable" in fact.statement:
            continue
        stored = state.get(fact.fact_id)
        inherited = fact.revision or (stored.revision if stored else 0)
        if stored is None or (inherited, fact.position.offset) > (stored.revision, stored.position.offset):
            state[fact.fact_id] = replace(fact, revision=inherited)
    return state


class Log:
    """Stands for the consumer and for the topic of the dead letters; remembers what was committed and refused."""

    def __init__(self) -> None:
        self.committed: list[int] = []
        self.refused: set[int] = set()

    def finish(self, records: Sequence[Record]) -> None:
        self.committed.extend(record.offset for record in records)

    def write(self, letters: Sequence[Any]) -> None:
        self.refused |= {letter.record.offset for letter in letters}

    def resume(self) -> None:
        pass


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EdgeStore]:
    opened = open_edge_store(tmp_path_factory.mktemp("store") / "edge", "hash-1", VECTOR_SIZE, PROMPT_WIDTH)
    yield opened
    opened.close()


class Run:
    """An encoder that is given micro-batches by the test."""

    def __init__(self, store: EdgeStore) -> None:
        self.encoder = HashEncoder()
        self.log: Any = Log()
        self.registry = CollectorRegistry()
        configured = EncoderSettings(store_path=Path("unused"))
        self._worker = Worker(configured, self.encoder, store, EncoderMetrics(self.registry))

    def process(self, batches: Sequence[Sequence[Record]]) -> None:
        with ThreadPoolExecutor(1) as effects:
            for batch in batches:
                self._worker._process(batch, self.log, self.log, effects)

    def finished(self) -> int:
        """All events that were counted."""
        results = ("applied", "retracted", "dead_lettered")
        samples = [self.registry.get_sample_value("recipe_encoder_events_total", {"result": each}) for each in results]
        return int(sum(sample or 0 for sample in samples))


def assert_state(store: EdgeStore, namespace: str, expected: dict[str, Fact]) -> None:
    stored = {fact.fact_id: fact for fact in store.list(namespace, limit=10)[0]}
    assert stored == expected
    for fact in expected.values():
        if fact.retracted:
            continue
        matches = store.search(vector_of(fact.statement), namespace=namespace, as_of=fact.event_time, limit=10)
        (match,) = [match for match in matches if match.fact.fact_id == fact.fact_id]
        np.testing.assert_array_equal(store.prompt(match), prompt_of(fact.statement))


@examples
@given(data=st.data(), log=logs(("upsert", "upsert", "retract", "tombstone", *BAD), least_revision=0))
def test_any_log_in_any_batches_with_any_replays_leaves_its_fold(
    store: EdgeStore, data: st.DataObject, log: list[Event]
) -> None:
    namespace = f"test-{uuid.uuid4()}"
    records = [to_record(event, namespace, offset) for offset, event in enumerate(log)]
    batches, done = [], 0
    while done < len(records):
        start = data.draw(st.integers(0, done), label="an encoder restarts at its last commit")
        end = data.draw(st.integers(done + 1, len(records)), label="end of the batch")
        batches.append(records[start:end])
        done = end
    run = Run(store)
    run.process(batches)
    assert_state(store, namespace, reference_fold(records))
    delivered = [record.offset for batch in batches for record in batch]
    assert run.log.committed == delivered
    assert run.finished() == len(delivered)


@examples
@given(data=st.data(), log=logs(("upsert", "upsert", "retract", "is not JSON"), least_revision=1))
def test_revisions_make_any_order_of_delivery_the_same(store: EdgeStore, data: st.DataObject, log: list[Event]) -> None:
    namespace = f"test-{uuid.uuid4()}"
    records = [to_record(event, namespace, offset) for offset, event in enumerate(log)]
    again = data.draw(st.lists(st.sampled_from(records), max_size=6), label="delivered again")
    delivered = data.draw(st.permutations(records + again), label="delivered")
    cuts = sorted(data.draw(st.sets(st.integers(1, len(delivered))), label="cuts") | {0, len(delivered)})
    run = Run(store)
    run.process([delivered[start:end] for start, end in pairwise(cuts)])
    assert_state(store, namespace, reference_fold(records))
    assert run.log.refused == {record.offset for record in records if record.value == b"{"}


@examples
@given(log=logs(("upsert", "upsert", "retract"), least_revision=1), counted=st.booleans())
def test_one_batch_encodes_only_what_stands_in_the_end(store: EdgeStore, log: list[Event], counted: bool) -> None:
    namespace = f"test-{uuid.uuid4()}"
    events = log if counted else [replace(event, revision=0) for event in log]
    records = [to_record(event, namespace, offset) for offset, event in enumerate(events)]
    run = Run(store)
    run.process([records])
    live = {fact.statement for fact in reference_fold(records).values() if not fact.retracted}
    assert sorted(run.encoder.statements) == sorted(live)


def test_two_encoders_that_race_on_one_fact_leave_the_newest(tmp_path: Path) -> None:
    rounds, namespace = 40, "race"
    store = open_edge_store(tmp_path / "edge", "hash-1", VECTOR_SIZE, PROMPT_WIDTH)
    # Two stores with locks of their own over one engine, as two processes have with one server.
    rival = EdgeStore(store._facts, store._history, store._path, store._schema)
    records = [to_record(Event("a", revision, "upsert"), namespace, revision) for revision in range(1, rounds + 1)]
    odd, even = Run(store), Run(rival)
    with ThreadPoolExecutor(2) as pool:
        racers = [
            pool.submit(run.process, [[record] for record in part])
            for run, part in ((odd, records[::2] + records[::-2]), (even, records[1::2] + records[::-3]))
        ]
        for racer in racers:
            racer.result()
    assert_state(store, namespace, reference_fold(records))
    store.close()
