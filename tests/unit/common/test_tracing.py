"""Traces are off unless a collector is named; contexts, exemplars and log lines follow the active span."""

import json
import logging
import os
import subprocess
import sys
import textwrap
from typing import Any

import pytest
from opentelemetry.trace import get_current_span
from prometheus_client import CollectorRegistry, Histogram

from recipe_common.errors import FailedPreconditionError
from recipe_common.json_logging import JsonFormatter
from recipe_common.tracing import (
    ENDPOINTS,
    carried_by,
    carried_here,
    configure_tracing,
    observe,
    stage,
    trace_ids,
    tracer,
)
from tracing import Spans, context

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


def test_without_a_collector_the_sdk_is_not_loaded() -> None:
    script = """
        import sys
        import recipe_client.cli, recipe_encoder.worker, recipe_retriever.service, recipe_generator.service
        from recipe_common.tracing import carried_by, configure_tracing, tracer, trace_ids
        configure_tracing("test")
        with tracer.start_as_current_span("nothing") as span:
            assert not span.is_recording()
            assert carried_by() == [] and trace_ids() == {}
        assert [name for name in sys.modules if name.startswith(("opentelemetry.sdk", "opentelemetry.exporter"))] == []
    """
    environment = {name: value for name, value in os.environ.items() if name not in ENDPOINTS}
    subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=True, env=environment)


def test_another_protocol_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")
    with pytest.raises(FailedPreconditionError) as raised:
        configure_tracing("test")
    assert str(raised.value) == (
        "OTEL_EXPORTER_OTLP_PROTOCOL: must be grpc, not http/protobuf; name a gRPC receiver, whose port is usually 4317"
    )


def test_a_context_arrives_as_it_was_sent(spans: Spans) -> None:
    with tracer.start_as_current_span("sent"):
        (header,) = carried_by()
    sent = context(spans.one("sent"))
    name, value = header
    assert name == "traceparent"
    assert value.split("-")[:3] == ["00", f"{sent.trace_id:032x}", f"{sent.span_id:016x}"]
    arrived = get_current_span(carried_here([("other", b"x"), (name, value.encode())])).get_span_context()
    assert (arrived.trace_id, arrived.span_id, arrived.is_remote) == (sent.trace_id, sent.span_id, True)


def histogram() -> tuple[Histogram, Any]:
    """A histogram, and what gives the exemplar of its bucket up to 1."""
    made = Histogram("some_seconds", "Some.", buckets=(1, 2), registry=CollectorRegistry())

    def exemplar() -> Any:
        samples = [sample for metric in made.collect() for sample in metric.samples]
        return next(sample.exemplar for sample in samples if sample.labels.get("le") == "1.0")

    return made, exemplar


def test_a_stage_is_a_span_and_a_duration_that_names_it(spans: Spans) -> None:
    made, exemplar = histogram()
    with pytest.raises(ValueError, match="broken"), stage("work", made, iter([5.0, 5.75]).__next__):
        raise ValueError("broken")
    span = context(spans.one("work"))
    assert exemplar().value == 0.75
    assert exemplar().labels == {"trace_id": f"{span.trace_id:032x}", "span_id": f"{span.span_id:016x}"}


def test_what_is_not_sampled_is_no_exemplar(spans: Spans) -> None:
    made, exemplar = histogram()
    with tracer.start_as_current_span("not sampled", carried_here([("traceparent", f"00-{TRACE}-{SPAN}-00")])):
        observe(made, 0.5)
        assert trace_ids()["trace_id"] == TRACE
    observe(made, 0.25)
    assert exemplar() is None
    assert spans.all() == []


def test_a_log_line_names_the_active_span(spans: Spans) -> None:
    record = logging.makeLogRecord({"msg": "stored"})
    formatter = JsonFormatter("encoder")
    with tracer.start_as_current_span("active"):
        line = json.loads(formatter.format(record))
        assert {name: line[name] for name in ("trace_id", "span_id")} == trace_ids()
    assert "trace_id" not in json.loads(formatter.format(record))
    assert line["trace_id"] == f"{context(spans.one('active')).trace_id:032x}"
