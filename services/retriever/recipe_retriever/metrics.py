"""Metrics of the retriever, each declared once."""

from prometheus_client import CollectorRegistry, Counter, Histogram


class RetrieverMetrics:
    """What `/metrics` of a retriever shows."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.stage_seconds = Histogram(
            "recipe_retriever_stage_seconds",
            "Time of one retrieval by stage: encode the query, search the store, all of the call.",
            ["stage"],
            buckets=(0.001, 0.002, 0.003, 0.005, 0.008, 0.012, 0.02, 0.03, 0.05, 0.1, 0.25, 0.5, 1, 2.5),
            registry=registry,
        )
        self.decisions = Counter(
            "recipe_retriever_decisions_total",
            "Retrievals by decision: hit, below_sentinel, empty_base.",
            ["decision"],
            registry=registry,
        )
        self.hit_margin = Histogram(
            "recipe_retriever_hit_margin",
            "Similarity of a hit minus the similarity of the sentinel; unitless.",
            buckets=(0.5, 1, 2, 5, 10, 20, 40, 60, 80, 100, 150, 200, 400),
            registry=registry,
        )
