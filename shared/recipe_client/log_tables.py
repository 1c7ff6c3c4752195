"""What is in the log and its topics, as tables for the terminal and as plain values for JSON."""

from base64 import b64encode
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, Final

from google.protobuf import json_format
from google.protobuf.message import DecodeError
from rich.table import Table

from recipe_client.dead_letters import DeadLetter
from recipe_client.event_lines import BadLine
from recipe_client.redriving import Outcome
from recipe_client.topics import TopicsReport
from recipe_encoder.events import PROTOBUF_TYPES
from recipe_protos.knowledge.v1.knowledge_pb2 import KnowledgeUpdate

_SHOWN_CHARACTERS: Final = 100


def topics(report: TopicsReport) -> Table:
    """What was done to the topics, and what is left."""
    table = Table("topic", "setting", "is", "should be", "what to do")
    for name in report.created:
        table.add_row(name, "", "", "", "nothing: created")
    for each in report.mended:
        table.add_row(each.topic, each.setting, each.wanted, each.wanted, f"nothing: mended, was {each.found}")
    for each in report.differences:
        least = f"{each.wanted} or more" if each.wanted.isdigit() else each.wanted
        table.add_row(each.topic, each.setting, each.found, least, each.remedy)
    if not table.rows:
        table.add_row("all", "", "", "", "nothing: as they should be")
    return table


def dead_letters(letters: Collection[DeadLetter], count: int) -> Table:
    """Dead letters, a row each."""
    table = Table(
        "place", "event from", "stage", "error", "message", "key", title=f"{len(letters)} of {count} dead letters"
    )
    for letter in letters:
        words = (letter.stage, letter.error_class, letter.error_message, letter.event.key)
        table.add_row(_place(letter), _moment(letter.event.timestamp), *(_cut(printable(each)) for each in words))
    return table


def dead_letter(letter: DeadLetter) -> Table:
    """One dead letter, whole."""
    event = letter.event
    table = Table(show_header=False, min_width=60, show_lines=True)
    table.add_row("place", _place(letter))
    table.add_row("refused at", printable(f"{letter.stage}: {letter.error_class}"))
    table.add_row("message", printable(letter.error_message))
    table.add_row("event at", printable(f"{event.topic}/{event.partition}/{event.offset}"))
    table.add_row("event from", _moment(event.timestamp))
    table.add_row("key", printable(event.key))
    for name, value in event.headers:
        table.add_row(f"header {printable(name)}", printable(value))
    table.add_row("value", _value(letter))
    return table


def dead_letter_dict(letter: DeadLetter) -> dict[str, Any]:
    """One dead letter, for JSON: texts are made printable, `value_base64` (null on a tombstone) is the exact value."""
    event = letter.event
    return {
        "place": _place(letter),
        "stage": printable(letter.stage),
        "error_class": printable(letter.error_class),
        "error_message": printable(letter.error_message),
        "event": {
            "topic": printable(event.topic),
            "partition": event.partition,
            "offset": event.offset,
            "time": _moment(event.timestamp),
            "key": printable(event.key),
            "headers": [[printable(name), printable(value)] for name, value in event.headers],
            "value": _value(letter),
            "value_base64": None if event.value is None else b64encode(event.value).decode(),
        },
    }


def outcomes(found: Sequence[Outcome]) -> Table:
    """What becomes of dead letters that were to be re-driven."""
    table = Table("place", "key", "what becomes of it", "detail")
    for outcome in found:
        key = _cut(printable(outcome.letter.event.key))
        table.add_row(_place(outcome.letter), key, outcome.verdict, printable(outcome.detail))
    counts = Counter(outcome.verdict for outcome in found)
    table.caption = ", ".join(f"{count} {verdict}" for verdict, count in counts.items())
    return table


def outcome_dict(outcome: Outcome) -> dict[str, Any]:
    """The same of one, for JSON."""
    key = printable(outcome.letter.event.key)
    return {
        "place": _place(outcome.letter),
        "key": key,
        "verdict": outcome.verdict,
        "detail": printable(outcome.detail),
    }


def bad_lines(bad: Sequence[BadLine]) -> Table:
    """Lines that are no events."""
    table = Table("line", "field", "what it must be")
    for line in bad:
        table.add_row(str(line.number), printable(line.field), printable(line.description))
    return table


def numbers(title: str, counted: Mapping[str, int]) -> Table:
    """A summary."""
    table = Table(title, "events")
    for what, number in counted.items():
        table.add_row(what, str(number))
    return table


def printable(data: bytes | str | None) -> str:
    """What a terminal can show without obeying it: other characters and bytes are escaped, line breaks stay."""
    if data is None:
        return "(none)"
    text = data.decode(errors="backslashreplace") if isinstance(data, bytes) else data
    return "".join(
        character if character.isprintable() or character == "\n" else character.encode("unicode_escape").decode()
        for character in text
    )


def _value(letter: DeadLetter) -> str:
    """The event's value, from protobuf as JSON if it is that."""
    value = letter.event.value
    types = [
        (each or b"").decode(errors="replace") for name, each in letter.event.headers if name.lower() == "content-type"
    ]
    if value is not None and types and types[-1].partition(";")[0].strip().lower() in PROTOBUF_TYPES:
        with suppress(DecodeError, json_format.Error, ValueError, OverflowError):  # it is shown as bytes then
            return printable(
                json_format.MessageToJson(KnowledgeUpdate.FromString(value), preserving_proto_field_name=True)
            )
    return printable(value)


def _place(letter: DeadLetter) -> str:
    return f"{letter.place[0]}/{letter.place[1]}"


def _moment(timestamp: int) -> str:
    try:
        return (
            datetime.fromtimestamp(timestamp / 1000, UTC).isoformat(timespec="seconds") if timestamp >= 0 else "(none)"
        )
    except (OverflowError, ValueError):
        return f"{timestamp} ms after 1970"


def _cut(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _SHOWN_CHARACTERS else line[: _SHOWN_CHARACTERS - 1] + "…"
