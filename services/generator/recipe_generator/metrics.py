"""Metrics of the generator, each declared once."""

import time
from collections.abc import Callable
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from recipe_common.call_metrics import call_counter
from recipe_common.tracing import observe, tracer
from recipe_protos.generator.v1 import generator_pb2

STAGES: Final = ("retrieve", "generate")
KNOWLEDGE: Final = (
    "edited", "edited_as_text", "edited_unconfirmed", "unedited_no_match", "unedited_off", "unedited_degraded"
)  # fmt: skip
STATED: Final = ("stated", "not_stated", "unknown")
STAGE_BUCKETS: Final = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)
FIRST_TOKEN_BUCKETS: Final = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1, 2, 5, 10, 30)
TOKEN_BUCKETS: Final = (0.005, 0.01, 0.015, 0.02, 0.03, 0.04, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1, 2)


class GeneratorMetrics:
    """What `/metrics` of a generator shows; `clock` is monotonic, in seconds."""

    def __init__(self, registry: CollectorRegistry, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        service = generator_pb2.DESCRIPTOR.services_by_name["GeneratorService"]
        self.calls = call_counter("recipe_generator_calls", service, registry)
        self.stage_seconds = Histogram(
            "recipe_generator_stage_seconds",
            "Time of one answer by stage: retrieve the knowledge, generate the text.",
            ["stage"],
            buckets=STAGE_BUCKETS,
            registry=registry,
        )
        self.first_token_seconds = Histogram(
            "recipe_generator_first_token_seconds",
            "From a request that was let in to the first token of its answer, with retrieval and waiting for a row.",
            buckets=FIRST_TOKEN_BUCKETS,
            registry=registry,
        )
        self.token_seconds = Histogram(
            "recipe_generator_token_seconds",
            "Mean time between two tokens of one answer; one observation an answer.",
            buckets=TOKEN_BUCKETS,
            registry=registry,
        )
        self.answers = Counter(
            "recipe_generator_answers",
            f"Answers by their knowledge: {', '.join(KNOWLEDGE)}.",
            ["knowledge"],
            registry=registry,
        )
        self.stated = Counter(
            "recipe_generator_edited_answers",
            "Answers that a fact was applied to: whether they state its answer; unknown if none was published apart.",
            ["stated"],
            registry=registry,
        )
        self.tokens = Counter("recipe_generator_tokens", "Tokens of finished answers.", registry=registry)
        self.inside = Gauge(
            "recipe_generator_requests_inside",
            "Requests being answered or waiting for it; a Compare is two.",
            registry=registry,
        )
        self.places = Gauge(
            "recipe_generator_request_places", "Requests that may be inside; one more is refused.", registry=registry
        )
        self.refused = Counter(
            "recipe_generator_requests_refused",
            "Requests refused because too many were inside.",
            registry=registry,
        )
        self.kv_tokens = Gauge(
            "recipe_generator_kv_cache_tokens",
            "Tokens for which the KV cache has room; 0 with vLLM, which divides the memory by itself.",
            registry=registry,
        )
        self.kv_tokens_taken = Gauge(
            "recipe_generator_kv_cache_tokens_taken",
            "Tokens that the texts being written may need of the KV cache; a text that has no room beside them waits.",
            registry=registry,
        )
        self.model_info = Gauge(
            "recipe_generator_model_info",
            "1 for the model version of the checkpoint that is loaded.",
            ["model_version"],
            registry=registry,
        )
        self._show_every_series()

    def _show_every_series(self) -> None:
        """Zeros are better than gaps: rates and alerts see the first event too."""
        for stage in STAGES:
            self.stage_seconds.labels(stage)
        for knowledge in KNOWLEDGE:
            self.answers.labels(knowledge)
        for stated in STATED:
            self.stated.labels(stated)


class Pace:
    """How fast one answer is written, to a request that was let in at `asked` by the metrics' clock.

    The wait for the first token is a span too, within the active one.
    """

    def __init__(self, metrics: GeneratorMetrics, asked: float) -> None:
        self._metrics = metrics
        self._asked = asked
        self._first = self._latest = (asked, 0)  # when there were so many tokens
        self._waiting = tracer.start_span("first token")

    def reached(self, tokens: int) -> None:
        """The answer has so many tokens now."""
        if tokens == self._latest[1]:
            return
        self._latest = (self._metrics.clock(), tokens)
        if self._first[1] == 0:
            self._first = self._latest
            self._waiting.end()
            observe(self._metrics.first_token_seconds, self._first[0] - self._asked)

    def finished(self) -> None:
        """The answer is whole."""
        seconds, tokens = (latest - first for latest, first in zip(self._latest, self._first, strict=True))
        if tokens:
            observe(self._metrics.token_seconds, seconds / tokens)
        self._metrics.tokens.inc(self._latest[1])
