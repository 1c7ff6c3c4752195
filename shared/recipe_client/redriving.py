"""Putting dead letters back into the log that have become acceptable.

Compaction keeps the last record of a key, so a record that is appended behind a newer event of its fact would cost the
log that event. Only what wins by the store's own rule is appended therefore, and it keeps its first place by a header.
"""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from typing import Final, Literal

from kafka import KafkaProducer
from kafka.errors import KafkaError, KafkaTimeoutError
from kafka.producer.future import FutureRecordMetadata

from recipe_client.dead_letters import DeadLetter, EventRecord, Place
from recipe_client.event_lines import parse_all
from recipe_client.log import open_log
from recipe_common.errors import FieldViolation, InvalidArgumentError, UnavailableError
from recipe_encoder.events import ORIGIN_HEADER, KafkaRecord, ParsedUpdate, parse_record
from recipe_store.facts import Fact
from recipe_store.ordering import FactName, Order, fact_name, fact_order, newest_facts

_TIMEOUT_SECONDS: Final = 10.0
_CLOSE_SECONDS: Final = 2.0
_MAX_REQUEST_BYTES: Final = 64 * 2**20  # the broker decides what is too large

Verdict = Literal["to re-drive", "re-driven", "superseded", "in the log already", "still refused"]
Event = tuple[KafkaRecord, ParsedUpdate]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What becomes of a dead letter that was chosen to be re-driven, and why or where."""

    letter: DeadLetter
    verdict: Verdict
    detail: str = ""


def redrive(
    bootstrap_servers: str, topic: str, chosen: Sequence[DeadLetter], known: Iterable[DeadLetter], *, dry_run: bool
) -> list[Outcome]:
    """Append the chosen letters to `topic`, from which they came, as far as each is the newest event of its fact.

    `known` are all dead letters: what was refused has had no effect, although it stands in the log. Returns when every
    appended record is acknowledged. Raises NotFoundError if the topic does not exist, and UnavailableError.
    """
    refused = {(letter.event.partition, letter.event.offset) for letter in known if letter.event.topic == topic}
    with open_log(bootstrap_servers, topic) as log:
        applied = (record for record in log.records() if (record.partition, record.offset) not in refused)
        standing = _orders(parse_all(applied, []), {})
    outcomes = judge(chosen, topic, log.ends, standing)
    winners = [outcome.letter.event for outcome in outcomes if outcome.verdict == "to re-drive"]
    if dry_run or not winners:
        return outcomes
    with closing(_Appender(bootstrap_servers, topic)) as appender:
        places = iter(appender.append(winners))
        _put_newest_last(bootstrap_servers, topic, log.ends, standing, appender)
    return [_redriven(each, next(places)) if each.verdict == "to re-drive" else each for each in outcomes]


def judge(
    chosen: Sequence[DeadLetter], topic: str, ends: Mapping[int, int], standing: Mapping[FactName, Order]
) -> list[Outcome]:
    """What is to become of each letter.

    `ends` are those of the topic's partitions, `standing` is the order of the newest event of each fact in it.
    """
    facts: dict[Place, Fact] = {}
    outcomes: dict[Place, Outcome] = {}
    for letter in chosen:
        try:
            facts[letter.place] = _acceptable_fact(letter.event, topic, ends)
        except InvalidArgumentError as error:
            outcomes[letter.place] = Outcome(letter, "still refused", str(error))
    in_order = sorted(facts.items(), key=lambda item: item[1].position.offset)
    winners = newest_facts(((fact, place) for place, fact in in_order), standing)
    newest = {**standing, **{name: fact_order(fact) for name, (fact, _) in winners.items()}}
    winning = {place for _, place in winners.values()}
    for letter in chosen:
        if letter.place in winning:
            outcomes[letter.place] = Outcome(letter, "to re-drive")
        elif letter.place in facts:
            outcomes[letter.place] = _losing(letter, facts[letter.place], newest)
    return [outcomes[letter.place] for letter in chosen]


def _acceptable_fact(event: EventRecord, topic: str, ends: Mapping[int, int]) -> Fact:
    if event.topic != topic:
        origin = repr(event.topic) if event.topic else "a topic that its headers do not name"
        raise InvalidArgumentError([FieldViolation("topic", f"must be {topic!r}, but the letter came from {origin}")])
    if not 0 <= event.offset < ends.get(event.partition, 0):
        description = f"is not in {topic}, which was made anew since; publish the event again"
        raise InvalidArgumentError([FieldViolation(f"{event.partition}/{event.offset}", description)])
    return parse_record(event).fact


def _losing(letter: DeadLetter, fact: Fact, newest: Mapping[FactName, Order]) -> Outcome:
    revision, offset = newest[fact_name(fact)]
    if offset == fact.position.offset:
        return Outcome(letter, "in the log already")
    return Outcome(letter, "superseded", f"by revision {revision} at offset {offset}; publish it anew to have it back")


def _redriven(outcome: Outcome, place: Place) -> Outcome:
    return replace(outcome, verdict="re-driven", detail=f"at {outcome.letter.event.topic}/{place[0]}/{place[1]}")


def _put_newest_last(
    bootstrap_servers: str,
    topic: str,
    starts: Mapping[int, int],
    standing: Mapping[FactName, Order],
    appender: "_Appender",
) -> None:
    """What was published while the log was read now stands before an older event of its fact: append it again."""
    while True:
        with open_log(bootstrap_servers, topic, starts) as log:
            since = list(parse_all(log.records(), []))
        overtaken = _overtaken(since, standing)
        if not overtaken:
            return
        starts, standing = log.ends, _orders(since, standing)
        appender.append(overtaken)


def _overtaken(since: Sequence[Event], standing: Mapping[FactName, Order]) -> list[KafkaRecord]:
    last = {fact_name(parsed.fact): record for record, parsed in since}
    newest = newest_facts(((parsed.fact, record) for record, parsed in since), standing)
    return [
        record
        for name, (_, record) in newest.items()
        if record is not last[name] and any(header == ORIGIN_HEADER for header, _ in last[name].headers)
    ]


def _orders(events: Iterable[Event], standing: Mapping[FactName, Order]) -> dict[FactName, Order]:
    newest = newest_facts(((parsed.fact, None) for _, parsed in events), standing)
    return {**standing, **{name: fact_order(fact) for name, (fact, _) in newest.items()}}


class _Appender:
    """Appends records once more, with a header that keeps the first place of each in the order of its fact."""

    def __init__(self, bootstrap_servers: str, topic: str) -> None:
        self._topic = topic
        try:
            self._producer = KafkaProducer(
                bootstrap_servers=bootstrap_servers,
                acks="all",
                enable_idempotence=True,
                max_request_size=_MAX_REQUEST_BYTES,
                bootstrap_timeout_ms=int(_TIMEOUT_SECONDS * 1000),
                max_block_ms=int(_TIMEOUT_SECONDS * 1000),
            )
        except KafkaError as error:
            raise UnavailableError(f"Kafka at {bootstrap_servers} does not answer: {error}; run it again") from error

    def append(self, records: Sequence[KafkaRecord]) -> list[Place]:
        """Returns where they stand once all are acknowledged; raises UnavailableError if one is not."""
        places: list[Place] = []
        try:
            for future in [self._send(record) for record in records]:
                acknowledged = future.get(_TIMEOUT_SECONDS)
                places.append((acknowledged.partition, acknowledged.offset))
        except KafkaError as error:
            raise UnavailableError(
                f"{self._topic} acknowledged {len(places)} of {len(records)} records ({error}); run the command again, "
                "which appends nothing twice"
            ) from error
        return places

    def close(self) -> None:
        """Disconnect."""
        # What could be unsent here, `append` has already reported as not acknowledged.
        with suppress(KafkaTimeoutError):
            self._producer.close(timeout=_CLOSE_SECONDS)

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
