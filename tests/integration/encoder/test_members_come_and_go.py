"""One member, then three, then one again, while events keep coming: nothing lost, nothing committed by who lost it."""

import random
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from kafka import KafkaConsumer, TopicPartition

from brokers import Topics, needs_fast_group_join
from encoder_harness import EncoderHarness
from recipe_encoder.worker import Worker
from waiting import DEADLINE_SECONDS, wait_for

PARTITIONS = 6
FACTS = 40
EVENTS_PER_SECOND = 200
COMMITS = "__consumer_offsets"

pytestmark = [needs_fast_group_join, pytest.mark.parametrize("assignment", ["group"])]


@pytest.fixture
def topics(make_topics: Callable[[int], Topics]) -> Topics:
    return make_topics(PARTITIONS)


class Publisher:
    """Publishes revisions of a few facts, some of them retractions, in disorder; knows what must be left of them."""

    def __init__(self, harness: EncoderHarness, seed: int) -> None:
        self.published = 0
        self.newest: dict[str, tuple[int, str | None]] = {}
        self._harness = harness
        self._random = random.Random(seed)

    def publish(self) -> None:
        number = self._random.randrange(FACTS)
        fact_id, revision = f"f{number}", self._random.randrange(1, 2**40)
        statement = None if self._random.random() < 0.1 else f"{fact_id} in revision {revision}"
        place = {"partition": number % PARTITIONS}
        if statement is None:
            self._harness.retract(fact_id, revision, **place)
        else:
            self._harness.upsert(fact_id, statement, revision, **place)
        self.published += 1
        self.newest[fact_id] = max(self.newest.get(fact_id, (0, None)), (revision, statement))

    @contextmanager
    def running(self) -> Iterator[None]:
        """Publishes while the block runs."""
        stop = threading.Event()

        def publish() -> None:
            while not stop.wait(1 / EVENTS_PER_SECOND):
                self.publish()

        thread = threading.Thread(target=publish)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join(DEADLINE_SECONDS)


def commits(harness: EncoderHarness) -> dict[int, list[int]]:
    """Every offset that the group has committed, per partition and in the order of the commits, by the broker's log."""
    found: dict[int, list[int]] = {}
    with KafkaConsumer(bootstrap_servers=harness.broker, auto_offset_reset="earliest") as consumer:
        places = [TopicPartition(COMMITS, number) for number in consumer.partitions_for_topic(COMMITS)]
        consumer.assign(places)
        ends = consumer.end_offsets(places)
        deadline = time.monotonic() + DEADLINE_SECONDS
        while any(consumer.position(place) < ends[place] for place in places):
            assert time.monotonic() < deadline
            for records in consumer.poll(timeout_ms=500).values():
                for record in records:
                    _note(found, record.key, record.value, harness)
    return found


def _note(found: dict[int, list[int]], key: bytes, value: bytes | None, harness: EncoderHarness) -> None:
    """Kafka's own format: version, group, topic, partition -> version, offset, and more."""
    prefix = b"".join(
        struct.pack(">h", len(name)) + name for name in (harness.group_id.encode(), harness.topics.updates.encode())
    )
    if value is not None and key[2:-4] == prefix:
        (partition,), (offset,) = struct.unpack(">i", key[-4:]), struct.unpack(">q", value[2:10])
        found.setdefault(partition, []).append(offset)


def owned(worker: Worker) -> int:
    """How many partitions it has."""
    return len(worker._watchdog._partitions)


def wait_for_progress(harness: EncoderHarness, publisher: Publisher) -> None:
    """Until what is published by now is committed."""
    due = publisher.published
    wait_for(lambda: harness.committed() >= due, f"{due} records to be committed")


def test_members_that_come_and_go_under_load_lose_nothing(harness: EncoderHarness) -> None:
    publisher = Publisher(harness, seed=20)
    with harness.running() as first:
        assert first.ready.wait(DEADLINE_SECONDS)
        with publisher.running():
            wait_for_progress(harness, publisher)
            with harness.running() as second, harness.running() as third:
                wait_for(lambda: [owned(each) for each in (first, second, third)] == [2, 2, 2], "two partitions each")
                wait_for_progress(harness, publisher)
            wait_for(lambda: owned(first) == PARTITIONS, "all partitions to come back")
            wait_for_progress(harness, publisher)
        wait_for(lambda: harness.committed() == publisher.published, "everything to be committed")
    stored = {fact_id: (harness.fact(fact_id).revision, harness.statement(fact_id)) for fact_id in publisher.newest}
    assert stored == publisher.newest
    assert harness.dead_letters() == []
    assert harness.sample("recipe_encoder_rebalances_total", {"change": "lost"}) == 0
    history = commits(harness)
    assert sum(offsets[-1] for offsets in history.values()) == publisher.published
    for offsets in history.values():
        assert offsets == sorted(offsets)  # who lost a partition would commit less than its new owner
