"""Commits and pauses in cases that a real broker shows only by chance."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from kafka.errors import CommitFailedError, KafkaTimeoutError, RebalanceInProgressError
from kafka.protocol.consumer.metadata import ConsumerProtocolAssignment
from kafka.structs import MemberState, OffsetAndMetadata, TopicPartition
from prometheus_client import CollectorRegistry

from encoder_records import Record
from recipe_encoder import consumer as consumer_module
from recipe_encoder.consumer import LogConsumer
from recipe_encoder.metrics import EncoderMetrics
from recipe_encoder.settings import Assignment
from recipe_encoder.watchdog import Watchdog

PARTITIONS = [TopicPartition("updates", 0), TopicPartition("updates", 1)]
Offsets = dict[TopicPartition, OffsetAndMetadata]


class Client:
    """Stands for kafka-python's consumer, with both partitions assigned."""

    listener: Any
    config: dict[str, Any]

    def __init__(self) -> None:
        self.assigned = set(PARTITIONS)
        self.state = MemberState.STABLE
        self.rejoins = 0
        self._coordinator = self
        self.error: Exception | None = None
        self.attempts: list[dict[int, int]] = []
        self.arrivals: list[dict[TopicPartition, list[Record]]] = []
        self.paused_partitions: set[TopicPartition] = set()
        self.sought: list[tuple[TopicPartition, int]] = []
        self.ends = dict.fromkeys(PARTITIONS, 0)
        self.positions: dict[TopicPartition, int | None] = dict.fromkeys(PARTITIONS, 0)

    def commit(self, offsets: Offsets, timeout_ms: int) -> None:
        self.attempts.append({partition.partition: offset.offset for partition, offset in offsets.items()})
        if self.error is not None:
            raise self.error

    def poll(self, timeout_ms: int) -> dict[TopicPartition, list[Record]]:
        return self.arrivals.pop(0) if self.arrivals else {}

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

    def group_metadata(self) -> Any:
        return SimpleNamespace(state=self.state)

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
        self.listener = listener

    def request_rejoin(self) -> None:
        self.rejoins += 1

    async def commit_async(self, offsets: Offsets) -> None:
        self.commit(offsets, 0)


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> Client:
    made = Client()

    def connect(**config: Any) -> Client:
        made.config = config
        return made

    monkeypatch.setattr(consumer_module, "KafkaConsumer", connect)
    return made


def open_log(assignment: Assignment) -> LogConsumer:
    metrics = EncoderMetrics(CollectorRegistry())
    return LogConsumer(
        "broker:9092",
        "updates",
        group_id="g",
        assignment=assignment,
        batch_size=64,
        fetch_wait_ms=50,
        watchdog=Watchdog(60.0, metrics),
        metrics=metrics,
    )


def read(log: LogConsumer, client: Client, *places: tuple[int, int]) -> list[Any]:
    """The records, polled as one micro-batch."""
    arrived = records(*places)
    client.arrivals.append({part: [r for r in arrived if r.partition == part.partition] for part in PARTITIONS})
    client.arrivals[-1] = {part: found for part, found in client.arrivals[-1].items() if found}
    return list(log.poll(1.0))


def records(*places: tuple[int, int]) -> list[Record]:
    return [Record(b"", partition=partition, offset=offset) for partition, offset in places]


@pytest.mark.parametrize("assignment", ["group", "manual"])
def test_the_offset_after_the_last_record_of_each_partition_is_committed(
    client: Client, assignment: Assignment
) -> None:
    log = open_log(assignment)
    log.finish(read(log, client, (0, 3), (0, 4), (1, 9)))
    assert client.attempts == [{0: 5, 1: 10}]
    log.commit()
    assert len(client.attempts) == 1


@pytest.mark.parametrize("error", [KafkaTimeoutError(), RebalanceInProgressError(), CommitFailedError()])
def test_a_commit_that_is_put_off_goes_with_the_next_one(client: Client, error: Exception) -> None:
    log = open_log("group")
    client.error = error
    log.finish(read(log, client, (0, 3), (1, 9)))
    client.error = None
    log.finish(read(log, client, (1, 10)))
    assert client.attempts == [{0: 4, 1: 10}, {0: 4, 1: 11}]


def test_a_group_that_is_in_use_elsewhere_is_an_error_with_manual_assignment(client: Client) -> None:
    log = open_log("manual")
    client.error = CommitFailedError()
    with pytest.raises(CommitFailedError):
        log.finish(read(log, client, (0, 3)))


def test_a_partition_revoked_while_its_records_were_held_is_left_to_its_new_owner(client: Client) -> None:
    log = open_log("group")
    held = read(log, client, (0, 3), (1, 9))
    asyncio.run(client.listener.on_partitions_revoked({PARTITIONS[0]}))
    asyncio.run(client.listener.on_partitions_assigned({PARTITIONS[0]}))  # back again, from where the other one came
    log.finish(held)
    assert client.attempts == [{1: 10}]


def test_what_is_finished_is_committed_on_revoke_and_dropped_when_lost(client: Client) -> None:
    log = open_log("group")
    client.error = KafkaTimeoutError()
    log.finish(read(log, client, (0, 3), (1, 9)))
    client.attempts.clear()
    client.error = None
    asyncio.run(client.listener.on_partitions_lost({PARTITIONS[1]}))
    asyncio.run(client.listener.on_partitions_revoked(set(PARTITIONS)))
    log.commit()
    assert client.attempts == [{0: 4}]


def test_a_member_that_lost_its_partitions_does_not_claim_them_when_it_joins_again(client: Client) -> None:
    open_log("group")
    (assignor,) = client.config["partition_assignment_strategy"]
    assignor.on_assignment(ConsumerProtocolAssignment(1, [("updates", [0, 1])], b""), 1)
    assert [list(owned.partitions) for owned in assignor.metadata(["updates"]).owned_partitions] == [[0, 1]]
    asyncio.run(client.listener.on_partitions_lost(set(PARTITIONS)))
    assert assignor.metadata(["updates"]).owned_partitions == []


def test_records_that_arrive_while_holding_are_given_back(client: Client) -> None:
    log = open_log("group")
    client.arrivals = [{PARTITIONS[1]: records((1, 20), (1, 21))}]
    log.hold()
    log.hold()
    assert client.paused_partitions == set(PARTITIONS)
    assert client.sought == [(PARTITIONS[1], 20)]
    log.resume()
    assert client.paused_partitions == set()


def test_a_join_that_outlasts_a_poll_is_asked_for_again_until_it_is_finished(client: Client) -> None:
    log = open_log("group")
    log.poll(1.0)
    assert client.rejoins == 0
    client.state = MemberState.REBALANCING
    log.poll(1.0)
    log.hold()
    assert client.rejoins == 2


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
