"""A canary: a fact of its own that is published and asked for again and again, so that the whole way is always in use.

What is asked for is the knowledge behind an answer, not its text, which depends on the LLM.
"""

import logging
import time
from collections.abc import Callable
from itertools import cycle
from threading import Event
from typing import Annotated, Final, Literal

import typer
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from recipe_client.client import DEFAULT_GENERATOR, AskOptions, RecipeClient
from recipe_client.options import Generator, Kafka, Topic
from recipe_client.publishing import DEFAULT_KAFKA, DEFAULT_TOPIC, Publisher
from recipe_common.errors import RecipeError, UnavailableError
from recipe_common.json_logging import configure_logging
from recipe_common.lifecycle import stop_on_signals
from recipe_common.metrics_server import start_metrics_server
from recipe_common.tracing import observe, tracer
from recipe_protos.generator.v1 import generator_pb2

logger = logging.getLogger(__name__)

Result = Literal["ok", "not_published", "not_answered", "not_known"]

RESULTS: Final[tuple[Result, ...]] = ("ok", "not_published", "not_answered", "not_known")
ROUND_TRIP_BUCKETS: Final = (0.1, 0.25, 0.5, 1, 2, 3, 5, 10, 30, 60)
FACT_ID: Final = "canary"
PROMPT: Final = "The canary sits in a tree that is called"
_TREES: Final = ("alder", "beech", "cedar", "elm", "hazel", "larch", "maple", "poplar", "rowan", "willow")


class CanaryMetrics:
    """What `/metrics` of a canary shows."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.round_trips = Counter(
            "recipe_canary_round_trips",
            "Round trips by result: ok, not_published, not_answered, not_known (an answer without the fact).",
            ["result"],
            registry=registry,
        )
        self.seconds = Histogram(
            "recipe_canary_round_trip_seconds",
            "From publishing the fact to an answer that knows it; of those that are ok.",
            buckets=ROUND_TRIP_BUCKETS,
            registry=registry,
        )
        self.last_success = Gauge(
            "recipe_canary_last_success_timestamp_seconds",
            "When a round trip was last ok, in Unix time; 0 if none has been.",
            registry=registry,
        )
        for result in RESULTS:
            self.round_trips.labels(result)


class Canary:
    """Publishes its fact with another answer each time, and asks for it; `clock` is monotonic, in seconds."""

    def __init__(
        self,
        publisher: Publisher,
        client: RecipeClient,
        metrics: CanaryMetrics,
        namespace: str,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._publisher = publisher
        self._client = client
        self._metrics = metrics
        self._namespace = namespace
        self._clock = clock
        self._trees = cycle(_TREES)

    def fly(self) -> None:
        """One round trip; what is wrong with the deployment is counted and logged."""
        begun = self._clock()
        with tracer.start_as_current_span("canary") as span:
            result = self._round_trip(next(self._trees))
            span.set_attribute("recipe.canary.result", result)
            self._metrics.round_trips.labels(result).inc()
            if result == "ok":
                observe(self._metrics.seconds, self._clock() - begun)
                self._metrics.last_success.set_to_current_time()

    def _round_trip(self, tree: str) -> Result:
        fact = {"namespace": self._namespace, "fact_id": FACT_ID, "upsert": {"prompt": PROMPT, "answer": tree}}
        try:
            event = self._publisher.publish(fact)
        except UnavailableError as error:
            logger.warning("the canary's fact was not published: %s", error)
            return "not_published"
        # A completion's one token is the answer's; a reply's in chat is not, and would count as an answer not stated.
        options: AskOptions = {
            "namespace": self._namespace,
            "complete": True,
            "max_new_tokens": 1,
            "confirm": False,
            "after": event.position,
        }
        try:
            answer = self._client.ask(PROMPT, **options)
        except RecipeError as error:
            logger.warning("the canary got no answer: %s", error)
            return "not_answered"
        return "ok" if _knows(answer.knowledge, tree) else "not_known"


def _knows(knowledge: generator_pb2.Knowledge, tree: str) -> bool:
    edited = knowledge.status == generator_pb2.KNOWLEDGE_STATUS_EDITED
    if edited and knowledge.fact_id == FACT_ID and knowledge.statement.endswith(tree):
        return True
    status = generator_pb2.KnowledgeStatus.Name(knowledge.status)
    logger.warning("the canary's answer does not know its fact (%s, fact %r)", status, knowledge.fact_id)
    logger.debug("it knows %r, not %s", knowledge.statement, tree)
    return False


def fly_until(stop: Event, canary: Canary, interval_seconds: float) -> None:
    """Round trips, with so much time between them, until `stop` is set."""
    while not stop.is_set():
        canary.fly()
        stop.wait(interval_seconds)


def canary(
    interval: Annotated[float, typer.Option(min=1, help="Seconds between two round trips.")] = 60.0,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds that one answer may take.")] = 30.0,
    namespace: Annotated[str, typer.Option(help="The base of knowledge that holds nothing but its fact.")] = "canary",
    metrics_host: Annotated[str, typer.Option(help="Address of /metrics.")] = "127.0.0.1",
    metrics_port: Annotated[int, typer.Option(min=0, max=65535, help="Port of /metrics; 0 takes a free one.")] = 9104,
    kafka: Kafka = DEFAULT_KAFKA,
    topic: Topic = DEFAULT_TOPIC,
    generator: Generator = DEFAULT_GENERATOR,
) -> None:
    """Publish a fact and ask for it at an interval, and show Prometheus how long that takes, until Ctrl-C."""
    configure_logging("canary")
    stop = stop_on_signals()
    registry = CollectorRegistry()
    metrics = CanaryMetrics(registry)
    with Publisher(kafka, topic) as publisher, RecipeClient(generator=generator, timeout_seconds=timeout) as client:
        server = start_metrics_server(registry, host=metrics_host, port=metrics_port, port_setting="--metrics-port")
        try:
            fly_until(stop, Canary(publisher, client, metrics, namespace), interval)
        finally:
            server.stop()
