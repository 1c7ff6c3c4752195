"""The canary, value by value, against a deployment that does as it is told."""

from collections.abc import Mapping
from threading import Event
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from recipe_client.canary import PROMPT, RESULTS, Canary, CanaryMetrics, fly_until
from recipe_client.publishing import PublishedEvent
from recipe_common.errors import FailedPreconditionError, InvalidArgumentError, RecipeError, UnavailableError
from recipe_protos.generator.v1 import generator_pb2 as pb


class Deployment:
    """Stands for Kafka and for all services: an answer knows what was published last, unless told otherwise."""

    def __init__(self) -> None:
        self.published: list[Mapping[str, Any]] = []
        self.asked: list[dict[str, Any]] = []
        self.broker_error: RecipeError | None = None
        self.generator_error: RecipeError | None = None
        self.changes: dict[str, Any] = {}  # to the knowledge of an answer

    def publish(self, event: Mapping[str, Any]) -> PublishedEvent:
        if self.broker_error is not None:
            raise self.broker_error
        self.published.append(event)
        return PublishedEvent(event["namespace"], event["fact_id"], 0, "e", "updates", 1, len(self.published))

    def ask(self, prompt: str, **options: Any) -> pb.GenerateResponse:
        if self.generator_error is not None:
            raise self.generator_error
        self.asked.append(options | {"prompt": prompt})
        upsert = self.published[-1]["upsert"]
        known = {
            "status": pb.KNOWLEDGE_STATUS_EDITED,
            "fact_id": self.published[-1]["fact_id"],
            "statement": f"{upsert['prompt']} {upsert['answer']}",
        }
        return pb.GenerateResponse(text=" a", knowledge=pb.Knowledge(**known | self.changes))


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


def canary(deployment: Any, registry: CollectorRegistry, *times: float) -> Canary:
    clock = iter(times)
    metrics = CanaryMetrics(registry)
    return Canary(deployment, deployment, metrics, "canary", clock=lambda: next(clock))


def results(registry: CollectorRegistry) -> dict[str, float]:
    """The results that there have been, with their numbers."""
    name = "recipe_canary_round_trips_total"
    counted = {result: registry.get_sample_value(name, {"result": result}) for result in RESULTS}
    assert None not in counted.values()
    return {result: count for result, count in counted.items() if count}


def test_a_round_trip_is_timed_from_publishing_to_an_answer_that_knows(registry: CollectorRegistry) -> None:
    deployment = Deployment()
    canary(deployment, registry, 10.0, 11.5).fly()
    assert results(registry) == {"ok": 1}
    assert registry.get_sample_value("recipe_canary_round_trip_seconds_sum") == 1.5
    assert registry.get_sample_value("recipe_canary_round_trip_seconds_bucket", {"le": "1.0"}) == 0
    assert registry.get_sample_value("recipe_canary_round_trip_seconds_bucket", {"le": "2.0"}) == 1
    assert (registry.get_sample_value("recipe_canary_last_success_timestamp_seconds") or 0) > 1.7e9
    (asked,) = deployment.asked
    assert (asked["prompt"], asked["namespace"], asked["after"].offset) == (PROMPT, "canary", 1)
    assert asked["complete"]  # a token of a reply in chat would not be the answer's


def test_each_round_trip_publishes_another_answer(registry: CollectorRegistry) -> None:
    deployment = Deployment()
    bird = canary(deployment, registry, *range(6))
    for _ in range(3):
        bird.fly()
    assert len({event["upsert"]["answer"] for event in deployment.published}) == 3
    assert results(registry) == {"ok": 3}


@pytest.mark.parametrize(
    "changes",
    [
        {"status": pb.KNOWLEDGE_STATUS_UNEDITED_NO_MATCH},
        {"status": pb.KNOWLEDGE_STATUS_UNEDITED_DEGRADED},
        {"fact_id": "another"},
        {"statement": f"{PROMPT} baobab"},
    ],
)
def test_an_answer_that_does_not_know_the_fact_is_no_success(
    registry: CollectorRegistry, changes: dict[str, Any]
) -> None:
    deployment = Deployment()
    deployment.changes = changes
    canary(deployment, registry, 10.0).fly()
    assert results(registry) == {"not_known": 1}
    assert registry.get_sample_value("recipe_canary_round_trip_seconds_count") == 0
    assert registry.get_sample_value("recipe_canary_last_success_timestamp_seconds") == 0


def test_what_fails_is_counted_by_where_and_the_next_round_trip_is_a_new_one(registry: CollectorRegistry) -> None:
    deployment = Deployment()
    bird = canary(deployment, registry, *range(5))
    deployment.broker_error = UnavailableError("no broker")
    bird.fly()
    deployment.broker_error, deployment.generator_error = None, FailedPreconditionError("not applied yet")
    bird.fly()
    deployment.generator_error = None
    bird.fly()
    assert results(registry) == {"not_published": 1, "not_answered": 1, "ok": 1}


def test_a_canary_that_is_wrong_itself_says_so(registry: CollectorRegistry) -> None:
    deployment = Deployment()
    deployment.broker_error = InvalidArgumentError([])
    with pytest.raises(InvalidArgumentError):
        canary(deployment, registry, 10.0).fly()


def test_it_flies_until_it_is_stopped(registry: CollectorRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    stop = Event()
    deployment = Deployment()
    waits: list[float | None] = []

    def wait(seconds: float | None = None) -> bool:
        waits.append(seconds)
        if len(waits) == 3:
            stop.set()
        return stop.is_set()

    monkeypatch.setattr(stop, "wait", wait)
    fly_until(stop, canary(deployment, registry, *range(6)), 7.0)
    assert waits == [7.0] * 3
    assert results(registry) == {"ok": 3}
