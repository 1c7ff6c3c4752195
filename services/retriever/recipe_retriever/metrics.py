"""Metrics of the retriever, each declared once."""

from typing import Final, Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from recipe_common.call_metrics import call_counter
from recipe_protos.retriever.v1 import retriever_pb2

Stage = Literal["queue", "encode", "search", "verify", "fetch", "count", "total"]

STAGES: Final[tuple[Stage, ...]] = ("queue", "encode", "search", "verify", "fetch", "count", "total")
DECISIONS: Final = ("hit", "below_sentinel", "empty_base")
STAGE_BUCKETS: Final = (0.001, 0.002, 0.003, 0.005, 0.008, 0.012, 0.02, 0.03, 0.05, 0.1, 0.25, 0.5, 1, 2.5)
BATCH_BUCKETS: Final = (1, 2, 4, 8, 16, 32)
CANDIDATE_BUCKETS: Final = (0, 1, 2, 3, 4, 6, 8)
CONFIDENCE_BUCKETS: Final = (0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1)


class RetrieverMetrics:
    """What `/metrics` of a retriever shows."""

    def __init__(self, registry: CollectorRegistry) -> None:
        service = retriever_pb2.DESCRIPTOR.services_by_name["RetrieverService"]
        self.calls = call_counter("recipe_retriever_calls", service, registry)
        self.stage_seconds = Histogram(
            "recipe_retriever_stage_seconds",
            "Time of one retrieval by stage: wait for the encoder (queue), encode the query with those beside it, "
            "search the store for candidates, verify them, fetch the prompt of a hit unless it is cached, look whether "
            "there are facts at all where none is a candidate (count), and, if it succeeds, all of these (total). None "
            "has a wait for min_position.",
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
        self.candidates = Histogram(
            "recipe_retriever_candidates",
            "Facts that one search finds near enough to be verified.",
            buckets=CANDIDATE_BUCKETS,
            registry=registry,
        )
        self.confidence = Histogram(
            "recipe_retriever_confidence",
            "Calibrated probability that the fact that applies does so, or on a miss that the nearest one does; of "
            "every decision that had a candidate which could be verified.",
            ["decision"],
            buckets=CONFIDENCE_BUCKETS,
            registry=registry,
        )
        self.verifier_failures = Counter(
            "recipe_retriever_verifier_failures",
            "Decisions, not explanations, whose second step failed: misses that are marked degraded.",
            registry=registry,
        )
        self.damaged_facts = Counter(
            "recipe_retriever_damaged_facts",
            "Facts left out of a decision because what is stored of them to be read is damaged.",
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
        for decision in ("hit", "below_sentinel"):  # in an empty base there is nothing to verify
            self.confidence.labels(decision)
