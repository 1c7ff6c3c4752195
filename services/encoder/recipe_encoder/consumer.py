"""Reading the log: assignment, micro-batches, and commits of what is finished.

A commit is a promise that everything before it has had its effect, so offsets are only ever marked as
finished by the caller, after the effect. A commit that fails while the group is rebalancing or the broker
is away loses nothing: the offsets are kept and tried again, and at worst records are read twice.

Rebalances are cooperative (KIP-429): a partition that stays with its member is not interrupted. What is finished of a
partition that moves in order is committed first; of one that was lost nothing is, because it has a new owner already.
"""

import logging
from collections.abc import Iterable, Sequence
from typing import Final

from kafka import KafkaConsumer
from kafka.consumer.subscription_state import AsyncConsumerRebalanceListener
from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor
from kafka.errors import CommitFailedError, KafkaError, KafkaTimeoutError, RebalanceInProgressError, RetriableError
from kafka.structs import MemberState, OffsetAndMetadata, TopicPartition

from recipe_encoder.events import KafkaRecord
from recipe_encoder.metrics import EncoderMetrics, Rebalance
from recipe_encoder.settings import Assignment
from recipe_encoder.watchdog import Watchdog

logger = logging.getLogger(__name__)

_COMMIT_TIMEOUT_MS: Final = 10_000
_CLOSE_TIMEOUT_MS: Final = 5_000
_POSITION_TIMEOUT_MS: Final = 500
_LAG_TIMEOUT_MS: Final = 1_000
_PAUSED_POLL_MS: Final = 200
_HEARTBEAT_SECONDS: Final = 3.0


class LogConsumer:
    """A consumer of one topic that starts where its group last committed, or else at the earliest record.

    The topic must exist. Used by one thread. Raises kafka.errors.KafkaTimeoutError if no broker answers.
    """

    def __init__(
        self,
        bootstrap_servers: str,
        topic: str,
        *,
        group_id: str,
        assignment: Assignment,
        batch_size: int,
        fetch_wait_ms: int,
        watchdog: Watchdog,
        metrics: EncoderMetrics,
        group_instance_id: str | None = None,
        session_timeout_seconds: float = 45.0,
        max_poll_interval_seconds: float = 300.0,
    ) -> None:
        self._topic = topic
        self._in_group = assignment == "group"
        self._watchdog = watchdog
        self._metrics = metrics
        self._offsets = _Offsets()
        self._ends: dict[TopicPartition, int] = {}  # of the partitions at the start, as far as not yet read
        self._assignor = CooperativeStickyAssignor()
        heartbeat_seconds = min(_HEARTBEAT_SECONDS, session_timeout_seconds / 3)
        self._consumer = KafkaConsumer(
            bootstrap_servers=bootstrap_servers,
            group_id=group_id,
            group_instance_id=group_instance_id,
            session_timeout_ms=int(session_timeout_seconds * 1000),
            heartbeat_interval_ms=int(heartbeat_seconds * 1000),
            max_poll_interval_ms=int(max_poll_interval_seconds * 1000),
            partition_assignment_strategy=[self._assignor],
            enable_auto_commit=False,
            auto_offset_reset="earliest",  # the log is the truth: a new group reads all of it
            max_poll_records=batch_size,
            fetch_max_wait_ms=fetch_wait_ms,
            reconnect_backoff_max_ms=1_000,  # doubles from 50 ms, each 20 % shorter or longer at random
        )
        try:
            self._assign()
        except BaseException:
            self.close()
            raise

    @property
    def joined(self) -> bool:
        """Whether this consumer knows which partitions it has, be it none."""
        return not self._in_group or self._consumer.group_metadata().state == MemberState.STABLE

    @property
    def caught_up(self) -> bool:
        """Whether, with manual assignment, everything that the log held at the start has been polled."""
        self._ends = {part: end for part, end in self._ends.items() if not self._is_past(part, end)}
        return not self._ends

    def _is_past(self, partition: TopicPartition, end: int) -> bool:
        try:
            position = self._consumer.position(partition, timeout_ms=_POSITION_TIMEOUT_MS)
        except KafkaTimeoutError:
            return False
        return position is not None and position >= end  # None: not yet known

    def poll(self, timeout_seconds: float) -> list[KafkaRecord]:
        """The next micro-batch, in the log's order per partition; empty if nothing comes in time."""
        batches = self._poll(int(timeout_seconds * 1000))
        self._offsets.in_hand = {partition: records[0].offset for partition, records in batches.items()}
        return [record for batch in batches.values() for record in batch]

    def finish(self, records: Sequence[KafkaRecord]) -> None:
        """Commits the offsets after these records, the latest micro-batch, whose effects the caller vouches for."""
        self._offsets.finish(records)
        self.commit()

    def commit(self) -> None:
        """Commits what is finished and not yet committed.

        Raises kafka.errors.KafkaError if the broker refuses for good.
        """
        due = dict(self._offsets.finished)
        if not due:
            return
        try:
            self._consumer.commit(due, timeout_ms=_COMMIT_TIMEOUT_MS)
        except (CommitFailedError, RebalanceInProgressError, RetriableError) as error:
            if isinstance(error, CommitFailedError) and not self._in_group:
                raise
            logger.warning("commit put off, records may be read twice: %r", error)
        else:
            self._offsets.finished.clear()
            self._watchdog.committed(due)

    def hold(self) -> None:
        """Stays a member of the group for a moment without taking records; `resume` ends that."""
        self._consumer.pause(*self._consumer.assignment())
        arrived = self._poll(_PAUSED_POLL_MS)
        # Partitions that a rebalance brings during the poll are not paused yet.
        for partition, records in arrived.items():
            self._consumer.seek(partition, records[0].offset)

    def resume(self) -> None:
        """Takes records again after `hold`."""
        self._consumer.resume(*self._consumer.paused())

    def measure(self) -> None:
        """Tells the watchdog how many records are waiting.

        Raises kafka.errors.RetriableError if the broker does not answer within a second or so.
        """
        assigned = self._consumer.assignment()
        # A member without partitions asks too, to know whether the broker is there.
        ends = self._consumer.end_offsets(assigned or self._partitions(), timeout_ms=_LAG_TIMEOUT_MS)
        self._watchdog.measured({partition: max(ends[partition] - self._next(partition), 0) for partition in assigned})

    def close(self) -> None:
        """Leaves the group, unless it is a static member, and disconnects."""
        self._consumer.close(timeout_ms=_CLOSE_TIMEOUT_MS)

    def _poll(self, timeout_ms: int) -> dict[TopicPartition, list[KafkaRecord]]:
        # kafka-python 3.0.12 forgets a join that a change of the topic's metadata has started if it takes longer than
        # the poll, and then neither finishes it nor sends heartbeats. Asked for again, it goes on with that same join.
        if self._in_group and self._consumer.group_metadata().state == MemberState.REBALANCING:
            self._consumer._coordinator.request_rejoin()
        arrived: dict[TopicPartition, list[KafkaRecord]] = self._consumer.poll(timeout_ms=timeout_ms)
        return arrived

    def _next(self, partition: TopicPartition) -> int:
        """The first offset that is not finished."""
        in_hand = self._offsets.in_hand.get(partition)
        # Not the committed offset: what follows the last record, such as the end of a transaction, is never committed.
        position = self._consumer.position(partition, timeout_ms=_LAG_TIMEOUT_MS) if in_hand is None else in_hand
        if position is None:
            raise KafkaTimeoutError(f"the broker does not say where to read partition {partition.partition}")
        return int(position)

    def _partitions(self) -> list[TopicPartition]:
        return [TopicPartition(self._topic, number) for number in self._consumer.partitions_for_topic(self._topic)]

    def _assign(self) -> None:
        if self._in_group:
            listener = _Rebalance(self._consumer, self._assignor, self._offsets, self._watchdog, self._metrics)
            self._consumer.subscribe([self._topic], listener=listener)
            self._partitions()  # so that they are known when this member has to assign them
        else:
            partitions = self._partitions()
            self._consumer.assign(partitions)
            self._watchdog.assigned(partitions)
            self._ends = self._consumer.end_offsets(partitions)


class _Offsets:
    """How far each partition has come. A partition that goes is forgotten, even if it comes back."""

    def __init__(self) -> None:
        self.in_hand: dict[TopicPartition, int] = {}  # where the latest micro-batch starts, until it is finished
        self.finished: dict[TopicPartition, OffsetAndMetadata] = {}  # and not yet committed

    def finish(self, records: Iterable[KafkaRecord]) -> None:
        """The micro-batch at hand has had its effects, as far as its partitions have stayed here all the time."""
        for record in records:
            partition = TopicPartition(record.topic, record.partition)
            # The new owner of one that went reads the record again and commits for itself.
            if partition in self.in_hand:
                self.finished[partition] = OffsetAndMetadata(record.offset + 1, "", -1)
        self.in_hand.clear()

    def forget(self, partitions: Iterable[TopicPartition]) -> None:
        """These partitions are gone."""
        for partition in partitions:
            self.in_hand.pop(partition, None)
            self.finished.pop(partition, None)


class _Rebalance(AsyncConsumerRebalanceListener):  # type: ignore[misc]
    """Commits what is finished before partitions go to another member of the group, and drops what was lost.

    Runs in the client's own thread while the consumer's thread waits in `poll` or `close`.
    """

    def __init__(
        self,
        consumer: KafkaConsumer,
        assignor: CooperativeStickyAssignor,
        offsets: _Offsets,
        watchdog: Watchdog,
        metrics: EncoderMetrics,
    ) -> None:
        self._consumer = consumer
        self._assignor = assignor
        self._offsets = offsets
        self._watchdog = watchdog
        self._metrics = metrics

    async def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        due = {each: self._offsets.finished[each] for each in revoked if each in self._offsets.finished}
        if due:
            try:
                await self._consumer.commit_async(due)
            except KafkaError as error:
                logger.warning("commit before a rebalance failed, records are read twice: %r", error)
        self._drop("revoked", revoked)

    async def on_partitions_lost(self, lost: Iterable[TopicPartition]) -> None:
        # The client would go on to claim them when it joins again, and so take them from their new owners.
        self._assignor.member_assignment = None
        self._drop("lost", lost)

    async def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        logger.info("partitions assigned: %s", sorted(assigned))
        self._metrics.rebalances.labels("assigned").inc()
        self._watchdog.assigned(assigned)

    def _drop(self, change: Rebalance, partitions: Iterable[TopicPartition]) -> None:
        logger.info("partitions %s: %s", change, sorted(partitions))
        self._metrics.rebalances.labels(change).inc()
        self._offsets.forget(partitions)
        self._watchdog.gone(partitions)
