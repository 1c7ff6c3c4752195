"""Traces by OpenTelemetry; off unless OTEL_EXPORTER_OTLP_ENDPOINT names a collector.

Everything uses OpenTelemetry's API, whose spans do nothing until `configure_tracing` has put the SDK behind them.
Contexts travel as W3C's `traceparent`, in the headers of Kafka records and in the metadata of gRPC calls. No span
holds the text of a fact, a question or an answer.
"""

import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Final

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from prometheus_client import Histogram

from recipe_common.errors import FailedPreconditionError

ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_PROTOCOLS: Final = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_W3C: Final = TraceContextTextMapPropagator()

tracer: Final = trace.get_tracer("recipe")


def configure_tracing(service: str) -> None:
    """Sends traces to the collector that the environment names, by OTLP over gRPC; without one it does nothing.

    The service is called `recipe-{service}` unless OTEL_SERVICE_NAME says otherwise; OpenTelemetry's variables for
    sampling, headers and certificates count too. What is left is sent when the process ends in order. Raises
    FailedPreconditionError if the environment asks for another protocol.
    """
    if not any(map(os.environ.get, ENDPOINTS)):
        return
    protocol = next(filter(None, map(os.environ.get, _PROTOCOLS)), "grpc")
    if protocol != "grpc":
        raise FailedPreconditionError(
            f"{_PROTOCOLS[1]}: must be grpc, not {protocol}; name a gRPC receiver, whose port is usually 4317"
        )
    # Half a second that nobody who does without traces should wait for.
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter  # noqa: PLC0415
    from opentelemetry.sdk.resources import SERVICE_NAME, OTELResourceDetector, Resource  # noqa: PLC0415
    from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
    from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415

    resource = Resource.create({SERVICE_NAME: f"recipe-{service}"}).merge(OTELResourceDetector().detect())
    provider = TracerProvider(resource=resource)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)


def trace_ids() -> dict[str, str]:
    """`trace_id` and `span_id` of the active span, in hexadecimal; empty if none is."""
    context = trace.get_current_span().get_span_context()
    if not context.is_valid:
        return {}
    return {"trace_id": trace.format_trace_id(context.trace_id), "span_id": trace.format_span_id(context.span_id)}


def carried_by(span: trace.Span | None = None) -> list[tuple[str, str]]:
    """What carries a span, the active one if none is given, to another process; empty if there is none."""
    carrier: dict[str, str] = {}
    _W3C.inject(carrier, None if span is None else trace.set_span_in_context(span))
    return list(carrier.items())


def carried_here(headers: Iterable[tuple[str, str | bytes | None]]) -> Context:
    """The context that came with headers or metadata; an empty one if none did, or a damaged one."""
    carrier = {
        name: value.decode(errors="replace") if isinstance(value, bytes) else value
        for name, value in headers
        if name in _W3C.fields and value is not None
    }
    return _W3C.extract(carrier, Context()) if carrier else Context()


def observe(histogram: Histogram, seconds: float) -> None:
    """Observes a duration; its exemplar is the active span, if that is sampled."""
    sampled = trace.get_current_span().get_span_context().trace_flags.sampled
    histogram.observe(seconds, trace_ids() if sampled else None)


@contextmanager
def stage(name: str, histogram: Histogram, clock: Callable[[], float] = time.perf_counter) -> Iterator[trace.Span]:
    """A part of some work: a span, and its seconds in `histogram`, also if the block raises."""
    begun = clock()
    with tracer.start_as_current_span(name) as span:
        try:
            yield span
        finally:
            observe(histogram, clock() - begun)
