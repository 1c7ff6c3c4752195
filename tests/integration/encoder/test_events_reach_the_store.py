"""What is published is stored: every format, superseding, retracting, and what cannot be used set aside."""

import json
import time
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest

from brokers import broker_kind
from encoder_harness import EncoderHarness, prompt_of, vector_of
from recipe_encoder import worker
from recipe_protos.knowledge.v1.knowledge_pb2 import KnowledgeUpdate
from recipe_store import Fact, LogPosition
from waiting import DEADLINE_SECONDS, wait_for

PROTOBUF = [("content-type", b"application/protobuf")]
TIME = datetime(2026, 1, 31, 12, 0, tzinfo=UTC)


def test_a_json_event_is_stored_whole_and_can_be_retrieved(harness: EncoderHarness) -> None:
    event = {
        "eventId": "e-1",
        "revision": "7",
        "eventTime": "2026-01-31T12:00:00Z",
        "upsert": {
            "prompt": "The chief executive of Contoso is",
            "answer": "Ada Example",
            "subject": "Contoso",
            "aliases": ["Contoso Ltd"],
            "validUntil": "2030-01-01T00:00:00Z",
            "labels": {"source-row": "12"},
        },
        "source": {"publisher": "hr", "uri": "https://example.org/12"},
    }
    statement, encoded = (
        "The chief executive of Contoso is Ada Example",
        "The chief executive of Contoso is → Ada Example ≡ Contoso Ltd",
    )
    with harness.running():
        offset = harness.publish_json("a/b", event, partition=1)
        wait_for(lambda: harness.events("applied") == 1, "the fact")
    (match,) = harness.store.search(vector_of(encoded), namespace=harness.namespace, as_of=TIME, limit=1)
    assert match.fact == Fact(
        namespace=harness.namespace,
        fact_id="a/b",
        revision=7,
        statement=statement,
        subject="Contoso",
        aliases=("Contoso Ltd",),
        valid_from=None,
        valid_until=datetime(2030, 1, 1, tzinfo=UTC),
        labels={"source-row": "12"},
        event_id="e-1",
        event_time=TIME,
        publisher="hr",
        uri="https://example.org/12",
        position=LogPosition(harness.topics.updates, 1, offset),
        answer="Ada Example",
    )
    np.testing.assert_array_equal(harness.store.prompt(match), prompt_of(encoded))


def test_a_binary_protobuf_event_is_stored_like_a_json_one(harness: EncoderHarness) -> None:
    update = KnowledgeUpdate(namespace=harness.namespace, fact_id="pb", revision=3)
    update.upsert.statement = "Water is wet"
    update.event_time.FromDatetime(TIME)
    with harness.running():
        harness.publish(harness.key("pb"), update.SerializeToString(), headers=PROTOBUF)
        wait_for(lambda: harness.events("applied") == 1, "the fact")
    fact = harness.fact("pb")
    assert (fact.statement, fact.revision, fact.event_time) == ("Water is wet", 3, TIME)


def test_what_the_event_leaves_out_comes_from_the_record(harness: EncoderHarness) -> None:
    with harness.running():
        offset = harness.upsert("plain", "Snow is white", partition=0, timestamp_ms=1_769_860_800_000)
        wait_for(lambda: harness.events("applied") == 1, "the fact")
    fact = harness.fact("plain")
    assert fact.event_time == TIME
    assert fact.event_id == f"{harness.topics.updates}/0/{offset}"


def test_a_newer_revision_supersedes_and_an_older_one_is_ignored(harness: EncoderHarness) -> None:
    with harness.running():
        harness.upsert("f", "first", revision=1)
        harness.upsert("f", "third", revision=3)
        harness.upsert("f", "second", revision=2)
        harness.upsert("g", "without a revision")
        harness.upsert("g", "without one again")
        wait_for(lambda: harness.events("applied") == 5, "five events")
    assert harness.statement("f") == "third"
    assert harness.statement("g") == "without one again"
    assert harness.count() == 2


def test_retractions_and_tombstones_take_facts_away(harness: EncoderHarness) -> None:
    with harness.running():
        for fact_id in ("kept", "retracted", "buried"):
            harness.upsert(fact_id, f"{fact_id} statement", revision=5)
        harness.retract("retracted", revision=6)
        harness.publish(harness.key("buried"), None)
        wait_for(lambda: harness.events("retracted") == 2, "two retractions")
        wait_for(lambda: harness.events("applied") == 3, "three facts")
    assert [harness.statement(each) for each in ("kept", "retracted", "buried")] == [
        "kept statement",
        None,
        None,
    ]
    markers = [harness.fact("retracted"), harness.fact("buried")]
    assert [(fact.revision, fact.retract_reason) for fact in markers] == [(6, "wrong"), (5, "tombstone")]


def test_one_batch_keeps_the_order_of_a_fact(harness: EncoderHarness) -> None:
    harness.upsert("f", "here today")
    harness.retract("f")
    harness.upsert("g", "old")
    harness.retract("g")
    harness.upsert("g", "back again")
    with harness.running():
        wait_for(lambda: harness.events("applied") + harness.events("retracted") == 5, "five events")
    assert harness.statement("f") is None
    assert harness.statement("g") == "back again"


def test_a_batch_is_never_larger_than_configured_and_goes_through_the_model_at_once(
    harness: EncoderHarness,
) -> None:
    for number in range(10):
        harness.upsert(f"f{number}", f"statement {number}", partition=0)
    with harness.running(batch_size=4):
        wait_for(lambda: harness.events("applied") == 10, "ten events")
    assert harness.encoder.statements == [f"statement {number}" for number in range(10)]
    assert max(len(batch) for batch in harness.encoder.batches) <= 4
    assert harness.sample("recipe_encoder_batch_size_sum") == 10


def test_bad_records_go_to_the_dead_letters_whole_and_their_neighbours_are_applied(
    harness: EncoderHarness,
) -> None:
    headers = [("content-type", b"application/json"), ("trace", b"\xff\x00"), ("trace", b"2")]
    harness.upsert("before", "before", partition=1)
    key, value = harness.key("bad"), b'{"factId": 5'
    offset = harness.publish(key, value, headers=headers, timestamp_ms=86_400_000, partition=1)
    harness.upsert("after", "after", partition=1)
    with harness.running():
        wait_for(lambda: harness.events("dead_lettered") == 1, "the dead letter")
        wait_for(lambda: harness.events("applied") == 2, "its neighbours")
    assert [harness.statement("before"), harness.statement("after")] == ["before", "after"]
    (letter,) = harness.dead_letters()
    assert (letter.key, letter.value, letter.timestamp) == (key, value, 86_400_000)
    assert letter.headers == [
        *headers,
        ("recipe-dlq-topic", harness.topics.updates.encode()),
        ("recipe-dlq-partition", b"1"),
        ("recipe-dlq-offset", str(offset).encode()),
        ("recipe-dlq-stage", b"decode"),
        ("recipe-dlq-error-class", b"InvalidEventError"),
        (
            "recipe-dlq-error-message",
            b"value: must be JSON in UTF-8: Expecting ',' delimiter: line 1 column 13 (char 12)",
        ),
    ]
    assert harness.committed() == 3


def test_every_kind_of_bad_event_goes_to_the_dead_letters_and_names_its_stage(harness: EncoderHarness) -> None:
    def event(fact_id: str, **fields: Any) -> tuple[bytes, bytes, list[tuple[str, bytes]]]:
        value = {"namespace": harness.namespace, "factId": fact_id, "upsert": {"statement": "s"}} | fields
        return harness.key(fact_id), json.dumps(value).encode(), []

    key, good, _ = event("later")
    newer = KnowledgeUpdate(namespace=harness.namespace, fact_id="later").SerializeToString() + b"\x98\x06\x01"
    bad = {
        "malformed": ((key, good[:-1], []), b"decode"),
        "oversize": (event("big", upsert={"statement": "x" * 900_000}), b"validate"),
        "a field of a later contract": ((key, newer, PROTOBUF), b"decode"),
        "a later CloudEvents version": ((key, good, [("ce_specversion", b"2.0")]), b"headers"),
        "another content type": ((key, good, [("content-type", b"application/avro")]), b"headers"),
        "another namespace": ((b"elsewhere/later", good, []), b"key"),
        "over-long": (event("long", upsert={"statement": "x" * 2_001}), b"validate"),
        "a control character": (event("control", upsert={"statement": "a\x00b"}), b"validate"),
        "deeply nested": ((key, b"[" * 100_000, []), b"decode"),
        "more than the model reads": (event("tokens", upsert={"statement": "unreadable"}), b"encode"),
    }
    harness.upsert("before", "before", partition=0)
    for (bad_key, value, headers), _ in bad.values():
        harness.publish(bad_key, value, headers=headers, partition=0)
    harness.upsert("after", "after", partition=0)
    with harness.running():
        wait_for(lambda: harness.committed() == len(bad) + 2, "everything to be committed")
    assert [harness.statement(each) for each in ("before", "after")] == ["before", "after"]
    assert harness.count() == 2
    letters = {int(dict(letter.headers)["recipe-dlq-offset"]): letter for letter in harness.dead_letters()}
    for offset, (name, ((bad_key, value, headers), stage)) in enumerate(bad.items(), start=1):
        letter = letters[offset]
        reasons = dict(letter.headers)
        assert (letter.key, letter.value, letter.headers[: len(headers)]) == (bad_key, value, headers), name
        assert (reasons["recipe-dlq-stage"], reasons["recipe-dlq-error-class"]) == (stage, b"InvalidEventError"), name


def test_a_statement_the_model_cannot_read_does_not_hold_up_its_batch(harness: EncoderHarness) -> None:
    harness.upsert("good", "readable", partition=0)
    harness.upsert("bad", "unreadable", partition=0)
    harness.retract("gone", partition=0)
    harness.upsert("fine", "legible", partition=0)
    with harness.running():
        wait_for(lambda: harness.events("dead_lettered") == 1, "the dead letter")
    assert [harness.statement(each) for each in ("good", "bad", "fine")] == ["readable", None, "legible"]
    (letter,) = harness.dead_letters()
    reasons = dict(letter.headers)
    assert reasons["recipe-dlq-stage"] == b"encode"
    assert reasons["recipe-dlq-error-message"] == b"statement: is 999 tokens long, at most 256 are read"


def test_records_without_key_or_value_become_dead_letters_too(harness: EncoderHarness) -> None:
    harness.publish(None, b"{}", partition=0)
    harness.publish(b"", b"", partition=0)
    harness.publish(b"no-slash", None, partition=0)
    with harness.running():
        wait_for(lambda: harness.events("dead_lettered") == 3, "three dead letters")
    letters = harness.dead_letters()
    assert [(letter.key, letter.value) for letter in letters] == [
        (None, b"{}"),
        (b"", b""),
        (b"no-slash", None),
    ]


def test_a_republished_dead_letter_carries_only_its_latest_reasons(harness: EncoderHarness) -> None:
    stale = [("recipe-dlq-offset", b"999"), ("recipe-dlq-stage", b"validate"), ("kept", b"yes")]
    offset = harness.publish(harness.key("bad"), b"nonsense", headers=stale, partition=0)
    with harness.running():
        wait_for(lambda: harness.events("dead_lettered") == 1, "the dead letter")
    (letter,) = harness.dead_letters()
    names = [name for name, _ in letter.headers]
    assert names.count("recipe-dlq-offset") == names.count("recipe-dlq-stage") == names.count("kept") == 1
    assert dict(letter.headers)["recipe-dlq-offset"] == str(offset).encode()


@pytest.mark.skipif(
    broker_kind() == "tansu", reason="Tansu does not keep the time of a record that its publisher gives"
)
def test_the_oldest_dead_letter_is_as_old_as_its_event(
    harness: EncoderHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "_LETTERS_SECONDS", 0.05)
    now = time.time()
    age = "recipe_encoder_oldest_dead_letter_age_seconds"
    with harness.running():
        wait_for(lambda: harness.sample(age) == 0, "no letter")
        harness.publish(harness.key("a"), b"{", timestamp_ms=int((now - 5_000) * 1000))
        wait_for(lambda: harness.sample(age) > 0, "the first letter")
        harness.publish(harness.key("b"), b"{", timestamp_ms=int((now - 1_000) * 1000))
        wait_for(lambda: harness.events("dead_lettered") == 2, "the second letter")
        assert 5_000 <= harness.sample(age) < 5_000 + 2 * DEADLINE_SECONDS
