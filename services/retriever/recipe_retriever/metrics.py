"""Metrics of the retriever, each declared once."""

from typing import Final, Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from recipe_common.call_metrics import call_counter
from recipe_protos.retriever.v1 import retriever_pb2

Stage = Literal["queue", "encode", "search", "fetch", "count", "total"]

STAGES: Final[tuple[Stage, ...]] = ("queue", "encode", "search", "fetch", "count", "total")
DECISIONS: Final = ("hit", "below_sentinel", "empty_base")
STAGE_BUCKETS: Final = (0.001, 0.002, 0.003, 0.005, 0.008, 0.012, 0.02, 0.03, 0.05, 0.1, 0.25, 0.5, 1, 2.5)
BATCH_BUCKETS: Final = (1, 2, 4, 8, 16, 32)
_MARGINS: Final = (0.5, 1, 2, 5, 10, 20, 40, 60, 80, 100, 150, 200, 400)
MARGIN_BUCKETS: Final = (*(-margin for margin in reversed(_MARGINS)), 0, *_MARGINS)


class RetrieverMetrics:
    """What `/metrics` of a retriever shows."""

    def __init__(self, registry: CollectorRegistry) -> None:
        service = retriever_pb2.DESCRIPTOR.services_by_name["RetrieverService"]
        self.calls = call_counter("recipe_retriever_calls", service, registry)
        self.stage_seconds = Histogram(
            "recipe_retriever_stage_seconds",
            "Time of one retrieval by stage: wait for the encoder (queue), encode the query with those beside it, "
            "search the store, fetch the prompt of a hit unless it is cached, look after a miss whether there are "
            "facts (count), and, if it succeeds, all of these (total). None has a wait for min_position.",
            ["stage"],
            buckets=STAGE_BUCKETS,
            registry=registry,
        )
        self.batch_size = Histogram(
            "recipe_retriever_batch_size",
            "Queries in one pass of the text encoder.",
            buckets=BATCH_BUCKETS,
            registry=registry,
        )
        self.inside = Gauge(
            "recipe_retriever_requests_inside", "Queries and other calls being answered or waiting.", registry=registry
        )
        self.places = Gauge(
            "recipe_retriever_request_places", "Requests that may be inside; one more is refused.", registry=registry
        )
        self.refused = Counter(
            "recipe_retriever_requests_refused",
            "Calls refused because too many requests were inside.",
            registry=registry,
        )
        self.prompts = Counter(
            "recipe_retriever_prompts",
            "Prompts of hits by where they came from: cached, or fetched from the store.",
            ["source"],
            registry=registry,
        )
        self.cached_bytes = Gauge(
            "recipe_retriever_cached_prompt_bytes", "Size of the prompts that are cached.", registry=registry
        )
        self.decisions = Counter(
            "recipe_retriever_decisions",
            "Retrievals by decision: hit, below_sentinel, empty_base.",
            ["decision"],
            registry=registry,
        )
        self.margin = Histogram(
            "recipe_retriever_margin",
            "Similarity of the best fact minus that of the sentinel, unitless: of every hit, where it is above 0, and "
            "of a sample of the misses, where it is not, as what a crowd of like facts adds is taken off too.",
            ["decision"],
            buckets=MARGIN_BUCKETS,
            registry=registry,
        )
        self.model_info = Gauge(
            "recipe_retriever_model_info",
            "1 for the model version that is served.",
            ["model_version"],
            registry=registry,
        )
        self._show_every_series()

    def _show_every_series(self) -> None:
        """Zeros are better than gaps: rates and alerts see the first event too."""
        for stage in STAGES:
            self.stage_seconds.labels(stage)
        for decision in DECISIONS:
            self.decisions.labels(decision)
        for source in ("cached", "fetched"):
            self.prompts.labels(source)
        for decision in ("hit", "below_sentinel"):  # in an empty base there is nothing to compare
            self.margin.labels(decision)
