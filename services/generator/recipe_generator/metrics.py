"""Metrics of the generator, each declared once."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram


class GeneratorMetrics:
    """What `/metrics` of a generator shows."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.stage_seconds = Histogram(
            "recipe_generator_stage_seconds",
            "Time of one answer by stage: retrieve the knowledge, generate the text.",
            ["stage"],
            buckets=(0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30),
            registry=registry,
        )
        self.answers = Counter(
            "recipe_generator_answers_total",
            "Answers by their knowledge: edited, unedited_no_match, unedited_off, unedited_degraded.",
            ["knowledge"],
            registry=registry,
        )
        self.tokens = Counter("recipe_generator_tokens_total", "Tokens generated.", registry=registry)
        self.inside = Gauge(
            "recipe_generator_requests_inside", "Requests being answered or waiting for it.", registry=registry
        )
        self.refused = Counter(
            "recipe_generator_requests_refused_total",
            "Requests refused because too many were inside.",
            registry=registry,
        )
