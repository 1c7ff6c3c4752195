"""From a Kafka record to a fact.

The record's key is `namespace/fact_id`. Its value is a `recipe_protos.knowledge.v1.KnowledgeUpdate`, as
proto3 JSON or as binary protobuf; the `content-type` header tells which, and without one it is JSON. The
attributes of a CloudEvent in binary mode (headers `ce_*`) fill in what the value leaves out. A null value,
a tombstone, is a retraction. A dead letter that was re-driven keeps its first place in the log: the header
`recipe-redriven-from` says where that was.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final, Literal, Protocol, TypeVar

from google.protobuf import json_format
from google.protobuf.message import DecodeError
from pydantic import BaseModel, ValidationError

from recipe_common.errors import FieldViolation, InvalidArgumentError
from recipe_common.knowledge_update import FACT_ID, NAMESPACE, CloudEvent, Update, decode_json, violations
from recipe_protos.knowledge.v1.knowledge_pb2 import KnowledgeUpdate
from recipe_store.facts import Fact, LogPosition

JSON_TYPES: Final = frozenset({"application/json"})
PROTOBUF_TYPES: Final = frozenset({"application/protobuf", "application/x-protobuf"})
TOMBSTONE_REASON: Final = "tombstone"
ORIGIN_HEADER: Final = "recipe-redriven-from"  # topic/partition/offset
_OFFSET: Final = re.compile(r"\d{1,19}", re.ASCII)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

Stage = Literal["key", "headers", "decode", "validate", "encode"]
Model = TypeVar("Model", bound=BaseModel)


class KafkaRecord(Protocol):
    """A record as kafka-python has it; `timestamp` is in ms since the epoch, -1 if there is none."""

    @property
    def topic(self) -> str: ...
    @property
    def partition(self) -> int: ...
    @property
    def offset(self) -> int: ...
    @property
    def timestamp(self) -> int: ...
    @property
    def key(self) -> bytes | None: ...
    @property
    def value(self) -> bytes | None: ...
    @property
    def headers(self) -> Sequence[tuple[str, bytes | None]]: ...


class InvalidEventError(InvalidArgumentError):
    """A record that can never become a fact; `stage` says how far it came."""

    def __init__(self, stage: Stage, violations: Sequence[FieldViolation]) -> None:
        super().__init__(violations)
        self.stage = stage


@dataclass(frozen=True, slots=True)
class ParsedUpdate:
    """What an event says: the fact, and the text that the model is to encode for it."""

    fact: Fact  # or the marker of its retraction
    knowledge: str  # "" on a retraction
    update: Update  # as it was sent


def parse_record(record: KafkaRecord) -> ParsedUpdate:
    """The event of a record. Raises InvalidEventError, which names every wrong field."""
    namespace, fact_id = _parse_key(record.key)
    headers = _parse_headers(record.headers)
    event = _validated(CloudEvent, headers, "headers", "headers")
    if record.value is None:
        update = Update.model_validate(
            {"namespace": namespace, "fact_id": fact_id, "retract": {"reason": TOMBSTONE_REASON}}
        )
    else:
        update = _validated(Update, _decode(record.value, headers.get("content-type")), "validate", "value")
    if (update.namespace, update.fact_id) != (namespace, fact_id):
        raise _invalid("key", "key", "must be namespace/fact_id of the value; correct the one or the other")
    fact = _to_fact(update, event, record.timestamp, _position(record, headers.get(ORIGIN_HEADER)))
    return ParsedUpdate(fact, update.upsert.knowledge if update.upsert else "", update)


def _parse_key(key: bytes | None) -> tuple[str, str]:
    try:
        namespace, slash, fact_id = (key or b"").decode().partition("/")
    except UnicodeDecodeError:
        raise _invalid("key", "key", "must be UTF-8 text, namespace/fact_id") from None
    if not (namespace and slash and fact_id):
        raise _invalid("key", "key", "must be namespace/fact_id; publish the record with that key")
    try:
        return NAMESPACE.validate_python(namespace), FACT_ID.validate_python(fact_id)
    except ValidationError as error:
        raise InvalidEventError("key", violations(error, "key")) from error


def _parse_headers(headers: Sequence[tuple[str, bytes | None]]) -> dict[str, str]:
    """The headers that matter here, names in lower case; of several with one name the last counts."""
    parsed: dict[str, str] = {}
    for given, value in headers:
        name = given.lower()
        if value is None or not (name in ("content-type", ORIGIN_HEADER) or name.startswith("ce_")):
            continue
        try:
            parsed[name] = value.decode()
        except UnicodeDecodeError:
            raise _invalid("headers", name, "must be UTF-8 text") from None
    return parsed


def _position(record: KafkaRecord, origin: str | None) -> LogPosition:
    """Where the event stands among those of its fact: where it was published first, not where it was re-driven to."""
    if origin is None:
        return LogPosition(record.topic, record.partition, record.offset)
    place, _, offset = origin.rpartition("/")
    here = f"{record.topic}/{record.partition}"
    if place != here or not _OFFSET.fullmatch(offset) or int(offset) >= record.offset:
        raise _invalid("headers", ORIGIN_HEADER, f"must name an offset of {here} before {record.offset}; remove it")
    return LogPosition(record.topic, record.partition, int(offset))


def _decode(value: bytes, content_type: str | None) -> object:
    media_type = (content_type or "application/json").partition(";")[0].strip().lower()
    if media_type in JSON_TYPES:
        return _decode_json(value)
    if media_type in PROTOBUF_TYPES:
        return _decode_protobuf(value)
    known = ", ".join(sorted(JSON_TYPES | PROTOBUF_TYPES))
    raise _invalid("headers", "content-type", f"must be one of {known}; CloudEvents must be in binary mode")


def _decode_json(value: bytes) -> object:
    try:
        return decode_json(value)
    except ValueError as error:
        raise _invalid("decode", "value", str(error)) from error


def _decode_protobuf(value: bytes) -> object:
    """The proto3 JSON form of the message, so that one set of rules serves both."""
    try:
        message = KnowledgeUpdate.FromString(value)
    except DecodeError as error:
        raise _invalid("decode", "value", "must be a binary KnowledgeUpdate message") from error
    size = message.ByteSize()
    message.DiscardUnknownFields()  # type: ignore[attr-defined]  # the stubs lack it
    if message.ByteSize() != size:
        raise _invalid("decode", "value", "must have no fields that this service's contract does not know")
    try:
        return json_format.MessageToDict(message, preserving_proto_field_name=True)
    except (json_format.Error, ValueError, OverflowError) as error:
        raise _invalid("decode", "value", "must have timestamps in the years 1 to 9999") from error


def _validated(model: type[Model], data: object, stage: Stage, field: str) -> Model:
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise InvalidEventError(stage, violations(error, field)) from error


def _to_fact(update: Update, event: CloudEvent, timestamp: int, position: LogPosition) -> Fact:
    content = update.upsert
    return Fact(
        namespace=update.namespace,
        fact_id=update.fact_id,
        revision=update.revision,
        statement=content.text if content else "",
        subject=content.subject if content else "",
        aliases=content.aliases if content else (),
        valid_from=content.valid_from if content else None,
        valid_until=content.valid_until if content else None,
        labels=content.labels if content else {},
        event_id=update.event_id or event.ce_id or f"{position.topic}/{position.partition}/{position.offset}",
        event_time=update.event_time or event.ce_time or _record_time(timestamp),
        publisher=update.source.publisher or event.ce_source,
        uri=update.source.uri,
        position=position,
        retracted=update.retract is not None,
        retract_reason=update.retract.reason if update.retract else "",
        answer=content.answer if content else "",
    )


def _record_time(timestamp: int) -> datetime:
    if timestamp < 0:
        raise _invalid("validate", "event_time", "must be given, because the record has no timestamp either")
    try:
        return _EPOCH + timedelta(milliseconds=timestamp)
    except OverflowError:
        description = "must be given, because the record's timestamp is beyond the year 9999"
        raise _invalid("validate", "event_time", description) from None


def _invalid(stage: Stage, field: str, description: str) -> InvalidEventError:
    return InvalidEventError(stage, [FieldViolation(field, description)])
