"""What tests read of deploy/monitoring, and the metrics that the services really have."""

import json
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

# A name that no parenthesis follows, and its matchers; what a list of labels or a range holds is taken out before.
_SERIES: Final = re.compile(r"(?<![\w.:])([a-zA-Z_:][\w:]*)(?![\w:]|\s*\()\s*(\{[^}]*\})?")
_LABEL_LISTS: Final = re.compile(r"\b(by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)|\[[^\]]*\]")
_MATCHER: Final = re.compile(r'(\w+)\s*(=~|!~|!=|=)\s*"([^"]*)"')
_WORDS: Final = {"and", "or", "unless", "offset", "Inf"}
_PROMETHEUS_OWN: Final = {"up", "ALERTS"}
# Prometheus adds them to what it scrapes.
_TARGET_LABELS: Final = {"job", "instance"}


def rules() -> list[Rule]:
    """All rules, in the order of their files."""
    files = [yaml.safe_load(path.read_text()) for path in sorted((PROMETHEUS / "rules").glob("*.yml"))]
    return [rule for file in files for group in file["groups"] for rule in group["rules"]]


def dashboards() -> dict[str, dict[str, Any]]:
    """The committed dashboards by the names of their files."""
    files = sorted((MONITORING / "grafana/dashboards").glob("*.json"))
    return {path.stem: json.loads(path.read_text()) for path in files}


def expressions() -> list[str]:
    """What the panels of all dashboards ask for."""
    panels = [panel for dashboard in dashboards().values() for panel in dashboard["panels"]]
    return [target["expr"] for panel in panels for target in panel.get("targets", [])]


def alerts() -> dict[str, Rule]:
    """The alerts by name."""
    return {rule["alert"]: rule for rule in rules() if "alert" in rule}


def recorded() -> set[str]:
    """The names that recording rules give."""
    return {rule["record"] for rule in rules() if "record" in rule}


def series_in(expression: str) -> Iterator[tuple[str, list[tuple[str, str, str]]]]:
    """The series that a PromQL expression names, each with its matchers: label, operator, value."""
    for name, matchers in _SERIES.findall(_LABEL_LISTS.sub("", expression)):
        if name not in _WORDS:
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
    if name in _PROMETHEUS_OWN:
        return
    if name.startswith("recipe:"):
        if name not in recorded():
            yield f"no rule records {name}"
        return
    if name not in live_series():
        yield f"no service has {name}"
        return
    for label, operator, value in matchers:
        values = {labels[label] for labels in live_series()[name] if label in labels}
        if label in _TARGET_LABELS:
            continue
        wanted = value.split("|") if operator in {"=~", "!~"} else [value]
        if missing := set(wanted) - values:
            yield f"{name} has no {label}={sorted(missing)}, only {sorted(values)}"
