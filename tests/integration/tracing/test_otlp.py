"""The environment's variable alone sends traces to a receiver that speaks OTLP."""

import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
from kafka import KafkaConsumer, TopicPartition
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as otlp
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc

from brokers import Topics
from recipe_common.tracing import ENDPOINTS

RECIPE = Path(sys.executable).with_name("recipe")


class Receiver(trace_service_pb2_grpc.TraceServiceServicer):
    """A collector that keeps what it is sent."""

    def __init__(self) -> None:
        self.requests: list[otlp.ExportTraceServiceRequest] = []
        self.address = ""

    def Export(  # noqa: N802
        self, request: otlp.ExportTraceServiceRequest, context: grpc.ServicerContext
    ) -> otlp.ExportTraceServiceResponse:
        self.requests.append(request)
        return otlp.ExportTraceServiceResponse()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    server = grpc.server(ThreadPoolExecutor(1))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(made, server)  # type: ignore[no-untyped-call]
    made.address = f"http://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    yield made
    server.stop(0)


def publish(broker: str, topics: Topics, **variables: str) -> list[tuple[str, bytes]]:
    """Publishes a fact as a user does, and returns the headers of its record."""
    command = [str(RECIPE), "publish", "f", "--statement", "The river of Aville is Dee"]
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    environment = inherited | {"RECIPE_KAFKA": broker, "RECIPE_TOPIC": topics.updates} | variables
    subprocess.run(command, env=environment, check=True, capture_output=True)
    partitions = [TopicPartition(topics.updates, number) for number in (0, 1)]
    with KafkaConsumer(bootstrap_servers=broker, auto_offset_reset="earliest") as consumer:
        consumer.assign(partitions)
        record = next(record for _ in range(60) for batch in consumer.poll(500).values() for record in batch)
    headers: list[tuple[str, bytes]] = list(record.headers)
    return headers


def service_name(request: otlp.ExportTraceServiceRequest) -> str:
    """Who has sent it."""
    attributes = request.resource_spans[0].resource.attributes
    return {each.key: each.value.string_value for each in attributes}["service.name"]


@pytest.mark.parametrize("variable", ENDPOINTS)
def test_spans_reach_the_collector(receiver: Receiver, broker: str, topics: Topics, variable: str) -> None:
    headers = dict(publish(broker, topics, **{variable: receiver.address}))
    (request,) = receiver.requests
    (resource,) = request.resource_spans
    (scope,) = resource.scope_spans
    (span,) = scope.spans
    assert service_name(request) == "recipe-client"
    assert (scope.scope.name, span.name) == ("recipe", f"publish {topics.updates}")
    assert headers["traceparent"].decode().split("-")[1:3] == [span.trace_id.hex(), span.span_id.hex()]


def test_the_service_has_the_name_that_the_environment_gives(receiver: Receiver, broker: str, topics: Topics) -> None:
    publish(broker, topics, OTEL_EXPORTER_OTLP_ENDPOINT=receiver.address, OTEL_SERVICE_NAME="press-office")
    assert service_name(receiver.requests[0]) == "press-office"


def test_a_service_sends_what_is_left_when_a_signal_ends_it(receiver: Receiver) -> None:
    script = """
        import os, signal, sys
        from recipe_common.lifecycle import stop_on_signals
        from recipe_common.process import run_service
        from recipe_common.tracing import tracer

        def run():
            stop = stop_on_signals()
            with tracer.start_as_current_span("last"):
                os.kill(os.getpid(), signal.SIGTERM)
                stop.wait()

        sys.exit(run_service("encoder", "RECIPE_ENCODER_", run))
    """
    environment = os.environ | {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.address}
    subprocess.run([sys.executable, "-c", textwrap.dedent(script)], env=environment, check=True)
    (request,) = receiver.requests
    assert service_name(request) == "recipe-encoder"
    assert [span.name for span in request.resource_spans[0].scope_spans[0].spans] == ["last"]


def test_without_a_collector_records_carry_no_trace(broker: str, topics: Topics) -> None:
    assert publish(broker, topics) == [("content-type", b"application/json")]
