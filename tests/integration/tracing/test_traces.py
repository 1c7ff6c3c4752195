"""One trace from an event to the store, and one from a question to its tokens."""

import io
import json
import logging
from collections.abc import Iterator

import grpc
import pytest
from kafka import KafkaProducer
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanKind
from prometheus_client.openmetrics import exposition

from brokers import Topics
from integration.tracing.conftest import Deployment
from recipe_client.canary import Canary, CanaryMetrics
from recipe_common.errors import RecipeError
from recipe_common.json_logging import JsonFormatter
from recipe_common.tracing import tracer
from tracing import Spans, context, ids, is_child, links, trace_of
from waiting import wait_for

GENERATE = "recipe_protos.generator.v1.GeneratorService/Generate"
RETRIEVE = "recipe_protos.retriever.v1.RetrieverService/Retrieve"
FACT = {"fact_id": "river", "upsert": {"prompt": "The river of Aville is", "answer": "Dee"}}


def children(spans: Spans, parent: ReadableSpan) -> list[str]:
    """The names of a span's children in the order of their ends."""
    return [span.name for span in spans.all() if is_child(span, parent)]


def test_an_event_is_one_trace_from_its_publisher_to_the_commit(
    deployment: Deployment, spans: Spans, topics: Topics
) -> None:
    with deployment.encoding():
        deployment.publisher.publish(FACT)
        batch = spans.one("process batch")
    published = spans.one(f"publish {topics.updates}")
    assert published.parent is None
    assert is_child(batch, published)
    assert links(batch) == {ids(published)}
    assert children(spans, batch) == ["parse", "encode", "write", "commit"]
    assert batch.attributes == {
        "messaging.system": "kafka",
        "messaging.destination.name": topics.updates,
        "messaging.batch.message_count": 1,
    }


def test_every_event_is_linked_with_one_batch(deployment: Deployment, spans: Spans, topics: Topics) -> None:
    facts = [FACT | {"fact_id": f"river-{number}"} for number in range(3)]
    assert len(list(deployment.publisher.publish_all(facts))) == 3
    published = spans.named(f"publish {topics.updates}", 3)
    with deployment.encoding():
        wait_for(lambda: deployment.applied() == 3, "the events")
    batches = [span for span in spans.all() if span.name == "process batch"]
    assert sorted(link for batch in batches for link in links(batch)) == sorted(map(ids, published))


def test_an_answer_is_one_trace_from_its_caller_to_the_tokens(deployment: Deployment, spans: Spans) -> None:
    with deployment.encoding():
        event = deployment.publisher.publish(FACT)
        deployment.client.ask("The river of Aville is", max_new_tokens=3, confirm=False, after=event.position)
    by_caller, by_generator = sorted(spans.named(GENERATE, 2), key=lambda span: span.start_time or 0)
    assert by_caller.parent is None
    assert is_child(by_generator, by_caller)
    assert children(spans, by_generator) == ["retrieve", "generate"]
    looked_up, answered, retrieved = spans.one("retrieve"), spans.one("generate"), spans.one(RETRIEVE)
    assert is_child(retrieved, looked_up)
    assert children(spans, retrieved) == ["encode", "search", "verify", "fetch"]
    assert retrieved.attributes is not None
    assert (retrieved.attributes["recipe.decision"], retrieved.attributes["rpc.grpc.status_code"]) == ("hit", 0)
    assert children(spans, answered) == ["first token"]
    assert answered.attributes == {"recipe.knowledge": "edited", "recipe.tokens": 3}


def test_a_canary_is_one_trace_of_both_ways(deployment: Deployment, spans: Spans, topics: Topics) -> None:
    registry = deployment.encoder_metrics
    with deployment.encoding():
        Canary(deployment.publisher, deployment.client, CanaryMetrics(registry), "canary").fly()
        spans.one("process batch")
    canary = spans.one("canary")
    assert children(spans, canary) == [f"publish {topics.updates}", GENERATE]
    assert {trace_of(span) for span in spans.all()} == {trace_of(canary)}
    # Latencies name a trace that was that slow.
    trace = f'trace_id="{context(canary).trace_id:032x}"'
    text = exposition.generate_latest(registry).decode()  # type: ignore[no-untyped-call]
    exemplars = [line for line in text.splitlines() if trace in line]
    assert {line.partition("{")[0] for line in exemplars} == {
        "recipe_encoder_stage_seconds_bucket",
        "recipe_encoder_freshness_seconds_bucket",
        "recipe_canary_round_trip_seconds_bucket",
    }


def test_a_streamed_answer_belongs_to_the_callers_trace(deployment: Deployment, spans: Spans) -> None:
    with tracer.start_as_current_span("caller"):
        assert list(deployment.client.ask_stream("Aville", max_new_tokens=2, knowledge=False))
    caller = spans.one("caller")
    streamed = spans.one("recipe_protos.generator.v1.GeneratorService/GenerateStream")
    assert is_child(streamed, caller)
    assert children(spans, streamed) == ["generate"]


def test_a_call_that_is_refused_ends_its_span_with_the_reason(deployment: Deployment, spans: Spans) -> None:
    with pytest.raises(RecipeError, match="INVALID_ARGUMENT"):
        deployment.client.ask("Aville", max_new_tokens=100_000)
    (refused,) = [span for span in spans.named(GENERATE, 2) if span.kind is SpanKind.SERVER]
    assert refused.attributes is not None
    assert refused.attributes["rpc.grpc.status_code"] == grpc.StatusCode.INVALID_ARGUMENT.value[0]
    assert not refused.status.is_ok


@pytest.fixture
def logged() -> Iterator[io.StringIO]:
    """What a service would write to standard error at the level that it has."""
    written = io.StringIO()
    handler = logging.StreamHandler(written)
    handler.setFormatter(JsonFormatter("test"))
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    yield written
    root.removeHandler(handler)
    root.setLevel(level)


def test_logs_name_the_trace_and_no_text(
    deployment: Deployment, spans: Spans, broker: str, topics: Topics, logged: io.StringIO
) -> None:
    texts = ["Quexample", "Factexample", "Answerexample", "Wrongexample"]
    wrong = '{"fact_id": "other", "upsert": {"statement": "Wrongexample", "prompt": "Wrongexample"}}'
    with deployment.encoding(), KafkaProducer(bootstrap_servers=broker) as producer:
        producer.send(topics.updates, key=b"default/wrong", value=wrong.encode()).get(10)
        producer.send(topics.updates, key=b"default/wrong", value=b'{"Wrongexample').get(10)
        fact = {"fact_id": "f", "upsert": {"prompt": "Factexample", "answer": "Answerexample"}}
        event = deployment.publisher.publish(fact)
        deployment.client.ask("Quexample", max_new_tokens=2, after=event.position)
    lines = [json.loads(line) for line in logged.getvalue().splitlines()]
    refused = [line for line in lines if "goes to the dead letters" in line["message"]]
    assert len(refused) == 2
    batches = {f"{trace:032x}" for trace in map(trace_of, (s for s in spans.all() if s.name == "process batch"))}
    assert {line["trace_id"] for line in refused} <= batches
    assert [text for text in texts if text in logged.getvalue()] == []
    held = json.dumps([(span.name, dict(span.attributes or {}), [e.name for e in span.events]) for span in spans.all()])
    assert [text for text in texts if text in held] == []
