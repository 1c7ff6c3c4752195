"""Facts as Qdrant points: their ids and payloads."""

import json
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from enum import Enum, StrEnum
from typing import Any, Final

from recipe_common.errors import FieldViolation, InvalidArgumentError
from recipe_store.facts import Fact, FactWrite, LogPosition
from recipe_store.prompt_codec import encode_prompt
from recipe_store.token_codec import encode_tokens

Payload = Mapping[str, Any]

LIVE: Final = "live"
RETRACTED: Final = "retracted"
POSITION: Final = "position"  # not a fact, but how far a partition of the log has been applied

_POINT_IDS: Final = uuid.UUID("ce80ccbb-bc20-4900-9319-3a62bba0cd7c")
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)


class Field(StrEnum):
    """Payload fields that filters use, and the large ones."""

    NAMESPACE = "namespace"
    STATE = "state"  # LIVE or RETRACTED; a keyword, because qdrant-edge 0.9 cannot filter on booleans
    VALID_FROM = "valid_from_us"  # microseconds since 1970 UTC, null = unbounded
    VALID_UNTIL = "valid_until_us"
    REVISION_HIGH = "revision_high"  # revision >> 32
    REVISION_LOW = "revision_low"  # revision & 0xffffffff
    OFFSET = "offset"
    FACT_ID = "fact_id"
    TOKENS = "tokens"
    PROMPT = "prompt"


class Part(Enum):
    """What is read of a payload: all but the fields that the value names, as these are most of it."""

    FACT = (Field.TOKENS.value, Field.PROMPT.value)
    WITH_TOKENS = (f"{Field.PROMPT.value}.data",)  # and with the prompt's digest
    WITH_PROMPT = (Field.TOKENS.value,)


KEYWORD_FIELDS: Final = (Field.NAMESPACE, Field.STATE)
HISTORY_FIELDS: Final = (Field.NAMESPACE, Field.FACT_ID)
VALIDITY_FIELDS: Final = (Field.VALID_FROM, Field.VALID_UNTIL)
ORDER_FIELDS: Final = (Field.REVISION_HIGH, Field.REVISION_LOW, Field.OFFSET)


def point_id(namespace: str, fact_id: str) -> str:
    """UUIDv5 of the pair. Written as JSON, ("a", "b/c") and ("a/b", "c") stay two names."""
    return str(uuid.uuid5(_POINT_IDS, json.dumps([namespace, fact_id])))


def revision_id(fact: Fact) -> str:
    """UUIDv5 of one revision of a fact: the event that it comes from."""
    place = fact.position
    name = [fact.namespace, fact.fact_id, place.topic, place.partition, place.offset]
    return str(uuid.uuid5(_POINT_IDS, json.dumps(name)))


def partition_id(topic: str, partition: int) -> str:
    """UUIDv5 of a partition of the log; no fact has it, as a fact's name is two strings."""
    return str(uuid.uuid5(_POINT_IDS, json.dumps([topic, partition])))


def epoch_microseconds(moment: datetime, field: str) -> int:
    """Microseconds since 1970 UTC; raises `InvalidArgumentError` naming `field` if there is no time zone."""
    if moment.tzinfo is None:
        raise InvalidArgumentError([FieldViolation(field, "must carry a time zone, for example UTC")])
    return (moment - _EPOCH) // _MICROSECOND


def revision_halves(revision: int) -> tuple[int, int]:
    """The upper and lower 32 bits, each exact as a double, which a revision above 2**53 is not."""
    return revision >> 32, revision & 0xFFFFFFFF


def to_payload(write: FactWrite) -> dict[str, Any]:
    """Everything the store keeps of a write but its vector."""
    fact = write.fact
    high, low = revision_halves(fact.revision)
    return {
        Field.NAMESPACE.value: fact.namespace,
        Field.FACT_ID.value: fact.fact_id,
        "revision": fact.revision,
        Field.REVISION_HIGH.value: high,
        Field.REVISION_LOW.value: low,
        "topic": fact.position.topic,
        "partition": fact.position.partition,
        Field.OFFSET.value: fact.position.offset,
        Field.STATE.value: RETRACTED if fact.retracted else LIVE,
        "retract_reason": fact.retract_reason,
        "statement": fact.statement,
        "answer": fact.answer,
        "subject": fact.subject,
        "aliases": list(fact.aliases),
        Field.VALID_FROM.value: _optional_microseconds(fact.valid_from, "valid_from"),
        Field.VALID_UNTIL.value: _optional_microseconds(fact.valid_until, "valid_until"),
        "labels": dict(fact.labels),
        "event_id": fact.event_id,
        "event_time_us": epoch_microseconds(fact.event_time, "event_time"),
        "publisher": fact.publisher,
        "uri": fact.uri,
        Field.TOKENS.value: None if write.tokens is None else encode_tokens(write.tokens),
        Field.PROMPT.value: None if write.prompt is None else encode_prompt(write.prompt),
    }


def position_payload(position: LogPosition) -> dict[str, Any]:
    """How far a partition has been applied. No namespace is empty, so no search or list of facts meets it."""
    return {
        Field.NAMESPACE.value: "",
        Field.STATE.value: POSITION,
        "topic": position.topic,
        "partition": position.partition,
        Field.REVISION_HIGH.value: 0,
        Field.REVISION_LOW.value: 0,
        Field.OFFSET.value: position.offset,
    }


def to_fact(payload: Payload) -> Fact:
    """The fact that `to_payload` was given."""
    return Fact(
        namespace=payload[Field.NAMESPACE],
        fact_id=payload[Field.FACT_ID],
        revision=payload["revision"],
        statement=payload["statement"],
        subject=payload["subject"],
        aliases=tuple(payload["aliases"]),
        valid_from=_optional_moment(payload.get(Field.VALID_FROM)),
        valid_until=_optional_moment(payload.get(Field.VALID_UNTIL)),
        labels=payload["labels"],
        event_id=payload["event_id"],
        event_time=_EPOCH + payload["event_time_us"] * _MICROSECOND,
        publisher=payload["publisher"],
        uri=payload["uri"],
        position=LogPosition(payload["topic"], payload["partition"], payload[Field.OFFSET]),
        retracted=payload[Field.STATE] == RETRACTED,
        retract_reason=payload["retract_reason"],
        answer=payload.get("answer", ""),  # a history may begin before answers were kept
    )


def _optional_microseconds(moment: datetime | None, field: str) -> int | None:
    return None if moment is None else epoch_microseconds(moment, field)


def _optional_moment(microseconds: int | None) -> datetime | None:
    return None if microseconds is None else _EPOCH + microseconds * _MICROSECOND
