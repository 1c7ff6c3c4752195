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


def test_a_fact_in_another_script_is_published_with_a_warning(sent: list[Mapping[str, Any]]) -> None:
    result = CliRunner().invoke(cli.app, ["publish", "f", "--prompt", "Столица Франции", "--answer", "Paris"])
    assert [event["fact_id"] for event in sent] == ["f"]
    assert result.stderr == (
        "warning: most letters of f are not Latin; the default text encoder and LLM know English; the fact is stored, "
        "but questions may not find it\n"
    )


def test_a_file_with_facts_in_another_script_is_published_with_one_warning(
    sent: list[Mapping[str, Any]], tmp_path: Path
) -> None:
    statements = ["東京は日本の首都です", "Paris is in France", "Москва", "Αθήνα", "القاهرة"]
    lines = [json.dumps({"fact_id": f"f{n}", "upsert": {"statement": each}}) for n, each in enumerate(statements)]
    (tmp_path / "facts.jsonl").write_text("\n".join(lines))
    result = CliRunner().invoke(cli.app, ["publish", "--file", str(tmp_path / "facts.jsonl")])
    assert len(sent) == 5
    assert result.stderr == (
        "warning: most letters of f0, f2, f3 and 1 more are not Latin; the default text encoder and LLM know English; "
        "the facts are stored, but questions may not find them\n"
    )


@pytest.mark.parametrize("prompt", ["The mayor of Kraków is", "2 + 2 =", "The word for reason in Greek, logos, is"])
def test_a_fact_in_latin_letters_is_published_without_a_word(sent: list[Mapping[str, Any]], prompt: str) -> None:
    result = CliRunner().invoke(cli.app, ["publish", "f", "--prompt", prompt, "--answer", "4"])
    assert (len(sent), result.stderr) == (1, "")
