"""Commits around a rebalance, on a real group."""

from collections.abc import Callable
from typing import Any

import pytest
from kafka.errors import KafkaTimeoutError
from prometheus_client import CollectorRegistry

from brokers import Topics, needs_fast_group_join
from encoder_harness import EncoderHarness, wait_for
from recipe_encoder.consumer import LogConsumer
from recipe_encoder.events import KafkaRecord
from recipe_encoder.metrics import EncoderMetrics
from recipe_encoder.watchdog import Watchdog

pytestmark = [needs_fast_group_join, pytest.mark.parametrize("assignment", ["group"])]


def open_log(harness: EncoderHarness, topics: Topics, **changes: Any) -> LogConsumer:
    metrics = EncoderMetrics(CollectorRegistry())
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
        log.poll(0.05)  # it keeps its place in a partition that it keeps
        again.extend(other.poll(0.05))
        return bool(again)

    wait_for(moved, "the unfinished record of the partition that moved to be read again")
    # The other partition stays where it is, so nothing of it is committed or read again.
    assert harness.committed() == 1
    assert [record.offset for record in again] == [1]
    log.close()
    other.close()
