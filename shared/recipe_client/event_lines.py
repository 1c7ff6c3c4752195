"""Events as JSON lines, each a KnowledgeUpdate in its proto3 JSON form."""

import json
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from recipe_client.publishing import complete
from recipe_common.errors import FieldViolation, InvalidArgumentError
from recipe_common.knowledge_update import decode_json
from recipe_encoder.events import InvalidEventError, KafkaRecord, ParsedUpdate, parse_record
from recipe_store.facts import Fact
from recipe_store.ordering import newest_facts

STANDARD: Final = Path("-")  # standard input or output


@dataclass(frozen=True, slots=True)
class BadLine:
    """A line that is no event: its number, counted from 1, and one thing that is wrong with it."""

    number: int
    field: str
    description: str


def read_lines(file: Path) -> list[bytes]:
    """The lines of a file or of standard input. Raises InvalidArgumentError if it cannot be read or holds nothing."""
    try:
        data = sys.stdin.buffer.read() if file == STANDARD else file.read_bytes()
    except OSError as error:
        raise InvalidArgumentError([FieldViolation("file", f"{file} cannot be read: {error}")]) from error
    if not data.strip():
        raise InvalidArgumentError([FieldViolation("file", f"{file} holds no event")])
    return data.split(b"\n")  # other line separators may stand within JSON strings


def read_events(lines: Iterable[bytes]) -> tuple[list[dict[str, Any]], list[BadLine]]:
    """The events of the lines, completed for publishing, and what is wrong with the others; blank lines are skipped."""
    events, bad = [], []
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                events.append(complete(_json_object(line)))
            except InvalidArgumentError as error:
                bad += [BadLine(number, each.field, each.description) for each in error.violations]
    return events, bad


def _json_object(line: bytes) -> dict[str, Any]:
    try:
        value = decode_json(line)
    except ValueError as error:
        raise InvalidArgumentError([FieldViolation("event", str(error))]) from error
    if not isinstance(value, dict):
        raise InvalidArgumentError([FieldViolation("event", "must be a JSON object")])
    return value


@dataclass(frozen=True, slots=True)
class Export:
    """The newest event of each fact as lines, in the order of their names, and how much was left out."""

    lines: list[str]
    retracted: int
    refused: int  # records that are no events


def export(records: Iterable[KafkaRecord], *, namespace: str | None = None, retracted: bool = False) -> Export:
    """Fold the records of a log, of one namespace or of all; `retracted` keeps the retractions."""
    refused: list[KafkaRecord] = []
    newest = newest_facts(((parsed.fact, parsed) for _, parsed in parse_all(records, refused)), {})
    chosen = [newest[name] for name in sorted(newest) if namespace in (None, name[0])]
    lines = [_line(fact, parsed) for fact, parsed in chosen if retracted or not fact.retracted]
    return Export(lines, len(chosen) - len(lines), len(refused))


def parse_all(records: Iterable[KafkaRecord], refused: list[KafkaRecord]) -> Iterator[tuple[KafkaRecord, ParsedUpdate]]:
    """The records that are events by the encoder's rules; what it would refuse goes to `refused`."""
    for record in records:
        try:
            yield record, parse_record(record)
        except InvalidEventError:
            refused.append(record)


def _line(fact: Fact, parsed: ParsedUpdate) -> str:
    """The event as it was, with what the encoder filled in, so that it says the same wherever it is imported."""
    update = parsed.update.model_dump(mode="json", exclude_defaults=True)
    source = {"publisher": fact.publisher, "uri": fact.uri}
    event: dict[str, Any] = {
        "event_id": fact.event_id,
        "namespace": fact.namespace,
        "fact_id": fact.fact_id,
        "revision": str(fact.revision),
        "event_time": fact.event_time.isoformat().replace("+00:00", "Z"),
        "source": {name: value for name, value in source.items() if value},
    }
    change = "retract" if fact.retracted else "upsert"
    return json.dumps(event | {change: update[change]}, ensure_ascii=False)
