"""Publishing knowledge updates to Kafka, checked by the same rules as the encoder's."""

import json
import uuid
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self

from kafka import KafkaProducer
from kafka.errors import KafkaError, KafkaTimeoutError
from kafka.producer.future import FutureRecordMetadata
from opentelemetry.trace import Span, SpanKind, use_span
from pydantic import ValidationError
from pydantic.alias_generators import to_camel

from recipe_common.clock import now_utc
from recipe_common.errors import InvalidArgumentError, UnavailableError
from recipe_common.knowledge_update import Update, violations
from recipe_common.tracing import carried_by, tracer
from recipe_protos.retriever.v1.retriever_pb2 import LogPosition

DEFAULT_KAFKA: Final = "127.0.0.1:9092"
DEFAULT_TOPIC: Final = "recipe.knowledge-updates.v1"
_PUBLISHER: Final = "recipe-client"
ACKNOWLEDGED_SECONDS: Final = 10.0
_CLOSE_SECONDS: Final = 2.0
_MAX_REQUEST_BYTES: Final = 64 * 2**20  # the broker decides what is too large
_MAX_UNACKNOWLEDGED: Final = 500


@dataclass(frozen=True, slots=True)
class PublishedEvent:
    """An acknowledged event and where it stands in the log."""

    namespace: str
    fact_id: str
    revision: int
    event_id: str
    topic: str
    partition: int
    offset: int

    @property
    def position(self) -> LogPosition:
        """Its place in the log, for who asks what must know it."""
        return LogPosition(topic=self.topic, partition=self.partition, offset=self.offset)


def complete(event: Mapping[str, Any]) -> dict[str, Any]:
    """A knowledge update (proto3 JSON form) with an id, a time and a publisher where it has none.

    Raises InvalidArgumentError naming every wrong field.
    """
    given = {name: value for name, value in event.items() if value not in (None, "")}
    completed = given | {
        name: value for name, value in _defaults().items() if name not in given and to_camel(name) not in given
    }
    if isinstance(source := completed.get("source"), Mapping) and not source.get("publisher"):
        completed["source"] = {**source, "publisher": _PUBLISHER}
    _checked(completed)
    return completed


def _defaults() -> dict[str, Any]:
    return {
        "event_id": str(uuid.uuid4()),
        "event_time": now_utc().isoformat().replace("+00:00", "Z"),
        "source": {},
    }


def _checked(event: Mapping[str, Any]) -> Update:
    try:
        return Update.model_validate(event)
    except ValidationError as error:
        raise InvalidArgumentError(violations(error, "event")) from error


def open_producer(bootstrap_servers: str) -> KafkaProducer:
    """A producer that all replicas acknowledge, idempotent; it gives up on a record after `ACKNOWLEDGED_SECONDS`."""
    timeout_ms = int(ACKNOWLEDGED_SECONDS * 1000)
    return KafkaProducer(
        bootstrap_servers=bootstrap_servers,
        acks="all",
        enable_idempotence=True,
        max_request_size=_MAX_REQUEST_BYTES,
        bootstrap_timeout_ms=timeout_ms,
        max_block_ms=timeout_ms,
        request_timeout_ms=timeout_ms,
        delivery_timeout_ms=timeout_ms,
    )


def close_producer(producer: KafkaProducer) -> None:
    """Disconnect. What could be unsent has been reported as not acknowledged by whoever waited for it."""
    with suppress(KafkaTimeoutError):
        producer.close(timeout=_CLOSE_SECONDS)


class Publisher:
    """A Kafka producer of knowledge updates: acknowledged by all replicas, idempotent.

    Every call raises UnavailableError when the broker does not acknowledge in time.
    """

    def __init__(self, bootstrap_servers: str = DEFAULT_KAFKA, topic: str = DEFAULT_TOPIC) -> None:
        self._topic = topic
        self._attributes = {"messaging.system": "kafka", "messaging.destination.name": topic}
        self._servers = bootstrap_servers
        try:
            self._producer = open_producer(bootstrap_servers)
        except (KafkaError, ValueError) as error:
            raise self._unavailable(error) from error

    def publish(self, event: Mapping[str, Any]) -> PublishedEvent:
        """Publish one knowledge update and wait for the acknowledgement. Raises InvalidArgumentError."""
        return self._acknowledged(*self._send(event))

    def publish_all(self, events: Iterable[Mapping[str, Any]]) -> Iterator[PublishedEvent]:
        """Publish knowledge updates in their order; each is yielded once it is acknowledged. Raises as `publish`."""
        sent: deque[tuple[Update, FutureRecordMetadata, Span]] = deque()
        for event in events:
            sent.append(self._send(event))
            if len(sent) == _MAX_UNACKNOWLEDGED:
                yield self._acknowledged(*sent.popleft())
        while sent:
            yield self._acknowledged(*sent.popleft())

    def close(self) -> None:
        """Disconnect."""
        close_producer(self._producer)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _send(self, event: Mapping[str, Any]) -> tuple[Update, FutureRecordMetadata, Span]:
        """The event on its way, and its span, which ends when it is acknowledged."""
        completed = complete(event)
        update = _checked(completed)
        key = f"{update.namespace}/{update.fact_id}".encode()
        value = json.dumps(completed, ensure_ascii=False).encode()
        span = tracer.start_span(f"publish {self._topic}", kind=SpanKind.PRODUCER, attributes=self._attributes)
        headers = [("content-type", b"application/json")]
        headers += [(name, value.encode()) for name, value in carried_by(span)]
        try:
            with use_span(span):
                return update, self._producer.send(self._topic, key=key, value=value, headers=headers), span
        except (KafkaError, ValueError) as error:
            span.end()
            raise self._unavailable(error) from error

    def _acknowledged(self, update: Update, sent: FutureRecordMetadata, span: Span) -> PublishedEvent:
        try:
            with use_span(span, end_on_exit=True):
                record = sent.get(timeout=2 * ACKNOWLEDGED_SECONDS)
        except KafkaError as error:
            raise self._unavailable(error) from error
        place = (record.topic, record.partition, record.offset)
        return PublishedEvent(update.namespace, update.fact_id, update.revision, update.event_id, *place)

    def _unavailable(self, error: Exception) -> UnavailableError:
        reason = str(error) or type(error).__name__
        return UnavailableError(
            f"Kafka at {self._servers} did not acknowledge ({reason}); "
            "start the stack with 'recipe up' or correct --kafka (RECIPE_KAFKA)"
        )
