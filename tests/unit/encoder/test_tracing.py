"""How micro-batches hang together with the traces of their events."""

import dataclasses

import pytest
from opentelemetry.sdk.trace import ReadableSpan

from encoder_records import Record, json_record
from recipe_common.tracing import carried_by, tracer
from recipe_encoder.tracing import batch_span
from tracing import Spans, ids, is_child, links, trace_of


def published(spans: Spans, name: str) -> tuple[ReadableSpan, Record]:
    """The span of a publisher, and what it published."""
    with tracer.start_as_current_span(name):
        headers: list[tuple[str, bytes | None]] = [(header, value.encode()) for header, value in carried_by()]
    return spans.one(name), dataclasses.replace(json_record({}), headers=headers)


def test_a_batch_of_one_event_goes_on_in_its_trace(spans: Spans) -> None:
    event, record = published(spans, "a")
    with batch_span([record, json_record({})]):
        pass
    batch = spans.one("process batch")
    assert is_child(batch, event)
    assert links(batch) == {ids(event)}
    assert len(spans.all()) == 2


def test_a_batch_of_several_is_linked_with_each_and_each_with_it(spans: Spans) -> None:
    (first, one), (second, two) = published(spans, "a"), published(spans, "b")
    with tracer.start_as_current_span("active"), batch_span([one, two, json_record({})]):
        pass
    batch = spans.one("process batch")
    assert batch.parent is None
    assert links(batch) == {ids(first), ids(second)}
    shown = spans.named("process in batch", 2)
    assert [is_child(span, event) for span, event in zip(shown, (first, second), strict=True)] == [True, True]
    assert [links(span) for span in shown] == [{ids(batch)}] * 2
    assert shown[0].start_time is not None
    assert batch.start_time is not None
    assert abs(shown[0].start_time - batch.start_time) < 10**9


@pytest.mark.parametrize("value", [b"nonsense", b"\xff\xff", None])
def test_a_damaged_context_is_none(spans: Spans, value: bytes | None) -> None:
    record = dataclasses.replace(json_record({}), headers=[("traceparent", value)])
    with batch_span([record]):
        pass
    batch = spans.one("process batch")
    assert (batch.parent, links(batch)) == (None, set())


def test_a_batch_that_fails_leaves_no_span_with_its_events(spans: Spans) -> None:
    (first, one), (_, two) = published(spans, "a"), published(spans, "b")
    with pytest.raises(ValueError, match="store"), batch_span([one, two]):
        raise ValueError("store")
    batch = spans.one("process batch")
    assert not batch.status.is_ok
    assert [span for span in spans.all() if trace_of(span) == trace_of(first)] == [first]
