"""What a dead letter is made of; that it arrives is tested against a broker."""

from typing import Any

import pytest
from kafka.errors import MessageSizeTooLargeError

from encoder_records import Record
from recipe_common.errors import FieldViolation
from recipe_encoder import dead_letters
from recipe_encoder.dead_letters import (
    MAX_MESSAGE_CHARS,
    DeadLetter,
    DeadLetterError,
    DeadLetterLimit,
    DeadLetterWriter,
    TooManyDeadLettersError,
)
from recipe_encoder.events import InvalidEventError


class Acknowledgement:
    def __init__(self, error: Exception | None) -> None:
        self._error = error

    def get(self, timeout: float) -> None:
        if self._error is not None:
            raise self._error


class Producer:
    """Stands for kafka-python's producer; `error` is what the broker answers."""

    def __init__(self, **_: Any) -> None:
        self.sent: list[dict[str, Any]] = []
        self.error: Exception | None = None

    def send(self, topic: str, **record: Any) -> Acknowledgement:
        self.sent.append({"topic": topic} | record)
        return Acknowledgement(self.error)


@pytest.fixture
def producer(monkeypatch: pytest.MonkeyPatch) -> Producer:
    made = Producer()
    monkeypatch.setattr(dead_letters, "KafkaProducer", lambda **_: made)
    return made


def letter(record: Record, description: str = "is bad") -> DeadLetter:
    return DeadLetter(record, InvalidEventError("validate", [FieldViolation("revision", description)]))


def test_the_record_is_kept_and_the_reasons_follow(producer: Producer) -> None:
    record = Record(b"v", key=b"k", headers=[("a", b"1"), ("recipe-dlq-stage", b"old"), ("empty", None)])
    DeadLetterWriter("broker:9092", "dead", 1.0).write([letter(record)])
    assert producer.sent == [
        {
            "topic": "dead",
            "key": b"k",
            "value": b"v",
            "timestamp_ms": 1_000,
            "headers": [
                ("a", b"1"),
                ("empty", b""),
                ("recipe-dlq-topic", b"updates"),
                ("recipe-dlq-partition", b"1"),
                ("recipe-dlq-offset", b"7"),
                ("recipe-dlq-stage", b"validate"),
                ("recipe-dlq-error-class", b"InvalidEventError"),
                ("recipe-dlq-error-message", b"revision: is bad"),
            ],
        }
    ]


@pytest.mark.parametrize(
    ("record", "key", "value", "timestamp"),
    [
        (Record(None, key=None), b"", None, 1_000),
        (Record(b"v", key=None), None, b"v", 1_000),
        (Record(b"v", key=b"k", timestamp=-1), b"k", b"v", None),
    ],
)
def test_what_a_client_cannot_write_back_is_replaced(
    producer: Producer, record: Record, key: bytes | None, value: bytes | None, timestamp: int | None
) -> None:
    DeadLetterWriter("broker:9092", "dead", 1.0).write([letter(record)])
    (sent,) = producer.sent
    assert (sent["key"], sent["value"], sent["timestamp_ms"]) == (key, value, timestamp)


def test_a_long_message_is_cut(producer: Producer) -> None:
    DeadLetterWriter("broker:9092", "dead", 1.0).write([letter(Record(b""), "x" * 5_000)])
    message = dict(producer.sent[0]["headers"])["recipe-dlq-error-message"]
    assert len(message) == MAX_MESSAGE_CHARS


def test_a_refused_dead_letter_is_an_error(producer: Producer) -> None:
    producer.error = MessageSizeTooLargeError("too large")
    with pytest.raises(DeadLetterError, match="the topic 'dead' did not take a dead letter, so nothing is committed"):
        DeadLetterWriter("broker:9092", "dead", 1.0).write([letter(Record(b""))])


def check(limit: DeadLetterLimit, outcomes: str) -> None:
    """A micro-batch, "x" for each record that was refused."""
    records = [Record(b"", offset=offset) for offset in range(len(outcomes))]
    limit.check(records, [letter(record) for record, outcome in zip(records, outcomes, strict=True) if outcome == "x"])


def test_dead_letters_in_a_row_are_counted_over_the_batches_and_good_records_start_anew() -> None:
    limit = DeadLetterLimit(max_in_a_row=4, max_share=1.0, window=100)
    check(limit, "xxx.")
    check(limit, "xx")
    check(limit, ".xxx")
    with pytest.raises(TooManyDeadLettersError) as caught:
        check(limit, "x.")
    assert str(caught.value) == (
        "4 records in a row went to the dead letters, the last one in stage 'validate' because of 'revision: is bad';"
        " they are committed and none is lost: look at the headers recipe-dlq-* of the dead letters and at what"
        " publishes to 'updates', then start the encoder again and publish what was refused once more"
    )


def test_the_share_of_dead_letters_counts_once_the_window_is_full() -> None:
    limit = DeadLetterLimit(max_in_a_row=100, max_share=0.5, window=6)
    check(limit, "xxx")
    check(limit, "...")
    check(limit, "x")  # the oldest one left the window
    check(limit, ".")
    with pytest.raises(TooManyDeadLettersError, match=r"^4 of the last 6 records went to the dead letters"):
        check(limit, "xxx")


def test_batches_without_dead_letters_never_stop_the_encoder() -> None:
    limit = DeadLetterLimit(max_in_a_row=1, max_share=0.1, window=2)
    with pytest.raises(TooManyDeadLettersError):
        check(limit, "x")
    check(limit, ".")
