"""`recipe publish`: what is refused before anything is sent, and files of events."""

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Self

import pytest
from typer.testing import CliRunner

from recipe_client import cli
from recipe_client.publishing import PublishedEvent
from recipe_common.errors import InvalidArgumentError

EVENT = {"fact_id": "f", "upsert": {"statement": "The river of Beton is\u2028Dee"}}


class Recorder:
    """A publisher that keeps what it is given."""

    sent: list[Mapping[str, Any]]

    def __init__(self, *_: str) -> None: ...

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None: ...

    def publish_all(self, events: Iterable[Mapping[str, Any]]) -> Iterator[PublishedEvent]:
        for event in events:
            self.sent.append(event)
            yield PublishedEvent("default", event["fact_id"], 0, event["event_id"], "updates", 0, len(self.sent))


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[Mapping[str, Any]]:
    Recorder.sent = []
    monkeypatch.setattr(cli, "Publisher", Recorder)
    return Recorder.sent


def publish(*arguments: str) -> str:
    result = CliRunner().invoke(cli.app, ["publish", *arguments])
    if result.exception is not None:
        raise result.exception
    return result.stdout


def test_a_file_of_events_is_published_in_order(tmp_path: Path, sent: list[Mapping[str, Any]]) -> None:
    file = tmp_path / "events.jsonl"
    second = {"factId": "f", "retract": {"reason": "wrong"}}
    # A line separator of Unicode within a string does not end a line of JSON.
    file.write_text(
        f"{json.dumps(EVENT, ensure_ascii=False)}\n\n{json.dumps(second | {'fact_id': 'g'} | {'factId': None})}\n"
    )
    printed = json.loads(publish("--file", str(file), "--json"))
    assert [(event["fact_id"], event["offset"], event["applied"]) for event in printed] == [
        ("f", 1, False),
        ("g", 2, False),
    ]
    assert sent[0]["upsert"] == EVENT["upsert"]


def test_every_wrong_line_is_named_and_nothing_is_sent(tmp_path: Path, sent: list[Mapping[str, Any]]) -> None:
    file = tmp_path / "events.jsonl"
    file.write_text(f'{json.dumps(EVENT)}\n{{"fact_id": "x"}}\n[1]\n{{\n')
    with pytest.raises(InvalidArgumentError) as raised:
        publish("--file", str(file))
    assert [violation.field.rpartition(":")[0] for violation in raised.value.violations] == [
        f"{file}:2", f"{file}:3", f"{file}:4",
    ]  # fmt: skip
    assert sent == []


@pytest.mark.parametrize("extra", [["--statement", "s"], ["--revision", "2"], ["--namespace", "n"], ["--label", "a=b"]])
def test_a_file_stands_alone(tmp_path: Path, sent: list[Mapping[str, Any]], extra: list[str]) -> None:
    with pytest.raises(InvalidArgumentError, match="file: holds whole events; give nothing but the file"):
        publish("--file", str(tmp_path / "events.jsonl"), *extra)
    assert sent == []


def test_flags_become_one_event(sent: list[Mapping[str, Any]]) -> None:
    publish("f", "--prompt", "The river is", "--answer", "Dee", "--valid-from", "2026-01-01", "--label", "k=v")
    (event,) = sent
    assert (event["fact_id"], event["namespace"]) == ("f", "default")
    assert event["upsert"]["valid_from"] == "2026-01-01T00:00:00Z"
    assert event["upsert"]["labels"] == {"k": "v"}
