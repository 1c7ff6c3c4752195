"""What tests read of deploy/monitoring, and the metrics that the services really have."""

import re
from collections.abc import Iterable, Iterator
from functools import cache
from typing import Any, Final

import yaml
from prometheus_client import CollectorRegistry, ProcessCollector

from deployment import REPOSITORY
from recipe_client.canary import CanaryMetrics
from recipe_encoder.metrics import EncoderMetrics
from recipe_generator.metrics import GeneratorMetrics
from recipe_retriever.metrics import RetrieverMetrics

MONITORING: Final = REPOSITORY / "deploy/monitoring"
PROMETHEUS: Final = MONITORING / "prometheus"

Rule = dict[str, Any]

_SERIES: Final = re.compile(r"([a-zA-Z_:][\w:]*)\s*(\{[^}]*\})?")
_MATCHER: Final = re.compile(r'(\w+)\s*(=~|!~|!=|=)\s*"([^"]*)"')
_OURS: Final = ("recipe_", "recipe:", "process_")
# Prometheus adds them to what it scrapes.
_TARGET_LABELS: Final = {"job", "instance"}


def rules() -> list[Rule]:
    """All rules, in the order of their files."""
    files = [yaml.safe_load(path.read_text()) for path in sorted((PROMETHEUS / "rules").glob("*.yml"))]
    return [rule for file in files for group in file["groups"] for rule in group["rules"]]


def alerts() -> dict[str, Rule]:
    """The alerts by name."""
    return {rule["alert"]: rule for rule in rules() if "alert" in rule}


def recorded() -> set[str]:
    """The names that recording rules give."""
    return {rule["record"] for rule in rules() if "record" in rule}


def series_in(expression: str) -> Iterator[tuple[str, list[tuple[str, str, str]]]]:
    """The product's own series that a PromQL expression names, each with its matchers: label, operator, value."""
    for name, matchers in _SERIES.findall(expression):
        if name.startswith(_OURS):
            yield name, _MATCHER.findall(matchers)


@cache
def live_series() -> dict[str, list[dict[str, str]]]:
    """All series of all services by name, each with its labels, as they are when nothing has happened yet."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    CanaryMetrics(registry)
    encoder, retriever, generator = EncoderMetrics(registry), RetrieverMetrics(registry), GeneratorMetrics(registry)
    encoder.show_partition(0, lambda: 0.0)
    for each in (encoder, retriever, generator):
        each.model_info.labels("recipe-1").set(1)
    series: dict[str, list[dict[str, str]]] = {}
    for sample in (sample for metric in registry.collect() for sample in metric.samples):
        series.setdefault(sample.name, []).append(sample.labels)
    return series


def problems(expression: str) -> list[str]:
    """What an expression names that no service and no rule has: metrics, labels, values of labels."""
    return [problem for name, matchers in series_in(expression) for problem in _problems(name, matchers)]


def _problems(name: str, matchers: Iterable[tuple[str, str, str]]) -> Iterator[str]:
    if name.startswith("recipe:"):
        if name not in recorded():
            yield f"no rule records {name}"
        return
    if name not in live_series():
        yield f"no service has {name}"
        return
    for label, operator, value in matchers:
        values = {labels[label] for labels in live_series()[name] if label in labels}
        if label in _TARGET_LABELS or value.startswith("$"):
            continue
        wanted = value.split("|") if operator in {"=~", "!~"} else [value]
        if missing := set(wanted) - values:
            yield f"{name} has no {label}={sorted(missing)}, only {sorted(values)}"
