"""Reading the log: assignment, micro-batches, and commits of what is finished.

A commit is a promise that everything before it has had its effect, so offsets are only ever marked as
finished by the caller, after the effect. A commit that fails while the group is rebalancing or the broker
is away loses nothing: the offsets are kept and tried again, and at worst records are read twice.
"""

import logging
import time
from collections.abc import Iterable, Sequence
from threading import Event
from typing import Final

from kafka import KafkaConsumer
from kafka.consumer.subscription_state import AsyncConsumerRebalanceListener
from kafka.errors import CommitFailedError, KafkaError, KafkaTimeoutError, RebalanceInProgressError, RetriableError
from kafka.structs import MemberState, OffsetAndMetadata, TopicPartition

from recipe_encoder.events import KafkaRecord
from recipe_encoder.settings import Assignment

logger = logging.getLogger(__name__)

_COMMIT_TIMEOUT_MS: Final = 10_000
_CLOSE_TIMEOUT_MS: Final = 5_000
_POSITION_TIMEOUT_MS: Final = 500
_PAUSED_POLL_SECONDS: Final = 0.2


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
    ) -> None:
        self._in_group = assignment == "group"
        self._finished: dict[TopicPartition, OffsetAndMetadata] = {}
        self._ends: dict[TopicPartition, int] = {}  # of the partitions at the start, as far as not yet read
        self._consumer = KafkaConsumer(
            bootstrap_servers=bootstrap_servers,
            group_id=group_id,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            max_poll_records=batch_size,
            fetch_max_wait_ms=fetch_wait_ms,
            reconnect_backoff_max_ms=1_000,
        )
        try:
            self._assign(topic)
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
        batches = self._consumer.poll(timeout_ms=int(timeout_seconds * 1000))
        return [record for batch in batches.values() for record in batch]

    def finish(self, records: Sequence[KafkaRecord]) -> None:
        """Commits the offsets after these records, whose effects the caller vouches for."""
        assigned = self._consumer.assignment()
        for record in records:
            partition = TopicPartition(record.topic, record.partition)
            # A partition can be lost in `hold`; its new owner reads the record again and commits for itself.
            if partition in assigned:
                self._finished[partition] = OffsetAndMetadata(record.offset + 1, "", -1)
        self.commit()

    def commit(self) -> None:
        """Commits what is finished and not yet committed.

        Raises kafka.errors.KafkaError if the broker refuses for good.
        """
        if not self._finished:
            return
        try:
            self._consumer.commit(dict(self._finished), timeout_ms=_COMMIT_TIMEOUT_MS)
        except (CommitFailedError, RebalanceInProgressError, RetriableError) as error:
            if isinstance(error, CommitFailedError) and not self._in_group:
                raise
            logger.warning("commit put off, records may be read twice: %r", error)
        else:
            self._finished.clear()

    def hold(self, seconds: float, stop: Event) -> None:
        """Takes no records but stays a member of the group, until the time is over or `stop` is set."""
        deadline = time.monotonic() + seconds
        while not stop.is_set() and (left := deadline - time.monotonic()) > 0:
            self._consumer.pause(*self._consumer.assignment())
            arrived = self._consumer.poll(timeout_ms=int(min(left, _PAUSED_POLL_SECONDS) * 1000))
            # Partitions that a rebalance brings during the poll are not paused yet.
            for partition, records in arrived.items():
                self._consumer.seek(partition, records[0].offset)

    def resume(self) -> None:
        """Takes records again after `hold`."""
        self._consumer.resume(*self._consumer.paused())

    def close(self) -> None:
        """Leaves the group and disconnects."""
        self._consumer.close(timeout_ms=_CLOSE_TIMEOUT_MS)

    def _assign(self, topic: str) -> None:
        if self._in_group:
            self._consumer.subscribe([topic], listener=_CommitOnRevoke(self._consumer, self._finished))
        else:
            partitions = [TopicPartition(topic, number) for number in self._consumer.partitions_for_topic(topic)]
            self._consumer.assign(partitions)
            self._ends = self._consumer.end_offsets(partitions)


class _CommitOnRevoke(AsyncConsumerRebalanceListener):  # type: ignore[misc]
    """Commits what is finished before partitions go to another member of the group.

    Runs in the client's own thread while the consumer's thread waits in `poll` or `close`.
    """

    def __init__(self, consumer: KafkaConsumer, finished: dict[TopicPartition, OffsetAndMetadata]) -> None:
        self._consumer = consumer
        self._finished = finished

    async def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        due = {partition: self._finished[partition] for partition in revoked if partition in self._finished}
        if due:
            try:
                await self._consumer.commit_async(due)
            except KafkaError as error:
                logger.warning("commit before a rebalance failed, records are read twice: %r", error)
        await self.on_partitions_lost(revoked)

    async def on_partitions_lost(self, lost: Iterable[TopicPartition]) -> None:
        for partition in lost:
            self._finished.pop(partition, None)

    async def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        logger.info("partitions assigned: %s", sorted(assigned))
