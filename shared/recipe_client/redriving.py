"""Putting dead letters back into the log that have become acceptable.

Compaction keeps the last record of a key, so a record that is appended behind a newer event of its fact would cost the
log that event. Only what wins by the store's own rule is appended therefore, and it keeps its first place by a header.
"""

from collections.abc import Container, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Literal, TypeVar

from kafka.errors import KafkaError
from kafka.producer.future import FutureRecordMetadata

from recipe_client.dead_letters import DeadLetter, EventRecord, Origin, Place
from recipe_client.event_lines import parse_all
from recipe_client.log import open_log
from recipe_client.publishing import ACKNOWLEDGED_SECONDS, close_producer, open_producer
from recipe_common.errors import FieldViolation, InvalidArgumentError, UnavailableError
from recipe_encoder.events import ORIGIN_HEADER, KafkaRecord, ParsedUpdate, parse_record
from recipe_store.facts import Fact
from recipe_store.ordering import FactName, fact_name, newest_facts

Verdict = Literal["to re-drive", "re-driven", "superseded", "in the log already", "still refused"]
Event = tuple[KafkaRecord, ParsedUpdate]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What becomes of a dead letter that was chosen to be re-driven, and why or where."""

    letter: DeadLetter
    verdict: Verdict
    detail: str = ""


def redrive(
    bootstrap_servers: str, topic: str, chosen: Sequence[DeadLetter], refused: Container[Origin], *, dry_run: bool
) -> list[Outcome]:
    """Append the chosen letters to `topic`, from which they came, as far as each is the newest event of its fact.

    `refused` holds the origins of all dead letters, which have had no effect although they stand in the log. Returns
    when every appended record is acknowledged; after a failure the same call goes on where it stopped. Raises
    NotFoundError if the topic does not exist, and UnavailableError.
    """
    keys = {letter.event.key for letter in chosen}
    with open_log(bootstrap_servers, topic) as log:
        concerned = (record for record in log.records() if record.key in keys)
        events = _events(each for each in concerned if (each.topic, each.partition, each.offset) not in refused)
    outcomes = judge(chosen, topic, log.ends, [parsed.fact for _, parsed in events])
    winners = [outcome.letter.event for outcome in outcomes if outcome.verdict == "to re-drive"]
    if dry_run:
        return outcomes
    with closing(_Appender(bootstrap_servers, topic)) as appender:
        places = iter(appender.append(winners))
        starts = log.ends
        while True:
            with open_log(bootstrap_servers, topic, starts) as log:
                events += _events(record for record in log.records() if record.key in keys)
            # What was published while the log was read now stands before an older event of its fact.
            if not (overtaken := _overtaken(events)):
                break
            starts = log.ends
            appender.append(overtaken)
    return [_redriven(each, next(places)) if each.verdict == "to re-drive" else each for each in outcomes]


def judge(chosen: Sequence[DeadLetter], topic: str, ends: Mapping[int, int], standing: Sequence[Fact]) -> list[Outcome]:
    """What is to become of each letter.

    `ends` are those of the topic's partitions, `standing` are the events of the letters' facts in the order of the log.
    """
    facts: dict[Place, Fact] = {}
    outcomes: dict[Place, Outcome] = {}
    for letter in chosen:
        try:
            facts[letter.place] = _acceptable_fact(letter.event, topic, ends)
        except InvalidArgumentError as error:
            outcomes[letter.place] = Outcome(letter, "still refused", str(error))
    newest = _newest(standing, facts)
    for letter in chosen:
        if letter.place in facts:
            outcomes[letter.place] = _outcome(letter, facts[letter.place], *newest[fact_name(facts[letter.place])])
    return [outcomes[letter.place] for letter in chosen]


def _newest(standing: Sequence[Fact], letters: Mapping[Place, Fact]) -> dict[FactName, tuple[Fact, Place | None]]:
    """Per fact the newest event and, if that is a letter, its place.

    A letter must win where it was published first, among all, and also where it would be appended, behind all that
    stands: the two differ for a fact whose events have a revision only at times.
    """
    events: list[tuple[Fact, Place | None]] = [(fact, None) for fact in standing]
    letter_events = [(fact, place) for place, fact in letters.items()]
    first = newest_facts(_in_place([*events, *letter_events]), {})
    winners = [(fact, place) for fact, place in letter_events if first[fact_name(fact)][1] == place]
    return first | newest_facts([*events, *winners], {})


def _acceptable_fact(event: EventRecord, topic: str, ends: Mapping[int, int]) -> Fact:
    if event.topic != topic:
        origin = repr(event.topic) if event.topic else "a topic that its headers do not name"
        raise InvalidArgumentError([FieldViolation("topic", f"must be {topic!r}, but the letter came from {origin}")])
    if not 0 <= event.offset < ends.get(event.partition, 0):
        description = f"is not in {topic}, which was made anew since; publish the event again"
        raise InvalidArgumentError([FieldViolation(f"{event.partition}/{event.offset}", description)])
    return parse_record(event).fact


def _outcome(letter: DeadLetter, fact: Fact, newest: Fact, newest_place: Place | None) -> Outcome:
    if newest_place == letter.place:
        return Outcome(letter, "to re-drive")
    if newest.position == fact.position:
        return Outcome(letter, "in the log already")
    what = f"revision {newest.revision} at offset {newest.position.offset}"
    return Outcome(letter, "superseded", f"by {what}; publish it anew to have it back")


def _redriven(outcome: Outcome, place: Place) -> Outcome:
    return replace(outcome, verdict="re-driven", detail=f"at {outcome.letter.event.topic}/{place[0]}/{place[1]}")


def _events(records: Iterable[KafkaRecord]) -> list[Event]:
    return list(parse_all(records, []))


def _in_place(events: Iterable[tuple[Fact, T]]) -> list[tuple[Fact, T]]:
    """In the order in which they were published first; a record that was appended again comes after its original."""
    return sorted(events, key=lambda event: event[0].position.offset)


def _overtaken(events: Sequence[Event]) -> list[KafkaRecord]:
    """The newest event of each fact of which an older one that was re-driven stands last."""
    last = {fact_name(parsed.fact): (parsed.fact, record) for record, parsed in events}
    newest = newest_facts(_in_place((parsed.fact, record) for record, parsed in events), {})
    return [
        record
        for name, (fact, record) in newest.items()
        if fact.position != last[name][0].position and ORIGIN_HEADER in dict(last[name][1].headers)
    ]


class _Appender:
    """Appends records once more, with a header that keeps the first place of each in the order of its fact."""

    def __init__(self, bootstrap_servers: str, topic: str) -> None:
        self._topic = topic
        try:
            self._producer = open_producer(bootstrap_servers)
        except KafkaError as error:
            raise UnavailableError(f"Kafka at {bootstrap_servers} does not answer: {error}; run it again") from error

    def append(self, records: Sequence[KafkaRecord]) -> list[Place]:
        """Returns where they stand once all are acknowledged; raises UnavailableError if one is not."""
        places: list[Place] = []
        try:
            for future in [self._send(record) for record in records]:
                acknowledged = future.get(2 * ACKNOWLEDGED_SECONDS)
                places.append((acknowledged.partition, acknowledged.offset))
        except KafkaError as error:
            raise UnavailableError(
                f"{self._topic} acknowledged {len(places)} of {len(records)} records ({error}); run the command again, "
                "which appends nothing twice"
            ) from error
        return places

    def close(self) -> None:
        """Disconnect."""
        close_producer(self._producer)

    def _send(self, record: KafkaRecord) -> FutureRecordMetadata:
        position = parse_record(record).fact.position
        origin = f"{position.topic}/{position.partition}/{position.offset}".encode()
        kept = [(name, value or b"") for name, value in record.headers if name.lower() != ORIGIN_HEADER]
        return self._producer.send(
            self._topic,
            key=record.key,
            value=record.value,
            partition=record.partition,
            headers=[*kept, (ORIGIN_HEADER, origin)],
            timestamp_ms=record.timestamp if record.timestamp >= 0 else None,
        )
