"""Which dead letters are appended, whatever else is in the log."""

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from encoder_records import Record, upsert
from recipe_client.dead_letters import DeadLetter, EventRecord, parse_place, to_letter
from recipe_client.redriving import judge
from recipe_encoder.dead_letters import HEADER_PREFIX
from recipe_encoder.events import parse_record
from recipe_store import Fact
from recipe_store.ordering import newest_facts


@dataclass(frozen=True)
class Event:
    """An event of one fact; its place in the list is its offset."""

    revision: int
    refused: bool


def events(revisions: st.SearchStrategy[int]) -> st.SearchStrategy[list[Event]]:
    return st.lists(st.builds(Event, revisions, st.booleans()), min_size=1, max_size=7)


def event_record(offset: int, revision: int) -> EventRecord:
    value = f'{{"namespace": "test", "factId": "f", "revision": {revision}, "upsert": {{"statement": "s"}}}}'
    return EventRecord("updates", 0, offset, 1_000, b"test/f", value.encode(), [])


def redriven(log: list[Event]) -> tuple[list[Fact], list[Fact]]:
    """What stands in the log with effect, and the letters that are appended, as the encoder reads them."""
    facts = [parse_record(event_record(offset, event.revision)).fact for offset, event in enumerate(log)]
    letters = [
        DeadLetter((0, place), event_record(offset, log[offset].revision), "encode", "", "")
        for place, offset in enumerate(offset for offset, event in enumerate(log) if event.refused)
    ]
    standing = [fact for fact, event in zip(facts, log, strict=True) if not event.refused]
    outcomes = judge(letters, "updates", {0: len(log)}, standing)
    return standing, [facts[each.letter.event.offset] for each in outcomes if each.verdict == "to re-drive"]


def winner(facts: list[Fact]) -> int:
    """The offset of the event that is the fact in the end."""
    ((fact, _),) = newest_facts([(fact, None) for fact in facts], {}).values()
    return fact.position.offset


@given(st.one_of(events(st.integers(1, 3)), events(st.just(0))))
def test_the_base_becomes_what_it_would_be_had_nothing_been_refused(log: list[Event]) -> None:
    standing, appended = redriven(log)
    accepted = [parse_record(event_record(offset, event.revision)).fact for offset, event in enumerate(log)]
    assert winner(standing + appended) == winner(accepted)


@given(events(st.integers(0, 3)))
def test_what_is_appended_is_the_newest_so_that_compaction_costs_nothing(log: list[Event]) -> None:
    standing, appended = redriven(log)
    assert len(appended) <= 1
    for letter in appended:
        assert winner(standing + appended) == letter.position.offset


@given(events(st.integers(0, 3)))
def test_a_later_event_without_revision_is_never_replaced(log: list[Event]) -> None:
    _, appended = redriven([*log, Event(0, refused=False)])
    assert appended == []


def test_a_letter_is_read_from_its_headers_whatever_they_hold() -> None:
    headers: list[tuple[str, bytes | None]] = [
        ("trace", None),
        (f"{HEADER_PREFIX}topic", b"updates"),
        (f"{HEADER_PREFIX}partition", b"2"),
        (f"{HEADER_PREFIX}offset", b"\xff"),
        (f"{HEADER_PREFIX}error-message", b"\xff!"),
    ]
    letter = to_letter(upsert("s", headers=headers))
    assert (letter.event.topic, letter.event.partition, letter.event.offset) == ("updates", 2, -1)
    assert (letter.stage, letter.error_message, letter.event.headers) == ("", "\ufffd!", [("trace", None)])
    assert to_letter(Record(None, key=None)).namespace == ""


def test_a_place_is_an_offset_with_or_without_its_partition() -> None:
    assert (parse_place("12"), parse_place("3/12")) == ((0, 12), (3, 12))
