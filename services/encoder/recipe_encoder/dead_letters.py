"""Dead letters: records that can never become a fact, kept whole for whoever has to mend them."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from kafka import KafkaProducer
from kafka.errors import KafkaError, KafkaTimeoutError
from kafka.producer.future import FutureRecordMetadata

from recipe_common.errors import UnavailableError
from recipe_encoder.events import InvalidEventError, KafkaRecord

HEADER_PREFIX: Final = "recipe-dlq-"
MAX_MESSAGE_CHARS: Final = 1_000
# The broker decides which record is too large, not this client.
_MAX_REQUEST_BYTES: Final = 64 * 2**20
_CLOSE_SECONDS: Final = 2.0


class DeadLetterError(UnavailableError):
    """A dead letter could not be written, so nothing may be committed; the message says what to do."""


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A record and why it was refused."""

    record: KafkaRecord
    error: InvalidEventError


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
