"""`recipe dlq`: what it shows of dead letters, what it re-drives, and what it never brings back."""

import base64
import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from brokers import Topics
from encoder_harness import EncoderHarness, HashEncoder, prompt_of, tokens_of, vector_of
from encoder_records import Record
from integration.client.conftest import Recipe, run_recipe
from recipe_client import redriving
from recipe_client.dead_letters import to_letter
from recipe_client.log import open_log
from recipe_common.errors import InvalidArgumentError, NotFoundError, UnavailableError
from recipe_encoder.events import KafkaRecord
from recipe_model.encoded import EncodedFact
from recipe_protos.knowledge.v1.knowledge_pb2 import KnowledgeUpdate
from waiting import wait_for


class BetterEncoder(HashEncoder):
    """A model that reads what the other one refuses."""

    def encode(self, statements: Sequence[str]) -> list[EncodedFact]:
        return [EncodedFact(vector_of(each), tokens_of(each), prompt_of(each)) for each in statements]


def consume(harness: EncoderHarness, *, dead_letters: int) -> None:
    """Lets an encoder work until it has read the whole log; then there are so many dead letters."""
    with open_log(harness.broker, harness.topics.updates) as log:
        end = log.length
    with harness.running():
        wait_for(lambda: harness.committed() >= end, "the end of the log")
    assert len(harness.dead_letters()) == dead_letters


def log_records(harness: EncoderHarness) -> list[KafkaRecord]:
    with open_log(harness.broker, harness.topics.updates) as log:
        return list(log.records())


def verdicts(recipe: Recipe, *arguments: str) -> dict[str, str]:
    """What becomes of each letter, by place."""
    result = recipe("dlq", "redrive", *arguments, "--json")
    return {each["place"]: each["verdict"] for each in json.loads(result.stdout)}


def test_letters_are_listed_by_stage_and_namespace(recipe: Recipe, harness: EncoderHarness) -> None:
    first = harness.publish(harness.key("a"), b"{", timestamp_ms=1_000)
    harness.publish(b"other/b", b'{"namespace": "other", "factId": "b"}')
    harness.upsert("c", "unreadable")
    consume(harness, dead_letters=3)

    listed = json.loads(recipe("dlq", "list", "--json").stdout)
    assert {each["stage"] for each in listed} == {"decode", "validate", "encode"}
    (letter,) = json.loads(recipe("dlq", "list", "--stage", "decode", "--json").stdout)
    assert (letter["error_class"], letter["event"]["topic"]) == ("InvalidEventError", harness.topics.updates)
    assert (letter["event"]["offset"], letter["event"]["time"]) == (first, "1970-01-01T00:00:01+00:00")
    (other,) = json.loads(recipe("dlq", "list", "--namespace", "other", "--json").stdout)
    assert other["event"]["key"] == "other/b"
    (latest,) = json.loads(recipe("dlq", "list", "--limit", "1", "--json").stdout)
    assert latest == listed[-1]

    table = recipe("dlq", "list", "--limit", "2").stdout
    assert "2 of 3 dead letters" in table
    assert "value: must be JSON in UTF-8" in recipe("dlq", "list", "--stage", "decode").stdout


def test_a_letter_is_shown_whole_and_cannot_command_the_terminal(recipe: Recipe, harness: EncoderHarness) -> None:
    value = b'{"fact_id": "\x1b[2J\xff\xc2\x9b1m \xe2\x80\xae"}\n[bold]'
    harness.publish(harness.key("a\x07"), value, headers=[("trace\x1b", b"\x00\x01")])
    consume(harness, dead_letters=1)
    shown = recipe("dlq", "show", "0/0").stdout
    assert not set("\x1b\x07\x00\x9b\u202e") & set(shown)
    for part in (r"\x1b[2J\xff\x9b1m \u202e", "[bold]", r"trace\x1b", r"\x00\x01", r"a\x07", "key: InvalidEventError"):
        assert part in shown
    printed = json.loads(recipe("dlq", "show", "0", "--json").stdout)
    assert base64.b64decode(printed["event"]["value_base64"]) == value


def test_a_protobuf_value_is_shown_as_json(recipe: Recipe, harness: EncoderHarness) -> None:
    update = KnowledgeUpdate(namespace=harness.namespace, fact_id="other")
    update.upsert.statement = "The key names another fact"
    headers = [("content-type", b"application/protobuf; charset=x")]
    harness.publish(harness.key("a"), update.SerializeToString(), headers=headers)
    harness.publish(harness.key("b"), b"junk", headers=headers)
    harness.publish(b"no-slash", None, headers=headers)
    consume(harness, dead_letters=3)
    values = {
        each["event"]["key"]: each["event"]["value"] for each in json.loads(recipe("dlq", "list", "--json").stdout)
    }
    assert '"statement": "The key names another fact"' in values[f"{harness.namespace}/a"]
    assert values[f"{harness.namespace}/b"] == "junk"
    assert values["no-slash"] == "(none)"


def test_a_redriven_letter_is_the_record_it_was_and_becomes_a_fact(recipe: Recipe, harness: EncoderHarness) -> None:
    offset = harness.upsert("a", "unreadable", timestamp_ms=5_000, headers=[("trace", b"t"), ("ce_source", b"hr")])
    consume(harness, dead_letters=1)
    original = log_records(harness)[0]

    result = recipe("dlq", "redrive", "0/0")
    assert (result.exit_code, "re-driven" in result.stdout) == (0, True)
    again = log_records(harness)[-1]
    place = f"{original.topic}/{original.partition}/{offset}"
    assert (again.key, again.value, again.timestamp) == (original.key, original.value, 5_000)
    assert again.partition == original.partition
    assert again.headers == [("trace", b"t"), ("ce_source", b"hr"), ("recipe-redriven-from", place.encode())]

    harness.encoder = BetterEncoder()
    consume(harness, dead_letters=1)
    assert harness.statement("a") == "unreadable"
    assert (harness.fact("a").position.offset, harness.fact("a").publisher) == (offset, "hr")

    assert verdicts(recipe, "--all") == {"0/0": "in the log already"}
    assert len(log_records(harness)) == 2


def test_a_dry_run_appends_nothing(recipe: Recipe, harness: EncoderHarness) -> None:
    harness.upsert("a", "unreadable")
    consume(harness, dead_letters=1)
    assert verdicts(recipe, "--all", "--dry-run") == {"0/0": "to re-drive"}
    assert len(log_records(harness)) == 1


@pytest.mark.parametrize(("old", "new"), [(0, 0), (3, 3), (3, 4), (3, 0)])
def test_an_old_event_is_not_redriven_over_a_newer_one(
    recipe: Recipe, harness: EncoderHarness, old: int, new: int
) -> None:
    harness.upsert("a", "unreadable", revision=old)
    consume(harness, dead_letters=1)
    harness.upsert("a", "newer", revision=new)
    consume(harness, dead_letters=1)
    result = recipe("dlq", "redrive", "--all")
    assert (result.exit_code, "superseded" in result.stdout) == (0, True)
    assert len(log_records(harness)) == 2


def test_a_retraction_is_newer_too(recipe: Recipe, harness: EncoderHarness) -> None:
    harness.upsert("a", "unreadable")
    consume(harness, dead_letters=1)
    harness.publish(harness.key("a"), None)
    consume(harness, dead_letters=1)
    assert verdicts(recipe, "--all") == {"0/0": "superseded"}


def test_a_higher_revision_is_redriven_past_later_events(recipe: Recipe, harness: EncoderHarness) -> None:
    harness.upsert("a", "unreadable", revision=5)
    harness.upsert("a", "late and old", revision=4)
    consume(harness, dead_letters=1)
    harness.encoder = BetterEncoder()
    assert verdicts(recipe, "--all") == {"0/0": "re-driven"}
    consume(harness, dead_letters=1)
    assert harness.statement("a") == "unreadable"


def test_of_several_letters_of_a_fact_only_the_newest_is_redriven(recipe: Recipe, harness: EncoderHarness) -> None:
    for statement, revision in (("unreadable 1", 1), ("unreadable 3", 3), ("unreadable 2", 2)):
        harness.upsert("a", statement, revision=revision)
    consume(harness, dead_letters=3)
    assert verdicts(recipe, "--all") == {"0/0": "superseded", "0/1": "re-driven", "0/2": "superseded"}
    harness.encoder = BetterEncoder()
    consume(harness, dead_letters=3)
    assert harness.statement("a") == "unreadable 3"


@pytest.mark.parametrize("revision", [0, 3])
def test_what_is_published_meanwhile_wins_in_the_store_and_stands_last_in_the_log(
    recipe: Recipe, harness: EncoderHarness, monkeypatch: pytest.MonkeyPatch, revision: int
) -> None:
    harness.upsert("a", "unreadable", revision=revision)
    consume(harness, dead_letters=1)
    append = redriving._Appender.append
    rivals = iter(["newer", "newest"])

    def append_late(self: Any, records: Sequence[KafkaRecord]) -> Any:
        if rival := next(rivals, None):
            harness.upsert("a", rival, revision=revision)
        return append(self, records)

    monkeypatch.setattr(redriving._Appender, "append", append_late)
    assert verdicts(recipe, "--all") == {"0/0": "re-driven"}

    values = [json.loads(record.value or b"")["upsert"]["statement"] for record in log_records(harness)]
    assert values == ["unreadable", "newer", "unreadable", "newest", "newer", "newest"]
    harness.encoder = BetterEncoder()
    consume(harness, dead_letters=1)
    assert harness.statement("a") == "newest"
    assert harness.fact("a").position.offset == 3


def test_a_redrive_that_was_killed_is_finished_by_the_next(
    recipe: Recipe, harness: EncoderHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    harness.upsert("a", "unreadable")
    consume(harness, dead_letters=1)
    append = redriving._Appender.append

    def append_late_and_die(self: Any, records: Sequence[KafkaRecord]) -> Any:
        harness.upsert("a", "newer")
        append(self, records)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(redriving._Appender, "append", append_late_and_die)
        recipe("dlq", "redrive", "--all")
    assert json.loads(log_records(harness)[-1].value or b"")["upsert"]["statement"] == "unreadable"

    assert verdicts(recipe, "--all") == {"0/0": "superseded"}
    assert json.loads(log_records(harness)[-1].value or b"")["upsert"]["statement"] == "newer"
    harness.encoder = BetterEncoder()
    consume(harness, dead_letters=1)
    assert harness.statement("a") == "newer"


def test_what_is_still_bad_stays_where_it_is_and_its_neighbours_do_not(recipe: Recipe, harness: EncoderHarness) -> None:
    harness.publish(harness.key("a"), b"{")
    harness.upsert("b", "unreadable")
    consume(harness, dead_letters=2)
    result = recipe("dlq", "redrive", "--all", "--json")
    assert result.exit_code == 3
    verdict = {each["key"][-1]: (each["verdict"], each["detail"]) for each in json.loads(result.stdout)}
    assert verdict["a"][0] == "still refused"
    assert "value: must be JSON in UTF-8" in verdict["a"][1]
    assert verdict["b"][0] == "re-driven"
    assert len(log_records(harness)) == 3


def test_filters_choose_what_is_redriven(recipe: Recipe, harness: EncoderHarness) -> None:
    harness.upsert("a", "unreadable")
    harness.publish(harness.key("b"), b"{")
    consume(harness, dead_letters=2)
    assert set(verdicts(recipe, "--all", "--stage", "encode").values()) == {"re-driven"}
    assert verdicts(recipe, "--all", "--namespace", "other") == {}


def test_letters_of_another_topic_or_log_and_strangers_are_refused(harness: EncoderHarness, topics: Topics) -> None:
    harness.upsert("a", "unreadable")
    consume(harness, dead_letters=1)
    letter = to_letter(harness.dead_letters()[0])
    found = [
        replace(letter, place=(0, 1), event=replace(letter.event, topic="elsewhere")),
        replace(letter, place=(0, 2), event=replace(letter.event, offset=77)),
        to_letter(Record(b"{}", topic=topics.dead_letters, partition=0, offset=3)),
    ]
    outcomes = redriving.judge(found, topics.updates, {0: 1, 1: 1}, [])
    assert [outcome.verdict for outcome in outcomes] == ["still refused"] * 3
    assert "the letter came from 'elsewhere'" in outcomes[0].detail
    assert "was made anew since" in outcomes[1].detail
    assert "a topic that its headers do not name" in outcomes[2].detail


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["redrive"], "places: give either places or --all"),
        (["redrive", "0/0", "--all"], "places: give either places or --all"),
        (["redrive", "0/0", "--stage", "key"], "places: give either places or --all"),
        (["redrive", "zero"], "place: 'zero' must be OFFSET or PARTITION/OFFSET"),
        (["show", "1/-1"], "place: '1/-1' must be OFFSET or PARTITION/OFFSET"),
    ],
)
def test_places_that_make_no_sense_are_refused(recipe: Recipe, arguments: list[str], message: str) -> None:
    error = recipe("dlq", *arguments).exception
    assert isinstance(error, InvalidArgumentError)
    assert str(error).startswith(message)


@pytest.mark.parametrize("arguments", [["redrive", "0/99"], ["show", "0/99"], ["show", "7/0"]])
def test_a_place_without_a_letter_is_named(recipe: Recipe, topics: Topics, arguments: list[str]) -> None:
    error = recipe("dlq", *arguments).exception
    assert isinstance(error, NotFoundError)
    assert arguments[1] in str(error)
    assert topics.dead_letters in str(error)


@pytest.mark.parametrize("command", [["list"], ["show", "0/0"], ["redrive", "--all"]])
def test_a_missing_topic_and_a_missing_broker_are_told_apart(broker: str, command: list[str]) -> None:
    error = run_recipe("dlq", *command, "--kafka", broker, "--topic", "nowhere").exception
    assert isinstance(error, NotFoundError)
    assert "'nowhere.dlq' does not exist" in str(error)
    error = run_recipe("dlq", *command, "--kafka", "127.0.0.1:1").exception
    assert isinstance(error, UnavailableError)
    assert "correct --kafka" in str(error)
