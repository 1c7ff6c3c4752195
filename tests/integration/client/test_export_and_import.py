"""`recipe export` and `recipe import`: what goes out comes in again, and every bad line is named."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import json_format
from kafka import KafkaProducer

from brokers import Topics
from integration.client.conftest import Recipe, run_recipe, start_recipe
from recipe_client import log_commands
from recipe_client.log import open_log
from recipe_common.embedded_broker import EmbeddedBroker, TopicSpec
from recipe_common.errors import InvalidArgumentError, NotFoundError, UnavailableError
from recipe_common.progress import with_progress
from recipe_protos.knowledge.v1.knowledge_pb2 import KnowledgeUpdate

MANY = 10_000
Publish = Callable[..., None]


@pytest.fixture
def publish(broker: str, topics: Topics) -> Iterator[Publish]:
    """Publishes an event as JSON, or raw bytes, under its key and waits for the acknowledgement."""
    producer = KafkaProducer(bootstrap_servers=broker)

    def send(key: str, event: dict[str, Any] | bytes | None, **options: Any) -> None:
        value = json.dumps(event).encode() if isinstance(event, dict) else event
        producer.send(topics.updates, key=key.encode(), value=value, **options).get(30)

    yield send
    producer.close(timeout=30)


def fact(fact_id: str, statement: str, revision: int = 0, namespace: str = "default") -> dict[str, Any]:
    return {"namespace": namespace, "factId": fact_id, "revision": revision, "upsert": {"statement": statement}}


def lines_of(*events: dict[str, Any]) -> str:
    return "".join(f"{json.dumps(event)}\n" for event in events)


def exported(recipe: Recipe, *arguments: str) -> list[dict[str, Any]]:
    result = recipe("export", *arguments)
    assert result.exit_code == 0, result.exception
    return [json.loads(line) for line in result.stdout.splitlines()]


def log_length(broker: str, topic: str) -> int:
    with open_log(broker, topic) as log:
        return len(list(log.records()))


def test_the_newest_event_of_each_fact_is_exported(recipe: Recipe, publish: Publish) -> None:
    publish("default/b", fact("b", "second", revision=2))
    publish("default/b", fact("b", "late and old", revision=1))
    publish("default/a", fact("a", "first"))
    publish("default/a", fact("a", "last"))
    publish("default/gone", fact("gone", "s", revision=4))
    publish("default/gone", None)
    publish("default/bad", b"{")
    publish("other/a", fact("a", "elsewhere", namespace="other"))
    lines = exported(recipe)
    assert [(line["namespace"], line["fact_id"], line["upsert"]["statement"]) for line in lines] == [
        ("default", "a", "last"),
        ("default", "b", "second"),
        ("other", "a", "elsewhere"),
    ]
    assert [line["upsert"]["statement"] for line in exported(recipe, "--namespace", "other")] == ["elsewhere"]
    (gone,) = [line for line in exported(recipe, "--retracted") if line["fact_id"] == "gone"]
    # The tombstone has taken over the revision that it withdraws.
    assert (gone["retract"], gone["revision"]) == ({"reason": "tombstone"}, "4")
    summary = recipe("export").stderr
    for row in (("exported", "3"), ("retractions left out", "1"), ("refused by the rules", "1")):
        assert any(row == tuple(cell.strip() for cell in line.split("│")[1:3]) for line in summary.splitlines()), row


def test_an_exported_event_says_all_that_the_published_one_did(recipe: Recipe, publish: Publish) -> None:
    update = KnowledgeUpdate(namespace="default", fact_id="f", revision=2**60)
    update.upsert.prompt, update.upsert.answer, update.upsert.subject = "The river is", "Dee \u2028", "Beton"
    update.upsert.aliases.extend(["B", "C"])
    update.upsert.labels["k"] = "v"
    update.upsert.valid_from.FromJsonString("2026-01-01T00:00:00.5Z")
    update.source.uri = "https://example.org"
    headers = [("content-type", b"application/protobuf"), ("ce_id", b"e-1"), ("ce_source", b"hr")]
    publish("default/f", update.SerializeToString(), headers=headers, timestamp_ms=1_000)
    line, end = recipe("export").stdout.split("\n")
    assert end == ""
    update.event_id, update.source.publisher = "e-1", "hr"
    update.event_time.seconds = 1
    assert json_format.Parse(line, KnowledgeUpdate()) == update


def test_an_export_is_imported_as_it_is(recipe: Recipe, publish: Publish, tmp_path: Path, broker: str) -> None:
    publish("default/a", fact("a", "first", revision=3))
    publish("default/gone", {"factId": "gone", "retract": {}})
    file = tmp_path / "facts.jsonl"
    assert "exported" in recipe("export", str(file), "--retracted").stdout
    before = file.read_text()
    assert recipe("import", str(file)).exit_code == 0
    assert len(before.splitlines()) == 2
    # Only the publisher is added where there was none.
    again = [json.loads(line) for line in recipe("export", "--retracted").stdout.splitlines()]
    assert again == [json.loads(line) | {"source": {"publisher": "recipe-client"}} for line in before.splitlines()]


def test_ten_thousand_facts_go_through_a_pipe_with_a_bar(
    recipe: Recipe, broker: str, topics: Topics, make_topics: Callable[[int], Topics]
) -> None:
    events = lines_of(*(fact(f"f-{number:05}", f"Statement {number}", revision=1) for number in range(MANY)))
    imported = recipe("import", "-", "--json", stdin=events)
    assert json.loads(imported.stdout) == {
        "published": MANY, "bad lines": 0, "good, but not published": 0, "errors": [],
    }  # fmt: skip
    assert "100%" in imported.stderr
    assert "publishing to" in imported.stderr

    copy = make_topics(1)
    text = recipe("export").stdout
    assert run_recipe("import", "--kafka", broker, "--topic", copy.updates, stdin=text).exit_code == 0
    assert run_recipe("export", "--kafka", broker, "--topic", copy.updates).stdout == text
    assert len(text.splitlines()) == MANY


BAD_LINES = [
    (b'{"fact_id": "x"}', "event", "must have exactly one of upsert and retract"),
    (b"[1]", "event", "must be a JSON object"),
    (b'{"fact_id": "x",', "event", "must be JSON in UTF-8: Expecting property name"),
    (b'{"fact_id": "\xff"}', "event", "must be JSON in UTF-8: 'utf-8' codec can't decode"),
    (b'{"fact_id": "x", "fact_id": "y", "retract": {}}', "event", "the field 'fact_id' is given twice"),
    (b"[" * 100_000, "event", "must not be nested that deeply"),
    (b'{"fact_id": "x", "retract": {}, "colour": 1}', "colour", "is not a field of a knowledge update"),
    (b'{"fact_id": "x", "revision": -1, "retract": {}}', "revision", "must be an integer from 0"),
    (b'{"fact_id": "x", "namespace": "a/b", "retract": {}}', "namespace", "must not contain '/'"),
]


def test_every_bad_line_is_named_and_nothing_is_published(recipe: Recipe, broker: str, topics: Topics) -> None:
    lines = [lines_of(fact("good", "s")).encode().strip(), b"", *(line for line, _, _ in BAD_LINES)]
    result = recipe("import", "--json", stdin=b"\n".join(lines))
    assert result.exit_code == 3
    printed = json.loads(result.stdout)
    assert (printed["published"], printed["bad lines"], printed["good, but not published"]) == (0, len(BAD_LINES), 1)
    assert [(each["number"], each["field"]) for each in printed["errors"]] == [
        (number, field) for number, (_, field, _) in enumerate(BAD_LINES, start=3)
    ]
    for error, (_, _, message) in zip(printed["errors"], BAD_LINES, strict=True):
        assert message in error["description"]
    assert log_length(broker, topics.updates) == 0


def test_good_lines_are_published_if_that_is_wished(recipe: Recipe) -> None:
    text = lines_of(fact("a", "s")) + "{\n" + lines_of(fact("b", "t"))
    result = recipe("import", "--skip-invalid", stdin=text)
    assert result.exit_code == 3
    (row,) = [line for line in result.stdout.splitlines() if "must be JSON" in line]
    assert [cell.strip() for cell in row.split("│")[1:3]] == ["2", "event"]
    assert [line["fact_id"] for line in exported(recipe)] == ["a", "b"]


@pytest.mark.parametrize("text", ["", "\n \n"])
def test_a_file_without_events_is_refused(recipe: Recipe, text: str) -> None:
    error = recipe("import", stdin=text).exception
    assert isinstance(error, InvalidArgumentError)
    assert "holds no event" in str(error)


def test_a_file_that_cannot_be_read_or_written_is_named(recipe: Recipe, tmp_path: Path) -> None:
    error = recipe("import", str(tmp_path / "missing.jsonl")).exception
    assert isinstance(error, InvalidArgumentError)
    assert "missing.jsonl cannot be read" in str(error)
    assert isinstance(recipe("export", str(tmp_path / "no" / "folder")).exception, FileNotFoundError)


@pytest.mark.parametrize("command", ["export", "import"])
def test_a_missing_topic_and_a_missing_broker_are_told_apart(broker: str, command: str) -> None:
    text = lines_of(fact("a", "s"))
    error = run_recipe(command, "--kafka", broker, "--topic", "nowhere", stdin=text).exception
    assert isinstance(error, NotFoundError)
    assert "'nowhere' does not exist" in str(error)
    error = run_recipe(command, "--kafka", "127.0.0.1:1", stdin=text).exception
    assert isinstance(error, UnavailableError)
    assert "correct --kafka" in str(error)


def test_a_broker_that_goes_away_leaves_a_count(monkeypatch: pytest.MonkeyPatch) -> None:
    with EmbeddedBroker(topics={"updates": TopicSpec()}) as own:

        def stop_after_some(items: Iterator[Any], what: str, total: float | None = None) -> Iterator[Any]:
            for number, item in enumerate(with_progress(items, what, total)):
                if "publishing" in what and number == 100:
                    own.stop()
                yield item

        monkeypatch.setattr(log_commands, "with_progress", stop_after_some)
        text = lines_of(*(fact(f"f-{number}", "s") for number in range(2_000)))
        error = run_recipe("import", "--kafka", own.bootstrap_servers, "--topic", "updates", stdin=text).exception
    assert isinstance(error, UnavailableError)
    count, _, rest = str(error).partition(" of ")
    assert 100 <= int(count) < 2_000
    assert rest.startswith("2000 events were acknowledged; ")


def test_a_reader_that_goes_away_ends_the_export_quietly(recipe: Recipe, broker: str, topics: Topics) -> None:
    text = lines_of(*(fact(f"f-{number}", "A statement of some length") for number in range(2_000)))
    assert recipe("import", stdin=text).exit_code == 0
    with start_recipe("export", "--kafka", broker, "--topic", topics.updates) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert json.loads(process.stdout.readline())["fact_id"] == "f-0"
        process.stdout.close()
        written = process.stderr.read()
        assert process.wait() == 1
    assert b"Traceback" not in written
    assert b"Exception ignored" not in written


def test_errors_are_one_line_and_exit_code_1() -> None:
    with start_recipe("export", "--kafka", "127.0.0.1:1") as process:
        out, err = process.communicate()
    assert (process.returncode, out) == (1, b"")
    (line,) = err.decode().splitlines()
    assert line.startswith("error: Kafka at 127.0.0.1:1 does not answer")
