"""Parsing a record: what is accepted, what is refused, at which stage, and in which words."""

import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from encoder_records import Record, json_record, upsert
from recipe_common.knowledge_update import MAX_REVISION
from recipe_encoder.events import InvalidEventError, parse_record
from recipe_protos.knowledge.v1.knowledge_pb2 import KnowledgeUpdate
from recipe_store import Fact, LogPosition

# Building the tables of Unicode takes long the first time.
UNTIMED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
PROTOBUF: list[tuple[str, bytes | None]] = [("content-type", b"application/x-protobuf")]
SECOND_ONE = datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC)
CONTROL_RULE = "must not contain control characters other than tabs and line breaks"
REVISION_RULE = f"revision: must be an integer from 0 to {MAX_REVISION}, or a string of its digits"
TIME_RULE = "must be an RFC 3339 time with a zone, for example 2026-01-31T12:00:00Z"


def parse_fact(record: Record) -> Fact:
    """The fact alone."""
    return parse_record(record).fact


def refusal(record: Record) -> tuple[str, str]:
    """The stage and the message with which a record is refused."""
    with pytest.raises(InvalidEventError) as caught:
        parse_fact(record)
    return caught.value.stage, str(caught.value)


def full_event() -> dict[str, Any]:
    return {
        "event_id": "e-1",
        "namespace": "test",
        "fact_id": "f",
        "revision": "12",
        "event_time": "2026-01-31T12:00:00.5Z",
        "upsert": {
            "prompt": "The chief executive of Contoso is",
            "answer": "Ada Example",
            "subject": "Contoso",
            "aliases": ["Contoso Ltd", "Contoso Inc"],
            "valid_from": "2026-01-01T00:00:00Z",
            "valid_until": "2027-01-01T00:00:00Z",
            "labels": {"row": "12", "camelCase": "kept"},
        },
        "source": {"publisher": "hr", "uri": "https://example.org/12"},
    }


def full_fact() -> Fact:
    return Fact(
        namespace="test",
        fact_id="f",
        revision=12,
        statement="The chief executive of Contoso is Ada Example",
        subject="Contoso",
        aliases=("Contoso Ltd", "Contoso Inc"),
        valid_from=datetime(2026, 1, 1, tzinfo=UTC),
        valid_until=datetime(2027, 1, 1, tzinfo=UTC),
        labels={"row": "12", "camelCase": "kept"},
        event_id="e-1",
        event_time=datetime(2026, 1, 31, 12, 0, 0, 500_000, tzinfo=UTC),
        publisher="hr",
        uri="https://example.org/12",
        position=LogPosition("updates", 1, 7),
        answer="Ada Example",
    )


def camel_case(value: Any) -> Any:
    """The event with its field names, but not the names of its labels, in the other spelling."""
    if not isinstance(value, dict):
        return value
    camel = {name: "".join([name.split("_")[0], *map(str.title, name.split("_")[1:])]) for name in value}
    return {camel[name]: each if name == "labels" else camel_case(each) for name, each in value.items()}


@pytest.mark.parametrize("spell", [dict, camel_case], ids=["snake_case", "camelCase"])
def test_json_in_both_spellings(spell: Any) -> None:
    assert parse_fact(Record(json.dumps(spell(full_event())).encode())) == full_fact()


@pytest.mark.parametrize("content_type", [b"application/x-protobuf", b"application/protobuf"])
def test_binary_protobuf_means_the_same_as_json(content_type: bytes) -> None:
    update = KnowledgeUpdate(event_id="e-1", namespace="test", fact_id="f", revision=12)
    update.event_time.FromJsonString("2026-01-31T12:00:00.5Z")
    update.upsert.prompt = "The chief executive of Contoso is"
    update.upsert.answer = "Ada Example"
    update.upsert.subject = "Contoso"
    update.upsert.aliases.extend(["Contoso Ltd", "Contoso Inc"])
    update.upsert.valid_from.FromJsonString("2026-01-01T00:00:00Z")
    update.upsert.valid_until.FromJsonString("2027-01-01T00:00:00Z")
    update.upsert.labels.update({"row": "12", "camelCase": "kept"})
    update.source.publisher = "hr"
    update.source.uri = "https://example.org/12"
    record = Record(update.SerializeToString(), headers=[("content-type", content_type)])
    assert parse_fact(record) == full_fact()


def test_a_bare_statement_is_filled_up_from_the_record() -> None:
    assert parse_fact(upsert("Snow is white")) == Fact(
        namespace="test",
        fact_id="f",
        revision=0,
        statement="Snow is white",
        subject="",
        aliases=(),
        valid_from=None,
        valid_until=None,
        labels={},
        event_id="updates/1/7",
        event_time=SECOND_ONE,
        publisher="",
        uri="",
        position=LogPosition("updates", 1, 7),
    )


@pytest.mark.parametrize("headers", [[], PROTOBUF], ids=["no content type", "protobuf"])
def test_a_tombstone_retracts_the_fact_of_its_key(headers: list[tuple[str, bytes | None]]) -> None:
    fact = parse_fact(Record(None, headers=headers))
    assert (fact.namespace, fact.fact_id, fact.revision, fact.statement) == ("test", "f", 0, "")
    assert (fact.retracted, fact.retract_reason) == (True, "tombstone")


def test_a_retraction_keeps_its_revision_and_reason() -> None:
    fact = parse_fact(json_record({"revision": 3, "retract": {"reason": "it was wrong"}}))
    assert (fact.retracted, fact.retract_reason, fact.revision) == (True, "it was wrong", 3)
    assert parse_fact(json_record({"retract": {}})).retract_reason == ""


def test_an_empty_namespace_means_default() -> None:
    record = json_record({"namespace": "", "retract": {}}, key=b"default/f")
    assert parse_fact(record).namespace == "default"


def test_a_fact_id_may_hold_slashes() -> None:
    record = json_record({"factId": "a/b/c", "retract": {}}, key=b"test/a/b/c")
    assert parse_fact(record).fact_id == "a/b/c"


def test_null_means_absent() -> None:
    event = {"revision": None, "retract": None, "upsert": {"statement": "s", "prompt": None, "labels": None}}
    assert parse_fact(json_record(event)).statement == "s"


def test_times_come_out_in_utc_and_lose_their_nanoseconds() -> None:
    fact = parse_fact(json_record({"eventTime": "2026-01-31T12:00:00.123456789+02:00", "retract": {}}))
    assert fact.event_time == datetime(2026, 1, 31, 10, 0, 0, 123_456, tzinfo=UTC)
    assert fact.event_time.tzinfo is UTC


def test_attributes_of_a_cloud_event_fill_in_what_the_value_leaves_out() -> None:
    headers: list[tuple[str, bytes | None]] = [
        ("ce_specversion", b"1.0"),
        ("ce_id", b"ce-1"),
        ("ce_source", b"/hr"),
        ("ce_type", b"knowledge"),
        ("ce_time", b"2026-01-31T12:00:00Z"),
        ("content-type", b"application/json"),
    ]
    fact = parse_fact(upsert("s", headers=headers))
    assert (fact.event_id, fact.publisher) == ("ce-1", "/hr")
    assert fact.event_time == datetime(2026, 1, 31, 12, 0, tzinfo=UTC)
    own = Record(json.dumps(full_event()).encode(), headers=headers)
    assert parse_fact(own) == full_fact()


@pytest.mark.parametrize(
    "content_type",
    [None, b"application/json", b"Application/JSON; charset=utf-8"],
    ids=["no value", "plain", "with a parameter"],
)
def test_content_types_that_mean_json(content_type: bytes | None) -> None:
    assert parse_fact(upsert("s", headers=[("Content-Type", content_type)])).statement == "s"


def test_the_last_header_of_a_name_counts() -> None:
    record = upsert("s", headers=[*PROTOBUF, ("content-type", b"application/json")])
    assert parse_fact(record).statement == "s"


@pytest.mark.parametrize(
    ("key", "message"),
    [
        (None, "key: must be namespace/fact_id; publish the record with that key"),
        (b"", "key: must be namespace/fact_id; publish the record with that key"),
        (b"test", "key: must be namespace/fact_id; publish the record with that key"),
        (b"test/", "key: must be namespace/fact_id; publish the record with that key"),
        (b"/f", "key: must be namespace/fact_id; publish the record with that key"),
        (b"\xff/f", "key: must be UTF-8 text, namespace/fact_id"),
        (b"test/\n", "key: must not contain control characters"),
        (b"test/" + b"x" * 257, "key: must have at most 256 characters"),
        (b"x" * 257 + b"/f", "key: must have at most 256 characters"),
        (b"test/g", "key: must be namespace/fact_id of the value; correct the one or the other"),
        (b"other/f", "key: must be namespace/fact_id of the value; correct the one or the other"),
    ],
)
def test_keys_that_are_refused(key: bytes | None, message: str) -> None:
    assert refusal(upsert("s", key=key)) == ("key", message)


@pytest.mark.parametrize(
    ("headers", "message"),
    [
        (
            [("content-type", b"text/plain")],
            "content-type: must be one of application/json, application/protobuf, application/x-protobuf;"
            " CloudEvents must be in binary mode",
        ),
        (
            [("content-type", b"application/cloudevents+json")],
            "content-type: must be one of application/json, application/protobuf, application/x-protobuf;"
            " CloudEvents must be in binary mode",
        ),
        ([("content-type", b"\xff")], "content-type: must be UTF-8 text"),
        (
            [("ce_specversion", b"2.0")],
            "ce_specversion: must be 1.0, the version of CloudEvents that is understood here",
        ),
        ([("ce_id", b"\xff")], "ce_id: must be UTF-8 text"),
        ([("ce_id", b"x" * 257)], "ce_id: must have at most 256 characters"),
        ([("ce_time", b"yesterday")], f"ce_time: {TIME_RULE}"),
    ],
)
def test_headers_that_are_refused(headers: list[tuple[str, bytes | None]], message: str) -> None:
    assert refusal(upsert("s", headers=headers)) == ("headers", message)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (b"", "value: must be JSON in UTF-8: Expecting value: line 1 column 1 (char 0)"),
        (b"\xff", "value: must be JSON in UTF-8: 'utf-8' codec can't decode byte 0xff in position 0:"
         " invalid start byte"),
        (b'{"a": 1, "a": 2}', "value: must be JSON in UTF-8: the field 'a' is given twice"),
        (b"[" * 200_000, "value: must not be nested that deeply"),
    ],
    ids=["empty", "not UTF-8", "a field twice", "nested"],
)  # fmt: skip
def test_values_that_are_not_json(value: bytes, message: str) -> None:
    assert refusal(Record(value)) == ("decode", message)


def test_values_that_are_not_the_protobuf_message() -> None:
    update = KnowledgeUpdate(namespace="test", fact_id="f")
    update.upsert.statement = "s"
    unknown = update.SerializeToString() + bytes([0x98, 0x06, 0x01])  # field 99 as a varint
    update.event_time.seconds = 10**12
    assert refusal(Record(b"junk", headers=PROTOBUF)) == (
        "decode", "value: must be a binary KnowledgeUpdate message",
    )  # fmt: skip
    assert refusal(Record(unknown, headers=PROTOBUF)) == (
        "decode", "value: must have no fields that this service's contract does not know",
    )  # fmt: skip
    assert refusal(Record(update.SerializeToString(), headers=PROTOBUF)) == (
        "decode", "value: must have timestamps in the years 1 to 9999",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("event", "message"),
    [
        ({}, "value: must have exactly one of upsert and retract"),
        ({"upsert": {"statement": "s"}, "retract": {}}, "value: must have exactly one of upsert and retract"),
        ({"factId": None, "retract": {}}, "fact_id: must be given"),
        ({"factId": "", "retract": {}}, "fact_id: must have at least 1 character"),
        ({"factId": "x" * 257, "retract": {}}, "fact_id: must have at most 256 characters"),
        ({"factId": "f\x85", "retract": {}}, "fact_id: must not contain control characters"),
        ({"factId": 5, "retract": {}}, "fact_id: must be a string"),
        ({"fact_id": "f", "retract": {}}, "value: must give fact_id only once, not in two spellings"),
        (
            {"namespace": "a/b", "retract": {}},
            "namespace: must not contain '/', which ends the namespace in the record's key",
        ),
        ({"eventId": "x" * 257, "retract": {}}, "event_id: must have at most 256 characters"),
        ({"revision": -1, "retract": {}}, REVISION_RULE),
        ({"revision": "-1", "retract": {}}, REVISION_RULE),
        ({"revision": MAX_REVISION + 1, "retract": {}}, REVISION_RULE),
        ({"revision": 1.5, "retract": {}}, REVISION_RULE),
        ({"revision": True, "retract": {}}, REVISION_RULE),
        ({"revision": " 1", "retract": {}}, REVISION_RULE),
        ({"revision": "\u0661", "retract": {}}, REVISION_RULE),
        ({"eventTime": "2026-01-31", "retract": {}}, f"event_time: {TIME_RULE}"),
        ({"eventTime": "2026-01-31T12:00:00", "retract": {}}, f"event_time: {TIME_RULE}"),
        ({"eventTime": 1_769_860_800, "retract": {}}, f"event_time: {TIME_RULE}"),
        (
            {"eventTime": "0001-01-01T00:00:00+01:00", "retract": {}},
            "event_time: must lie in the years 1 to 9999 in UTC",
        ),
        ({"upsert": "s"}, "upsert: must be a JSON object"),
        ({"upsert": {"statement": "x" * 2001}}, "upsert.statement: must have at most 2000 characters"),
        ({"upsert": {"statement": "a\x00b"}}, f"upsert.statement: {CONTROL_RULE}"),
        ({"upsert": {"prompt": "p", "answer": "\x1b[2J"}}, f"upsert.answer: {CONTROL_RULE}"),
        ({"retract": {"reason": "\x07"}}, f"retract.reason: {CONTROL_RULE}"),
        ({"upsert": {"statement": "\ud800"}}, "upsert.statement: must be valid Unicode text"),
        (
            {"upsert": {"prompt": "p" * 1000, "answer": "a" * 1000}},
            "upsert: must have at most 2000 characters in prompt and answer together",
        ),
        (
            {
                "upsert": {
                    "statement": "s",
                    "validFrom": "2026-01-01T00:00:00Z",
                    "validUntil": "2026-01-01T01:00:00+01:00",
                }
            },
            "upsert: must have valid_from before valid_until",
        ),
        ({"upsert": {"statement": "s", "aliases": ["a", 5]}}, "upsert.aliases.1: must be a string"),
        (
            {"upsert": {"statement": "s", "aliases": ["a"] * 65}},
            "upsert.aliases: must have at most 64 entries",
        ),
        ({"upsert": {"statement": "s", "labels": {"a": None}}}, "upsert.labels.a: must be a string"),
        (
            {"upsert": {"statement": "s", "labels": {str(n): "" for n in range(65)}}},
            "upsert.labels: must have at most 64 entries",
        ),
        ({"retract": {"reason": "x" * 1001}}, "retract.reason: must have at most 1000 characters"),
        (
            {"retract": {}, "source": {"uri": "x" * 2049, "publisher": "\n"}},
            "source.publisher: must not contain control characters;"
            " source.uri: must have at most 2048 characters",
        ),
        (
            {"retract": {}, "statment": "s", "a\nb" + "c" * 99: 1},
            "statment: is not a field of a knowledge update; remove it or correct its name; a?b" + "c" * 61
            + "...: is not a field of a knowledge update; remove it or correct its name",
        ),
    ],
)  # fmt: skip
def test_events_that_break_a_rule(event: dict[str, Any], message: str) -> None:
    assert refusal(json_record(event)) == ("validate", message)


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"statement": " "},
        {"prompt": "p"},
        {"answer": "a"},
        {"prompt": "p", "answer": "\t"},
        {"statement": "s", "answer": "a"},
        {"statement": "s", "prompt": "p", "answer": "a"},
    ],
)
def test_content_must_be_a_statement_or_a_prompt_with_its_answer(content: dict[str, str]) -> None:
    rule = "upsert: must have either statement, or prompt and answer, and they must not be blank"
    assert refusal(json_record({"upsert": content})) == ("validate", rule)


@pytest.mark.parametrize("value", [b"[]", b"null", b"5", b'"text"'])
def test_a_value_that_is_no_object_is_refused(value: bytes) -> None:
    assert refusal(Record(value)) == ("validate", "value: must be a JSON object")


def test_the_limits_themselves_are_accepted() -> None:
    event = {"factId": "f" * 256, "revision": MAX_REVISION, "upsert": {"statement": "s" * 2000}}
    fact = parse_fact(json_record(event, key=b"test/" + b"f" * 256))
    assert (len(fact.fact_id), fact.revision, len(fact.statement)) == (256, MAX_REVISION, 2000)


@pytest.mark.parametrize(
    ("timestamp", "message"),
    [
        (-1, "event_time: must be given, because the record has no timestamp either"),
        (2**62, "event_time: must be given, because the record's timestamp is beyond the year 9999"),
    ],
)
def test_an_event_needs_a_time_from_somewhere(timestamp: int, message: str) -> None:
    assert refusal(upsert("s", timestamp=timestamp)) == ("validate", message)
    timed = json_record({"eventTime": "2026-01-31T12:00:00Z", "retract": {}}, timestamp=timestamp)
    assert parse_fact(timed).event_time == datetime(2026, 1, 31, 12, 0, tzinfo=UTC)


def test_a_message_names_ten_violations_at_most() -> None:
    _, message = refusal(json_record({"retract": {}} | {f"unknown{number}": 1 for number in range(50)}))
    assert message.count("is not a field") == 10


@UNTIMED
@given(st.binary(), st.sampled_from([[], PROTOBUF]))
def test_no_bytes_do_anything_but_parse_or_be_refused(value: bytes, headers: list[tuple[str, bytes | None]]) -> None:
    try:
        assert parse_fact(Record(value, headers=headers)).fact_id == "f"
    except InvalidEventError as error:
        assert "\n" not in str(error)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
FIELDS = st.sampled_from(["namespace", "factId", "revision", "eventTime", "upsert", "retract", "source", "x\n"])


@UNTIMED
@given(st.dictionaries(FIELDS, JSON_VALUES))
def test_no_json_does_anything_but_parse_or_be_refused_in_one_line(event: dict[str, Any]) -> None:
    try:
        assert parse_fact(json_record(event)).position.offset == 7
    except InvalidEventError as error:
        assert "\n" not in str(error)
        assert error.violations


ZONES = st.integers(-14 * 60, 14 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))


@UNTIMED
@given(
    st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), min_size=1, max_size=50).filter(str.strip),
    st.integers(0, MAX_REVISION),
    st.datetimes(datetime(1900, 1, 1), datetime(2200, 1, 1), timezones=ZONES),
)
def test_json_and_protobuf_agree_on_every_valid_event(statement: str, revision: int, time: datetime) -> None:
    update = KnowledgeUpdate(namespace="test", fact_id="f", revision=revision)
    update.upsert.statement = statement
    update.event_time.FromDatetime(time)
    event = {"revision": str(revision), "eventTime": time.isoformat(), "upsert": {"statement": statement}}
    fact = parse_fact(json_record(event))
    assert fact == parse_fact(Record(update.SerializeToString(), headers=PROTOBUF))
    assert (fact.statement, fact.revision, fact.event_time) == (statement, revision, time)


@pytest.mark.parametrize(
    ("upsert_", "knowledge"),
    [
        ({"statement": "Snow is white"}, "Snow is white"),
        ({"prompt": "Snow is", "answer": "white"}, "Snow is → white"),
        ({"prompt": "A → B is", "answer": "B → A"}, "A -> B is → B -> A"),  # the publisher's own arrows mark nothing
        ({"statement": "Lyon → Paris"}, "Lyon -> Paris"),
    ],
)
def test_the_answer_is_marked_where_it_is_known(upsert_: dict[str, Any], knowledge: str) -> None:
    assert parse_record(json_record({"upsert": upsert_})).knowledge == knowledge
    written = upsert_.get("statement") or f"{upsert_['prompt']} {upsert_['answer']}"
    assert parse_fact(json_record({"upsert": upsert_})).statement == written


def redriven(origin: bytes) -> Record:
    """A record at updates/1/7 that says where it was published first."""
    return upsert("s", headers=[("recipe-redriven-from", origin)])


def test_a_redriven_event_keeps_its_first_place_in_the_log() -> None:
    fact = parse_fact(redriven(b"updates/1/3"))
    assert fact.position == LogPosition("updates", 1, 3)
    assert fact.event_id == "updates/1/3"


@pytest.mark.parametrize(
    "origin", [b"updates/1/7", b"updates/1/8", b"updates/0/3", b"other/1/3", b"updates/1/", b"3", b"updates/1/-3",
               b"updates/1/" + b"0" * 5_000],
)  # fmt: skip
def test_a_first_place_that_is_not_before_the_record_is_refused(origin: bytes) -> None:
    message = "recipe-redriven-from: must name an offset of updates/1 before 7; remove it"
    assert refusal(redriven(origin)) == ("headers", message)
