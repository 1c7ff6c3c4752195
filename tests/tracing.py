"""The spans of a test, in memory."""

from collections.abc import Iterator

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from waiting import wait_for


class Spans:
    """What has been exported since the test began."""

    def __init__(self, exporter: InMemorySpanExporter) -> None:
        self._exporter = exporter

    def all(self) -> list[ReadableSpan]:
        """The spans that have ended, in the order of their ends."""
        return list(self._exporter.get_finished_spans())

    def named(self, name: str, count: int = 1) -> list[ReadableSpan]:
        """The spans of that name, once there are so many; no more may come than are waited for."""
        wait_for(lambda: len(self._of(name)) >= count, f"{count} spans {name!r}")
        found = self._of(name)
        assert len(found) == count
        return found

    def one(self, name: str) -> ReadableSpan:
        """The only span of that name."""
        return self.named(name)[0]

    def clear(self) -> None:
        """Forgets them."""
        self._exporter.clear()

    def _of(self, name: str) -> list[ReadableSpan]:
        return [span for span in self.all() if span.name == name]


_exporter = InMemorySpanExporter()


@pytest.fixture(scope="session")
def _provider() -> TracerProvider:
    """A process has one provider for good, so the tests that come later are traced too, which changes nothing else."""
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(_exporter))
    trace.set_tracer_provider(provider)
    assert trace.get_tracer_provider() is provider
    return provider


@pytest.fixture
def spans(_provider: TracerProvider) -> Iterator[Spans]:
    """Traces are on and kept in memory while the test runs."""
    kept = Spans(_exporter)
    kept.clear()
    yield kept
    kept.clear()


def context(span: ReadableSpan) -> trace.SpanContext:
    """What identifies a span."""
    identity: trace.SpanContext | None = span.context
    assert identity is not None
    return identity


def trace_of(span: ReadableSpan) -> int:
    """The trace that a span belongs to."""
    return context(span).trace_id


def is_child(child: ReadableSpan, parent: ReadableSpan) -> bool:
    """Whether the one is the other's child, in one trace."""
    known = child.parent is not None and child.parent.span_id == context(parent).span_id
    return known and trace_of(child) == trace_of(parent)


def links(span: ReadableSpan) -> set[tuple[int, int]]:
    """What a span is linked to: trace and span ids."""
    return {(link.context.trace_id, link.context.span_id) for link in span.links}


def ids(span: ReadableSpan) -> tuple[int, int]:
    """As `links` has it."""
    return trace_of(span), context(span).span_id
