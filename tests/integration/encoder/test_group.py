"""Commits, pauses and membership around a rebalance, on a real group."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from kafka.errors import KafkaTimeoutError
from prometheus_client import CollectorRegistry

from brokers import Topics, needs_fast_group_join
from encoder_harness import EncoderHarness
from recipe_encoder.consumer import LogConsumer
from recipe_encoder.events import KafkaRecord
from recipe_encoder.metrics import EncoderMetrics
from recipe_encoder.watchdog import Watchdog
from waiting import wait_for

pytestmark = [needs_fast_group_join, pytest.mark.parametrize("assignment", ["group"])]


def open_log(harness: EncoderHarness, topics: Topics, **changes: Any) -> LogConsumer:
    """A member whose metrics are its own."""
    metrics = changes.pop("metrics", None) or EncoderMetrics(CollectorRegistry())
    return LogConsumer(
        harness.broker,
        topics.updates,
        group_id=harness.group_id,
        assignment="group",
        batch_size=64,
        fetch_wait_ms=50,
        watchdog=Watchdog(60.0, metrics),
        metrics=metrics,
        **changes,
    )


def read(log: LogConsumer, count: int) -> list[KafkaRecord]:
    taken: list[KafkaRecord] = []

    def complete() -> bool:
        taken.extend(log.poll(0.2))
        return len(taken) >= count

    wait_for(complete, f"{count} records")
    return taken


def poll_all(*logs: LogConsumer) -> list[list[KafkaRecord]]:
    """Polls them at the same time: a member takes part in a rebalance only while it polls."""
    with ThreadPoolExecutor(len(logs)) as pool:
        return list(pool.map(lambda log: log.poll(0.3), logs))


def poll_until(condition: Callable[[], bool], what: str, *logs: LogConsumer) -> None:
    """Until the members agree; no record is expected."""

    def polled() -> bool:
        assert poll_all(*logs) == [[] for _ in logs]
        return condition()

    wait_for(polled, what)


@pytest.fixture
def refuse_commits(monkeypatch: pytest.MonkeyPatch) -> Callable[[LogConsumer], None]:
    """Makes the client's own commit, though not the one in a rebalance, time out."""

    def refuse(offsets: object, timeout_ms: int) -> None:
        raise KafkaTimeoutError

    return lambda log: monkeypatch.setattr(log._consumer, "commit", refuse)


def test_what_is_finished_is_committed_when_the_group_is_left(
    harness: EncoderHarness, topics: Topics, refuse_commits: Callable[[LogConsumer], None]
) -> None:
    harness.upsert("f", "statement", partition=0)
    log = open_log(harness, topics)
    records = read(log, 1)
    refuse_commits(log)
    log.finish(records)
    assert harness.committed() == 0
    log.close()
    assert harness.committed() == 1


def test_what_is_finished_is_committed_before_partitions_move_and_what_is_not_is_read_again(
    harness: EncoderHarness, topics: Topics, refuse_commits: Callable[[LogConsumer], None]
) -> None:
    log = open_log(harness, topics)
    for partition in (0, 1):
        harness.upsert(f"f{partition}", "finished", partition=partition)
    finished = read(log, 2)
    refuse_commits(log)
    log.finish(finished)
    for partition in (0, 1):
        harness.upsert(f"g{partition}", "unfinished", partition=partition)
    read(log, 2)
    other = open_log(harness, topics)
    again: list[KafkaRecord] = []

    def moved() -> bool:
        again.extend(poll_all(log, other)[1])  # the first keeps its place in a partition that it keeps
        return bool(again)

    wait_for(moved, "the unfinished record of the partition that moved to be read again")
    # The other partition stays where it is, so nothing of it is committed or read again.
    assert harness.committed() == 1
    assert [record.offset for record in again] == [1]
    log.close()
    other.close()


def owned(log: LogConsumer) -> set[int]:
    return {place.partition for place in log._consumer.assignment()}


def rebalances(registry: CollectorRegistry) -> dict[str, float | None]:
    name = "recipe_encoder_rebalances_total"
    return {each: registry.get_sample_value(name, {"change": each}) for each in ("assigned", "revoked", "lost")}


def test_a_member_that_was_evicted_commits_nothing_of_what_it_held(harness: EncoderHarness, topics: Topics) -> None:
    registry = CollectorRegistry()
    metrics = EncoderMetrics(registry)
    quick = {"session_timeout_seconds": 6.0, "max_poll_interval_seconds": 1.0}
    evicted = open_log(harness, topics, metrics=metrics, **quick)
    harness.upsert("f", "first", partition=0)
    harness.upsert("g", "second", partition=0)
    held = read(evicted, 2)
    heir = open_log(harness, topics)
    again = read(heir, 2)
    assert [record.offset for record in again] == [record.offset for record in held]
    heir.finish(again[:1])
    evicted.finish(held)

    def is_back() -> bool:
        poll_all(evicted, heir)
        return evicted.joined

    wait_for(is_back, "the evicted member to join again")
    assert rebalances(registry)["lost"] == 1
    evicted.commit()
    assert harness.committed() == 1
    evicted.close()
    heir.close()


def test_partitions_that_a_rebalance_brings_while_it_holds_are_paused_too(
    harness: EncoderHarness, topics: Topics
) -> None:
    log = open_log(harness, topics)
    poll_until(lambda: owned(log) == {0, 1}, "both partitions", log)
    other = open_log(harness, topics)
    poll_until(lambda: len(owned(other)) == 1 and len(owned(log)) == 1, "a partition each", log, other)
    log.hold()
    for partition in (0, 1):
        harness.upsert(f"f{partition}", "published meanwhile", partition=partition)
    other.close()

    def brought_back() -> bool:
        log.hold()
        return owned(log) == {0, 1}

    wait_for(brought_back, "the other partition to come back")
    log.hold()
    assert {place.partition for place in log._consumer.paused()} == {0, 1}
    log.resume()
    assert sorted((record.partition, record.offset) for record in read(log, 2)) == [(0, 0), (1, 0)]
    log.close()


def test_the_restart_of_a_static_member_moves_no_partition(harness: EncoderHarness, topics: Topics) -> None:
    registry = CollectorRegistry()
    restarted = open_log(harness, topics, group_instance_id="encoder-0", session_timeout_seconds=20.0)
    poll_until(lambda: owned(restarted) == {0, 1}, "both partitions", restarted)
    other = open_log(harness, topics, metrics=EncoderMetrics(registry), group_instance_id="encoder-1")
    poll_until(lambda: len(owned(other)) == 1, "a partition each", restarted, other)
    places, before = owned(restarted), rebalances(registry)
    restarted.close()
    for _ in range(16):  # longer than the other one's interval of heartbeats, which would tell it of a rebalance
        other.poll(0.25)
    assert owned(other) == {0, 1} - places
    again = open_log(harness, topics, group_instance_id="encoder-0")
    poll_until(lambda: owned(again) == places, "the same partition", again, other)
    poll_until(lambda: other.joined, "nothing else to happen", again, other)
    assert rebalances(registry) == before == {"assigned": 1, "revoked": 0, "lost": 0}
    again.close()
    other.close()
