"""Commits around a rebalance, on a real group."""

from collections.abc import Callable

import pytest
from kafka.errors import KafkaTimeoutError

from brokers import Topics, needs_fast_group_join
from encoder_harness import EncoderHarness, wait_for
from recipe_encoder.consumer import LogConsumer
from recipe_encoder.events import KafkaRecord

pytestmark = [needs_fast_group_join, pytest.mark.parametrize("assignment", ["group"])]


def open_log(harness: EncoderHarness, topics: Topics) -> LogConsumer:
    return LogConsumer(
        harness.broker,
        topics.updates,
        group_id=harness.group_id,
        assignment="group",
        batch_size=64,
        fetch_wait_ms=50,
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
    harness.upsert("f", "finished", partition=0)
    finished = read(log, 1)
    refuse_commits(log)
    log.finish(finished)
    offset = harness.upsert("g", "unfinished", partition=0)
    read(log, 1)
    other = open_log(harness, topics)
    again: list[KafkaRecord] = []

    def moved() -> bool:
        again.extend(log.poll(0.05))
        again.extend(other.poll(0.05))
        return bool(again)

    wait_for(moved, "the unfinished record to be read again")
    assert harness.committed() == 1
    assert [(record.partition, record.offset) for record in again] == [(0, offset)]
    log.close()
    other.close()
