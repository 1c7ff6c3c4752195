"""Dead letters as their topic holds them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from recipe_client.log import open_log
from recipe_common.errors import FieldViolation, InvalidArgumentError, NotFoundError
from recipe_encoder.dead_letters import HEADER_PREFIX
from recipe_encoder.events import KafkaRecord

Place = tuple[int, int]  # partition and offset among the dead letters
Origin = tuple[str, int, int]  # topic, partition and offset of the event


@dataclass(frozen=True, slots=True)
class EventRecord:
    """A record as the encoder reads it; `timestamp` is in ms since the epoch, -1 if there is none."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes | None]]


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A refused event as it stood in its topic, why it was refused, and where it stands among the dead letters."""

    place: Place
    event: EventRecord  # topic "" and numbers -1 where the headers do not say where it stood
    stage: str
    error_class: str
    error_message: str

    @property
    def origin(self) -> Origin:
        """Where the event stood."""
        return self.event.topic, self.event.partition, self.event.offset

    @property
    def namespace(self) -> str:
        """The one that its key names."""
        return (self.event.key or b"").decode(errors="replace").partition("/")[0]


def to_letter(record: KafkaRecord) -> DeadLetter:
    """The dead letter that a record of their topic is."""
    why = {
        name.removeprefix(HEADER_PREFIX): (value or b"").decode(errors="replace")
        for name, value in record.headers
        if name.startswith(HEADER_PREFIX)
    }
    event = EventRecord(
        topic=why.get("topic", ""),
        partition=_number(why.get("partition", "")),
        offset=_number(why.get("offset", "")),
        timestamp=record.timestamp,
        key=record.key,
        value=record.value,
        headers=[(name, value) for name, value in record.headers if not name.startswith(HEADER_PREFIX)],
    )
    place = (record.partition, record.offset)
    reasons = (why.get(name, "") for name in ("stage", "error-class", "error-message"))
    return DeadLetter(place, event, *reasons)


def read_letters(bootstrap_servers: str, topic: str) -> Iterator[DeadLetter]:
    """All dead letters. Raises NotFoundError if their topic does not exist, and UnavailableError."""
    with open_log(bootstrap_servers, topic) as log:
        for record in log.records():
            yield to_letter(record)


def read_letter(bootstrap_servers: str, topic: str, place: Place) -> DeadLetter:
    """One dead letter. Raises NotFoundError if it or the topic does not exist, and UnavailableError."""
    partition, offset = place
    with open_log(bootstrap_servers, topic, {partition: offset}) as log:
        first = next(log.records(), None) if partition in log.ends else None
    if first is None or first.offset != offset:
        raise NotFoundError(f"place: there is no dead letter {partition}/{offset} in {topic}; see 'recipe dlq list'")
    return to_letter(first)


def parse_place(text: str) -> Place:
    """`PARTITION/OFFSET`, or an offset of partition 0. Raises InvalidArgumentError."""
    partition, _, offset = text.rpartition("/")
    place = (_number(partition or "0"), _number(offset))
    if min(place) < 0:
        raise InvalidArgumentError([FieldViolation("place", f"{text!r} must be OFFSET or PARTITION/OFFSET")])
    return place


def _number(text: str) -> int:
    """The number, -1 if it is none that a partition or an offset can be."""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else -1  # noqa: PLR2004
