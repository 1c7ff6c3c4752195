"""Commits and pauses in cases that a real broker shows only by chance."""

from threading import Event
from typing import Any

import pytest
from kafka.errors import CommitFailedError, KafkaTimeoutError, RebalanceInProgressError
from kafka.structs import OffsetAndMetadata, TopicPartition

from encoder_records import Record
from recipe_encoder import consumer as consumer_module
from recipe_encoder.consumer import LogConsumer
from recipe_encoder.settings import Assignment

PARTITIONS = [TopicPartition("updates", 0), TopicPartition("updates", 1)]
Offsets = dict[TopicPartition, OffsetAndMetadata]


class Client:
    """Stands for kafka-python's consumer, with both partitions assigned."""

    def __init__(self) -> None:
        self.assigned = set(PARTITIONS)
        self.error: Exception | None = None
        self.attempts: list[dict[int, int]] = []
        self.arrivals: list[dict[TopicPartition, list[Record]]] = []
        self.stopped = Event()
        self.paused_partitions: set[TopicPartition] = set()
        self.sought: list[tuple[TopicPartition, int]] = []
        self.ends = dict.fromkeys(PARTITIONS, 0)
        self.positions: dict[TopicPartition, int | None] = dict.fromkeys(PARTITIONS, 0)

    def commit(self, offsets: Offsets, timeout_ms: int) -> None:
        self.attempts.append({partition.partition: offset.offset for partition, offset in offsets.items()})
        if self.error is not None:
            raise self.error

    def poll(self, timeout_ms: int) -> dict[TopicPartition, list[Record]]:
        if self.arrivals:
            return self.arrivals.pop(0)
        self.stopped.set()
        return {}

    def pause(self, *partitions: TopicPartition) -> None:
        self.paused_partitions |= set(partitions)

    def resume(self, *partitions: TopicPartition) -> None:
        self.paused_partitions -= set(partitions)

    def paused(self) -> set[TopicPartition]:
        return set(self.paused_partitions)

    def seek(self, partition: TopicPartition, offset: int) -> None:
        self.sought.append((partition, offset))

    def assignment(self) -> set[TopicPartition]:
        return set(self.assigned)

    def partitions_for_topic(self, topic: str) -> set[int]:
        return {0, 1}

    def assign(self, partitions: list[TopicPartition]) -> None:
        assert partitions == PARTITIONS

    def end_offsets(self, partitions: list[TopicPartition]) -> dict[TopicPartition, int]:
        return {partition: self.ends[partition] for partition in partitions}

    def position(self, partition: TopicPartition, timeout_ms: int) -> int | None:
        if self.error is not None:
            raise self.error
        return self.positions[partition]

    def subscribe(self, topics: list[str], listener: Any) -> None:
        assert topics == ["updates"]


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> Client:
    made = Client()
    monkeypatch.setattr(consumer_module, "KafkaConsumer", lambda **_: made)
    return made


def open_log(assignment: Assignment) -> LogConsumer:
    return LogConsumer("broker:9092", "updates", group_id="g", assignment=assignment, batch_size=64, fetch_wait_ms=50)


def records(*places: tuple[int, int]) -> list[Record]:
    return [Record(b"", partition=partition, offset=offset) for partition, offset in places]


@pytest.mark.parametrize("assignment", ["group", "manual"])
def test_the_offset_after_the_last_record_of_each_partition_is_committed(
    client: Client, assignment: Assignment
) -> None:
    log = open_log(assignment)
    log.finish(records((0, 3), (0, 4), (1, 9)))
    assert client.attempts == [{0: 5, 1: 10}]
    log.commit()
    assert len(client.attempts) == 1


@pytest.mark.parametrize("error", [KafkaTimeoutError(), RebalanceInProgressError(), CommitFailedError()])
def test_a_commit_that_is_put_off_goes_with_the_next_one(client: Client, error: Exception) -> None:
    log = open_log("group")
    client.error = error
    log.finish(records((0, 3), (1, 9)))
    client.error = None
    log.finish(records((1, 10)))
    assert client.attempts == [{0: 4, 1: 10}, {0: 4, 1: 11}]


def test_a_group_that_is_in_use_elsewhere_is_an_error_with_manual_assignment(client: Client) -> None:
    log = open_log("manual")
    client.error = CommitFailedError()
    with pytest.raises(CommitFailedError):
        log.finish(records((0, 3)))


def test_a_partition_lost_while_its_records_were_held_is_left_to_its_new_owner(client: Client) -> None:
    log = open_log("group")
    client.assigned = {PARTITIONS[1]}
    log.finish(records((0, 3), (1, 9)))
    assert client.attempts == [{1: 10}]


def test_records_that_arrive_while_holding_are_given_back(client: Client) -> None:
    log = open_log("group")
    client.arrivals = [{PARTITIONS[1]: records((1, 20), (1, 21))}]
    log.hold(3600.0, client.stopped)
    assert client.paused_partitions == set(PARTITIONS)
    assert client.sought == [(PARTITIONS[1], 20)]
    log.resume()
    assert client.paused_partitions == set()


def test_caught_up_means_that_what_the_log_held_at_the_start_is_read(client: Client) -> None:
    client.ends = {PARTITIONS[0]: 3, PARTITIONS[1]: 1}
    log = open_log("manual")
    assert not log.caught_up
    client.positions = {PARTITIONS[0]: 3, PARTITIONS[1]: None}
    client.error = KafkaTimeoutError()
    assert not log.caught_up
    client.error = None
    client.ends[PARTITIONS[0]] = 9  # what comes later does not count
    assert not log.caught_up
    client.positions[PARTITIONS[1]] = 1
    assert log.caught_up
