"""Kafka records for tests without a broker."""

import json
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Record:
    """A record as a consumer gets it."""

    value: bytes | None
    key: bytes | None = b"test/f"
    headers: list[tuple[str, bytes | None]] = field(default_factory=list)
    timestamp: int = 1_000
    topic: str = "updates"
    partition: int = 1
    offset: int = 7


def json_record(event: dict[str, Any], **changes: Any) -> Record:
    """A record of the fact test/f whose value is `event` as JSON, with namespace and factId filled in."""
    value = {"namespace": "test", "factId": "f"} | event
    return Record(json.dumps(value).encode(), **changes)


def upsert(statement: str, **changes: Any) -> Record:
    """A record that says `statement` about the fact test/f."""
    return json_record({"upsert": {"statement": statement}}, **changes)
