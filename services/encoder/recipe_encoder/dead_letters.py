"""Dead letters: records that can never become a fact, kept whole for whoever has to mend them."""

from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from kafka import KafkaConsumer, KafkaProducer
from kafka.errors import KafkaError, KafkaTimeoutError
from kafka.producer.future import FutureRecordMetadata
from kafka.structs import TopicPartition

from recipe_common.errors import FailedPreconditionError, UnavailableError
from recipe_encoder.events import InvalidEventError, KafkaRecord

HEADER_PREFIX: Final = "recipe-dlq-"
MAX_MESSAGE_CHARS: Final = 1_000
# The broker decides which record is too large, not this client.
_MAX_REQUEST_BYTES: Final = 64 * 2**20
_CLOSE_SECONDS: Final = 2.0
_LOOK_TIMEOUT_MS: Final = 1_000


class DeadLetterError(UnavailableError):
    """A dead letter could not be written, so nothing may be committed; the message says what to do."""


class TooManyDeadLettersError(FailedPreconditionError):
    """So much is refused that the fault is not in single records; the message says what to look at."""


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A record and why it was refused."""

    record: KafkaRecord
    error: InvalidEventError


class DeadLetterLimit:
    """Tells a few bad records from a fault of a publisher, or of this service, that would set the whole log aside.

    That is `max_in_a_row` of them one after the other, or more than `max_share` of the latest `window` records.
    """

    def __init__(self, max_in_a_row: int, max_share: float, window: int) -> None:
        self._max_in_a_row = max_in_a_row
        self._max_share = max_share
        self._window: deque[bool] = deque(maxlen=window)
        self._in_a_row = 0

    def check(self, records: Sequence[KafkaRecord], letters: Sequence[DeadLetter]) -> None:
        """Counts a finished micro-batch. Raises TooManyDeadLettersError if there have been too many."""
        refused = {(letter.record.partition, letter.record.offset) for letter in letters}
        longest = 0
        for record in records:
            is_refused = (record.partition, record.offset) in refused
            self._window.append(is_refused)
            self._in_a_row = self._in_a_row + 1 if is_refused else 0
            longest = max(longest, self._in_a_row)
        if letters and (excess := self._excess(longest)):
            last = letters[-1]
            raise TooManyDeadLettersError(
                f"{excess} went to the dead letters, the last one in stage {last.error.stage!r} because of"
                f" {str(last.error)[:MAX_MESSAGE_CHARS]!r}; they are committed and none is lost: look at the headers"
                f" {HEADER_PREFIX}* of the dead letters and at what publishes to {last.record.topic!r}, then start the"
                " encoder again and publish what was refused once more"
            )

    def _excess(self, in_a_row: int) -> str | None:
        if in_a_row >= self._max_in_a_row:
            return f"{in_a_row} records in a row"
        if len(self._window) == self._window.maxlen and sum(self._window) > self._max_share * len(self._window):
            return f"{sum(self._window)} of the last {len(self._window)} records"
        return None


class DeadLetterWriter:
    """Writes to the topic of dead letters.

    Key, value, headers and timestamp stay as they are. Headers named `recipe-dlq-*` tell where the record
    came from and why it was refused; those of an earlier refusal are replaced. Two things Kafka clients
    cannot write back are a header without a value, which becomes empty, and a record with neither key nor
    value, which gets an empty key.
    """

    def __init__(self, bootstrap_servers: str, topic: str, timeout_seconds: float) -> None:
        """The topic must exist. Raises kafka.errors.KafkaTimeoutError if no broker answers."""
        self._topic = topic
        self._timeout_seconds = timeout_seconds
        timeout_ms = int(timeout_seconds * 1000)  # goes over the wire, where a float is an error
        self._producer = KafkaProducer(
            bootstrap_servers=bootstrap_servers,
            max_request_size=_MAX_REQUEST_BYTES,
            compression_type="gzip",  # a record that was accepted compressed would be too large as it is
            max_block_ms=timeout_ms,
            delivery_timeout_ms=timeout_ms,
            request_timeout_ms=timeout_ms,
        )

    def write(self, letters: Sequence[DeadLetter]) -> None:
        """Returns when the broker has acknowledged every one; raises DeadLetterError if it does not."""
        try:
            pending = [self._send(letter) for letter in letters]
            for future in pending:
                future.get(self._timeout_seconds)
        except KafkaError as error:
            raise DeadLetterError(
                f"the topic {self._topic!r} did not take a dead letter, so nothing is committed: {error}"
            ) from error

    def close(self) -> None:
        """Disconnects."""
        # Only a letter that `write` has already reported as refused can be unsent here.
        with suppress(KafkaTimeoutError):
            self._producer.close(timeout=_CLOSE_SECONDS)

    def _send(self, letter: DeadLetter) -> FutureRecordMetadata:
        record = letter.record
        kept = [(name, value or b"") for name, value in record.headers if not name.startswith(HEADER_PREFIX)]
        return self._producer.send(
            self._topic,
            key=b"" if record.key is None and record.value is None else record.key,
            value=record.value,
            headers=[*kept, *_reasons(letter)],
            timestamp_ms=record.timestamp if record.timestamp >= 0 else None,
        )


class OldestLetter:
    """Looks how old the oldest letter in the topic of the dead letters is, whoever wrote it.

    By a client of its own: what it asks for would make a group's consumer take up its partitions anew.
    """

    def __init__(self, bootstrap_servers: str, topic: str) -> None:
        self._topic = topic
        self._consumer = KafkaConsumer(bootstrap_servers=bootstrap_servers, group_id=None)

    def timestamp(self) -> int | None:
        """The time of its event in ms since the epoch, None if there is no letter. Raises kafka.errors.KafkaError."""
        places = [TopicPartition(self._topic, number) for number in self._consumer.partitions_for_topic(self._topic)]
        # The first record from the beginning of time on.
        found = self._consumer.offsets_for_times(dict.fromkeys(places, 0), timeout_ms=_LOOK_TIMEOUT_MS)
        return min((first.timestamp for first in found.values() if first and first.timestamp >= 0), default=None)

    def close(self) -> None:
        """Disconnects."""
        self._consumer.close(timeout_ms=int(_CLOSE_SECONDS * 1000))


def _reasons(letter: DeadLetter) -> list[tuple[str, bytes]]:
    reasons = {
        "topic": letter.record.topic,
        "partition": str(letter.record.partition),
        "offset": str(letter.record.offset),
        "stage": letter.error.stage,
        "error-class": type(letter.error).__name__,
        "error-message": str(letter.error)[:MAX_MESSAGE_CHARS],
    }
    return [(f"{HEADER_PREFIX}{name}", text.encode(errors="replace")) for name, text in reasons.items()]
