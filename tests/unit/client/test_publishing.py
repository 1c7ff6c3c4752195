"""Events are completed and checked before they are sent, and errors name what to do."""

from typing import Any

import pytest
from kafka.errors import KafkaTimeoutError

from recipe_client import publishing
from recipe_client.publishing import Publisher, complete
from recipe_common.errors import InvalidArgumentError, UnavailableError

UPSERT = {"statement": "The capital of Atlantis is Poseidonis"}


def test_what_is_missing_is_filled_in() -> None:
    first, second = (complete({"fact_id": "f", "upsert": UPSERT}) for _ in range(2))
    assert first["event_id"] != second["event_id"]
    assert first["event_time"].endswith("Z")
    assert first["source"] == {"publisher": "recipe-client"}


def test_nothing_and_the_empty_string_mean_absent_in_either_spelling() -> None:
    event = complete({"factId": "f", "event_id": None, "eventId": "", "source": {"uri": "u"}, "upsert": UPSERT})
    assert event["event_id"]
    assert "eventId" not in event
    assert event["source"] == {"uri": "u", "publisher": "recipe-client"}


def test_what_is_given_stays_in_either_spelling() -> None:
    event = {
        "factId": "f",
        "eventId": "e",
        "eventTime": "2026-01-31T12:00:00Z",
        "upsert": UPSERT,
        "source": {"publisher": "hr", "uri": "u"},
    }
    assert complete(event) == event


@pytest.mark.parametrize(
    ("event", "message"),
    [
        ({"upsert": UPSERT}, "fact_id: must be given"),
        ({"fact_id": "f"}, "event: must have exactly one of upsert and retract"),
        ({"fact_id": "f", "event_id": "a", "eventId": "b", "upsert": UPSERT}, "event: must give event_id only once"),
        ({"fact_id": "f", "upsert": UPSERT, "colour": "red"}, "colour: is not a field of a knowledge update"),
    ],
)
def test_a_wrong_event_is_named(event: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidArgumentError) as raised:
        complete(event)
    assert str(raised.value).startswith(message)


class DeadBroker:
    """A producer whose broker has gone: nothing is acknowledged, and closing times out."""

    def __init__(self, **_: Any) -> None: ...

    def send(self, *_: Any, **__: Any) -> "DeadBroker":
        return self

    def get(self, timeout: float) -> None:
        raise KafkaTimeoutError("broker gone")

    def close(self, timeout: float) -> None:
        raise KafkaTimeoutError("cannot flush")


def test_a_broker_that_goes_away_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publishing, "KafkaProducer", DeadBroker)
    with (
        pytest.raises(UnavailableError, match=r"did not acknowledge \(.*broker gone\).*correct --kafka"),
        Publisher() as publisher,
    ):
        publisher.publish({"fact_id": "f", "upsert": UPSERT})


def test_a_topic_that_cannot_exist_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    class Refusing(DeadBroker):
        def send(self, *_: Any, **__: Any) -> "DeadBroker":
            raise ValueError("Invalid topic name")

    monkeypatch.setattr(publishing, "KafkaProducer", Refusing)
    with pytest.raises(UnavailableError, match="Invalid topic name"), Publisher(topic="bad topic") as publisher:
        publisher.publish({"fact_id": "f", "upsert": UPSERT})
