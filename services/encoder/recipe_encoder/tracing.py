"""The span of a micro-batch, and how it hangs together with the traces of its events."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from opentelemetry.context import Context
from opentelemetry.trace import Link, Span, SpanContext, SpanKind, get_current_span
from opentelemetry.util.types import AttributeValue

from recipe_common.tracing import carried_here, tracer
from recipe_encoder.events import KafkaRecord


@contextmanager
def batch_span(records: Sequence[KafkaRecord]) -> Iterator[None]:
    """From the poll of a micro-batch to its commit; linked to the event of each record that carries a trace.

    One such event's trace goes on with the batch. Several cannot have it as their child: it has a trace of its own
    then, and each event's trace gets one span more, as long as the batch and linked to it.
    """
    contexts = [carried_here(record.headers) for record in records]
    events = [(context, span) for context in contexts if (span := _span_in(context)).is_valid]
    attributes: dict[str, AttributeValue] = {
        "messaging.system": "kafka",
        "messaging.destination.name": records[0].topic,
        "messaging.batch.message_count": len(records),
    }
    parent = events[0][0] if len(events) == 1 else Context()
    links = [Link(event) for _, event in events]
    begun = time.time_ns()
    with tracer.start_as_current_span("process batch", parent, SpanKind.CONSUMER, attributes, links) as batch:
        yield
    if len(events) > 1:
        _show_in([context for context, _ in events], batch, begun)


def _show_in(contexts: Sequence[Context], batch: Span, begun: int) -> None:
    link = Link(batch.get_span_context())
    for context in contexts:
        tracer.start_span("process in batch", context, SpanKind.CONSUMER, links=[link], start_time=begun).end()


def _span_in(context: Context) -> SpanContext:
    return get_current_span(context).get_span_context()
