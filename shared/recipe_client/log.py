"""Reading a topic from its start to where it ends now, without a consumer group."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from kafka import KafkaConsumer, TopicPartition
from kafka.errors import KafkaError

from recipe_common.embedded_broker import open_admin
from recipe_common.errors import NotFoundError, UnavailableError
from recipe_encoder.events import KafkaRecord

_REQUEST_MS: Final = 10_000
_POLL_MS: Final = 500
_ALL: Final = 2**31 - 1
_STALLED_SECONDS: Final = 30.0


@dataclass(frozen=True, slots=True)
class Log:
    """What a topic holds when it is opened: per partition the offsets from `starts` on and before `ends`.

    Reading the records corrects `ends`: Tansu does not count the last batch beyond its first record.
    """

    topic: str
    starts: Mapping[int, int]
    ends: dict[int, int]
    _consumer: KafkaConsumer

    @property
    def length(self) -> int:
        """How many records there are at most; compaction leaves gaps between offsets."""
        return sum(max(0, self.ends[partition] - start) for partition, start in self.starts.items())

    def records(self) -> Iterator[KafkaRecord]:
        """The records, in the log's order per partition. Raises UnavailableError if the broker stops answering."""
        pending = {TopicPartition(self.topic, each) for each in self.starts if self.starts[each] < self.ends[each]}
        self._consumer.assign(list(pending))
        for partition in pending:
            self._consumer.seek(partition, self.starts[partition.partition])
        deadline = time.monotonic() + _STALLED_SECONDS
        while pending:
            arrived = self._consumer.poll(timeout_ms=_POLL_MS)
            for records in arrived.values():
                yield from records
            done = {each for each in pending if self._is_past(each)}
            if arrived or done:
                deadline = time.monotonic() + _STALLED_SECONDS
            elif time.monotonic() > deadline:
                raise UnavailableError(f"no record of {self.topic} came for {_STALLED_SECONDS:g} s; is the broker up?")
            pending -= done

    def _is_past(self, partition: TopicPartition) -> bool:
        position: int = self._consumer.position(partition)
        if position < self.ends[partition.partition]:
            return False
        self.ends[partition.partition] = position
        return True


@contextmanager
def open_log(bootstrap_servers: str, topic: str, starts: Mapping[int, int] | None = None) -> Iterator[Log]:
    """The topic as it is now, from the offsets `starts` of the partitions named there, else from its beginning.

    Raises NotFoundError if the topic does not exist, and UnavailableError if the broker does not answer, also while
    the block reads.
    """
    require_topic(bootstrap_servers, topic)
    with _consumer(bootstrap_servers) as consumer:
        try:
            partitions = [TopicPartition(topic, number) for number in consumer.partitions_for_topic(topic)]
            if starts is None:
                first = consumer.beginning_offsets(partitions, timeout_ms=_REQUEST_MS)
                starts = {each.partition: offset for each, offset in first.items()}
            ends = consumer.end_offsets(partitions, timeout_ms=_REQUEST_MS)
            yield Log(topic, starts, {each.partition: offset for each, offset in ends.items()}, consumer)
        except KafkaError as error:
            raise _unanswered(bootstrap_servers, error) from error


def require_topic(bootstrap_servers: str, topic: str) -> None:
    """Raises NotFoundError if the topic does not exist, and UnavailableError; asked so that no broker creates it."""
    try:
        with open_admin(bootstrap_servers) as admin:
            exists = topic in admin.list_topics()
    except (KafkaError, ValueError) as error:
        raise _unanswered(bootstrap_servers, error) from error
    if not exists:
        raise NotFoundError(
            f"topic: {topic!r} does not exist at {bootstrap_servers}; run 'recipe topics' or correct --topic"
        )


def _consumer(bootstrap_servers: str) -> KafkaConsumer:
    return KafkaConsumer(
        bootstrap_servers=bootstrap_servers,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        bootstrap_timeout_ms=_REQUEST_MS,
        # Where the end counts only the first record of the last batch, the poll that reaches it must take it whole.
        max_poll_records=_ALL,
    )


def _unanswered(bootstrap_servers: str, error: Exception) -> UnavailableError:
    reason = str(error) or type(error).__name__
    return UnavailableError(f"Kafka at {bootstrap_servers} does not answer ({reason}); correct --kafka (RECIPE_KAFKA)")
