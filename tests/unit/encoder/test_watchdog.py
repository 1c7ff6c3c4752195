"""What counts as stuck, by a clock that the test turns."""

from collections.abc import Callable

import pytest
from kafka.structs import TopicPartition
from prometheus_client import CollectorRegistry

from recipe_encoder.metrics import EncoderMetrics
from recipe_encoder.watchdog import Watchdog

FIRST, SECOND = TopicPartition("updates", 0), TopicPartition("updates", 1)


class Clock:
    now = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def watchdog(clock: Clock, registry: CollectorRegistry) -> Watchdog:
    return Watchdog(60.0, EncoderMetrics(registry), clock=clock)


def test_a_partition_with_lag_and_no_commit_is_stuck_after_a_while(watchdog: Watchdog, clock: Clock) -> None:
    watchdog.assigned([FIRST, SECOND])
    clock.now += 40
    watchdog.measured({FIRST: 7, SECOND: 3})
    watchdog.committed([SECOND])
    clock.now += 20
    assert watchdog.problem() is None
    clock.now += 1
    assert watchdog.problem() == ("partition 0 of updates: 7 records are waiting and none was finished for 61 s")
    watchdog.committed([FIRST])
    assert watchdog.problem() is None


def test_an_idle_partition_is_not_stuck_and_its_time_starts_when_something_waits(
    watchdog: Watchdog, clock: Clock
) -> None:
    watchdog.assigned([FIRST])
    clock.now += 500
    watchdog.measured({FIRST: 0})
    assert watchdog.problem() is None
    clock.now += 59
    watchdog.measured({FIRST: 1})
    assert watchdog.problem() is None
    clock.now += 2
    assert watchdog.problem() == "partition 0 of updates: 1 records are waiting and none was finished for 61 s"


def test_a_partition_that_is_gone_is_no_longer_watched(
    watchdog: Watchdog, clock: Clock, registry: CollectorRegistry
) -> None:
    watchdog.assigned([FIRST])
    watchdog.measured({FIRST: 7})
    watchdog.gone([FIRST])
    watchdog.measured({FIRST: 7})
    watchdog.committed([FIRST])
    clock.now += 500
    assert watchdog.problem() is None
    assert registry.get_sample_value("recipe_encoder_lag_records", {"partition": "0"}) is None


@pytest.mark.parametrize("answer", [lambda dog: dog.measured({}), lambda dog: dog.committed([])])
def test_a_broker_that_does_not_answer_is_a_problem_after_a_while(
    watchdog: Watchdog, clock: Clock, registry: CollectorRegistry, answer: Callable[[Watchdog], None]
) -> None:
    watchdog.unanswered()
    assert registry.get_sample_value("recipe_encoder_paused", {"dependency": "broker"}) == 1
    clock.now += 30
    watchdog.unanswered()
    assert watchdog.problem() is None
    clock.now += 31
    assert watchdog.problem() == "the broker has not answered for 61 s"
    answer(watchdog)
    assert watchdog.problem() is None
    assert registry.get_sample_value("recipe_encoder_paused", {"dependency": "broker"}) == 0


def test_an_encoder_that_finds_no_place_in_its_group_is_a_problem_after_a_while(
    watchdog: Watchdog, clock: Clock
) -> None:
    watchdog.membership(False)
    clock.now += 30
    watchdog.membership(False)
    assert watchdog.problem() is None
    clock.now += 31
    assert watchdog.problem() == "this encoder has tried to join its group for 61 s"
    watchdog.membership(True)
    assert watchdog.problem() is None


def test_lag_and_the_age_of_the_last_commit_can_be_seen(
    watchdog: Watchdog, clock: Clock, registry: CollectorRegistry
) -> None:
    watchdog.assigned([FIRST])
    clock.now += 5
    watchdog.measured({FIRST: 7})
    labels = {"partition": "0"}
    assert registry.get_sample_value("recipe_encoder_lag_records", labels) == 7
    assert registry.get_sample_value("recipe_encoder_last_commit_age_seconds", labels) == 5
    watchdog.committed([FIRST])
    clock.now += 2
    assert registry.get_sample_value("recipe_encoder_last_commit_age_seconds", labels) == 2
