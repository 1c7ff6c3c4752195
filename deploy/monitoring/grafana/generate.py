"""The dashboards as code: writes `dashboards/*.json`, or with `--check` fails if those are stale."""

import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import ascii_uppercase
from typing import Final

from grafana_foundation_sdk.builders import common, dashboard, prometheus, stat, timeseries
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import LegendDisplayMode, LegendPlacement
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DashboardLinkType,
    DataSourceRef,
    Panel,
    Threshold,
    VariableOption,
)

FOLDER: Final = Path(__file__).parent / "dashboards"
SOURCE: Final = DataSourceRef(type_val="prometheus", uid="${datasource}")
HEIGHT: Final = 8
TAG: Final = "recipe"

Query = tuple[str, str]  # PromQL and legend


@dataclass(frozen=True)
class Graph:
    """Lines over time; `unit` is one of Grafana's."""

    title: str
    unit: str
    queries: Sequence[Query]
    about: str = ""
    width: int = 8
    highest: float | None = None

    def build(self, number: int) -> Builder[Panel]:
        """The panel with that id."""
        legend = common.VizLegendOptions().show_legend(True).display_mode(LegendDisplayMode.LIST)
        panel = (
            timeseries.Panel()
            .legend(legend.placement(LegendPlacement.BOTTOM))
            .line_width(1)
            .fill_opacity(8)
            .id(number)
            .title(self.title)
            .description(self.about)
            .unit(self.unit)
            .datasource(SOURCE)
            .height(HEIGHT)
            .span(self.width)
            .targets([_target(*query, number=place) for place, query in enumerate(self.queries)])
        )
        return panel if self.highest is None else panel.min(0).max(self.highest)


@dataclass(frozen=True)
class Number:
    """The latest values, red below `red` and green from `green` on."""

    title: str
    unit: str
    query: Query
    red: float
    green: float
    about: str = ""
    width: int = 8

    def build(self, number: int) -> Builder[Panel]:
        """The panel with that id."""
        steps = [Threshold(color="red"), Threshold(self.red, "orange"), Threshold(self.green, "green")]
        return (
            stat.Panel()
            .thresholds(dashboard.ThresholdsConfig().steps(steps))
            .id(number)
            .title(self.title)
            .description(self.about)
            .unit(self.unit)
            .datasource(SOURCE)
            .height(HEIGHT)
            .span(self.width)
            .targets([_target(*self.query, number=0)])
        )


Rows = dict[str, Sequence[Graph | Number]]


def _target(expression: str, legend: str, *, number: int) -> prometheus.Dataquery:
    query = prometheus.Dataquery().expr(expression).legend_format(legend).range()
    query = query.exemplar(True) if "_seconds_bucket" in expression else query  # durations name traces
    return query.ref_id(ascii_uppercase[number]).datasource(SOURCE)


def per_second(metric: str, by: str, matchers: str = "") -> Query:
    """The rate of a counter for each value of a label, over all instances."""
    return f"sum by ({by}) (rate({metric}{matchers}[$__rate_interval]))", f"{{{{{by}}}}}"


def quantiles(metric: str, wanted: Iterable[float], matchers: str = "", by: str = "") -> list[Query]:
    """Quantiles of a histogram over all instances, for each value of the label `by` if one is named."""
    group, legend = (f"le, {by}", f" {{{{{by}}}}}") if by else ("le", "")
    rate = f"sum by ({group}) (rate({metric}_bucket{matchers}[$__rate_interval]))"
    return [(f"histogram_quantile({quantile}, {rate})", f"p{quantile * 100:g}{legend}") for quantile in wanted]


def process(job: str) -> Sequence[Graph]:
    """What the processes of a service use."""
    of = f'{{job="{job}"}}'
    return [
        Graph("Memory", "bytes", [(f"process_resident_memory_bytes{of}", "{{instance}}")]),
        Graph("Processors", "none", [(f"rate(process_cpu_seconds_total{of}[$__rate_interval])", "{{instance}}")]),
        Graph("Model version", "none", [(f"count by (model_version) (recipe_{job}_model_info)", "{{model_version}}")]),
    ]


HIT_SHARE: Final = Graph(
    "Hit rate against the sentinel",
    "percentunit",
    [
        (
            'sum(rate(recipe_retriever_decisions_total{decision="hit"}[$__rate_interval])) '
            '/ sum(rate(recipe_retriever_decisions_total{decision=~"hit|below_sentinel"}[$__rate_interval]))',
            "now",
        ),
        ("recipe:hit_share:1h", "1 h {{model_version}}"),
        ("recipe:hit_share:baseline", "last week {{model_version}}"),
    ],
    about="Share of retrievals in which a fact applies; an empty base does not count.",
    highest=1,
)
FRESHNESS: Final = Graph(
    "Freshness: event to retrievable", "s", quantiles("recipe_encoder_freshness_seconds", (0.5, 0.9, 0.99))
)
RETRIEVAL: Final = Graph(
    "Retrieval latency", "s", quantiles("recipe_retriever_stage_seconds", (0.5, 0.9, 0.99), '{stage="total"}')
)
ANSWERS: Final = Graph(
    "Answers by their knowledge", "reqps", [per_second("recipe_generator_answers_total", "knowledge")]
)

OVERVIEW: Final[Rows] = {
    "Service levels": [
        Number(
            "Error budget left of 30 days",
            "percentunit",
            ("recipe:slo_error_budget:remaining", "{{slo}}"),
            red=0,
            green=0.25,
            about="1 is untouched, below 0 more has failed than was promised.",
        ),
        Graph(
            "How fast the budget burns",
            "none",
            [("recipe:slo_error_ratio:1h / (1 - recipe:slo_objective)", "{{slo}}")],
            about="At 1 the budget lasts exactly 30 days; at 14.4 for an hour somebody is paged.",
        ),
        Graph("Share that fails, 5 min", "percentunit", [("recipe:slo_error_ratio:5m", "{{slo}}")]),
    ],
    "From a fact to an answer": [
        FRESHNESS,
        RETRIEVAL,
        HIT_SHARE,
        Graph("Events", "eps", [per_second("recipe_encoder_events_total", "result")]),
        ANSWERS,
        Graph("Time to the first token", "s", quantiles("recipe_generator_first_token_seconds", (0.5, 0.99))),
    ],
    "Canary and alerts": [
        Graph("Canary: fact to answer", "s", quantiles("recipe_canary_round_trip_seconds", (0.5, 0.99))),
        Graph(
            "Canary by result",
            "none",
            [("sum by (result) (increase(recipe_canary_round_trips_total[15m]))", "{{result}}")],
        ),
        Graph(
            "Alerts",
            "none",
            [('count by (alertname, severity) (ALERTS{alertstate="firing"})', "{{severity}} {{alertname}}")],
        ),
        Graph("Instances that answer", "none", [("sum by (job) (up)", "{{job}}")], width=12),
        Graph(
            "Model versions",
            "none",
            [
                ("count by (model_version) (recipe_encoder_model_info)", "encoder {{model_version}}"),
                ("count by (model_version) (recipe_retriever_model_info)", "retriever {{model_version}}"),
                ("count by (model_version) (recipe_generator_model_info)", "generator {{model_version}}"),
            ],
            width=12,
        ),
    ],
}

ENCODER: Final[Rows] = {
    "Events": [
        Graph("Events by result", "eps", [per_second("recipe_encoder_events_total", "result")]),
        FRESHNESS,
        Graph("Records in a micro-batch", "none", quantiles("recipe_encoder_batch_size", (0.5, 0.99))),
        Graph("Stages, p99", "s", quantiles("recipe_encoder_stage_seconds", (0.99,), by="stage")),
        Graph(
            "Dead letters, 30 min",
            "none",
            [('sum(increase(recipe_encoder_events_total{result="dead_lettered"}[30m]))', "dead letters")],
        ),
        Graph(
            "Age of dead letters",
            "s",
            [
                ("recipe_encoder_newest_dead_letter_age_seconds < Inf", "newest {{instance}}"),
                ("max(recipe_encoder_oldest_dead_letter_age_seconds)", "oldest"),
            ],
        ),
        Graph(
            "Facts in words that the encoder does not know, 30 min",
            "none",
            [("sum(increase(recipe_encoder_unreadable_facts_total[30m]))", "facts")],
            width=24,
        ),
    ],
    "Partitions": [
        Graph("Lag", "none", [("sum by (partition) (recipe_encoder_lag_records)", "{{partition}}")]),
        Graph(
            "Since the last commit",
            "s",
            [("max by (partition) (recipe_encoder_last_commit_age_seconds)", "{{partition}}")],
        ),
        Graph(
            "Rebalances, 15 min",
            "none",
            [("sum by (change) (increase(recipe_encoder_rebalances_total[15m]))", "{{change}}")],
        ),
        Graph(
            "Waiting for",
            "none",
            [("max by (dependency) (recipe_encoder_paused)", "{{dependency}}")],
            width=12,
            highest=1,
        ),
        Graph(
            "Repeated writes to the store, 15 min",
            "none",
            [("sum(increase(recipe_encoder_store_retries_total[15m]))", "retries")],
            width=12,
        ),
    ],
    "Process": process("encoder"),
}

RETRIEVER: Final[Rows] = {
    "Retrievals": [
        Graph("Decisions", "reqps", [per_second("recipe_retriever_decisions_total", "decision")]),
        HIT_SHARE,
        Graph("Calls by status", "reqps", [per_second("recipe_retriever_calls_total", "code")]),
    ],
    "Latency": [
        RETRIEVAL,
        Graph("Stages, p99", "s", quantiles("recipe_retriever_stage_seconds", (0.99,), by="stage")),
        Graph(
            "Requests inside and places for them",
            "none",
            [
                ("sum(recipe_retriever_requests_inside)", "inside"),
                ("sum(recipe_retriever_request_places)", "places"),
            ],
        ),
    ],
    "Load": [
        Graph(
            "Queries in a pass of the encoder", "none", quantiles("recipe_retriever_batch_size", (0.5, 0.99)), width=6
        ),
        Graph(
            "Requests turned away",
            "reqps",
            [("sum(rate(recipe_retriever_requests_refused_total[$__rate_interval]))", "refused")],
            width=6,
        ),
        Graph("Prompts of hits", "reqps", [per_second("recipe_retriever_prompts_total", "source")], width=6),
        Graph("Cached prompts", "bytes", [("recipe_retriever_cached_prompt_bytes", "{{instance}}")], width=6),
    ],
    "Sentinel": [
        Graph(
            "Confidence of hits",
            "percentunit",
            quantiles("recipe_retriever_confidence", (0.1, 0.5, 0.9), '{decision="hit"}'),
            about="The calibrated probability that the fact that applies does so.",
            width=6,
            highest=1,
        ),
        Graph(
            "Confidence of misses",
            "percentunit",
            quantiles("recipe_retriever_confidence", (0.1, 0.5, 0.9), '{decision="below_sentinel"}'),
            about="Of the nearest fact, where one was near enough to be a candidate.",
            width=6,
            highest=1,
        ),
        Graph(
            "Hits that are expected to be wrong",
            "percentunit",
            [
                ("recipe:hit_doubt:1h", "1 h {{model_version}}"),
                ("recipe:hit_doubt:baseline", "last week {{model_version}}"),
            ],
            about="1 less the mean confidence of the hits.",
            width=6,
        ),
        Graph(
            "Misses that are expected to be wrong",
            "percentunit",
            [
                ("recipe:miss_confidence:1h", "1 h {{model_version}}"),
                ("recipe:miss_confidence:baseline", "last week {{model_version}}"),
            ],
            about="The mean confidence of the misses that had a candidate.",
            width=6,
        ),
        Graph("Candidates of a query", "none", quantiles("recipe_retriever_candidates", (0.5, 0.9)), width=12),
        Graph(
            "Decisions whose second step failed, 15 min",
            "none",
            [("sum(increase(recipe_retriever_verifier_failures_total[15m]))", "degraded misses")],
            width=6,
        ),
        Graph(
            "Damaged facts left out, 15 min",
            "none",
            [("sum(increase(recipe_retriever_damaged_facts_total[15m]))", "facts left out of a decision")],
            about="Stored token states that are not what was written; the log names each fact once.",
            width=6,
        ),
    ],
    "Process": process("retriever"),
}

GENERATOR: Final[Rows] = {
    "Answers": [
        ANSWERS,
        Graph(
            "Edited answers by whether they state the fact",
            "reqps",
            [per_second("recipe_generator_edited_answers_total", "stated")],
        ),
        Graph("Calls by status", "reqps", [per_second("recipe_generator_calls_total", "code")]),
        Graph(
            "Requests inside and places for them",
            "none",
            [
                ("sum(recipe_generator_requests_inside)", "inside"),
                ("sum(recipe_generator_request_places)", "places"),
            ],
        ),
        Graph(
            "Tokens in the KV cache and room for them",
            "none",
            [
                ("sum(recipe_generator_kv_cache_tokens_taken)", "taken"),
                ("sum(recipe_generator_kv_cache_tokens)", "room"),
            ],
            about="What the texts being written may need to their end. Texts wait for room; vLLM shows none.",
        ),
    ],
    "Speed": [
        Graph("Time to the first token", "s", quantiles("recipe_generator_first_token_seconds", (0.5, 0.9, 0.99))),
        Graph("Time between tokens", "s", quantiles("recipe_generator_token_seconds", (0.5, 0.9, 0.99))),
        Graph("Stages, p99", "s", quantiles("recipe_generator_stage_seconds", (0.99,), by="stage")),
        Graph("Tokens", "none", [("sum(rate(recipe_generator_tokens_total[$__rate_interval]))", "tokens/s")], width=12),
        Graph(
            "Requests turned away",
            "reqps",
            [("sum(rate(recipe_generator_requests_refused_total[$__rate_interval]))", "refused")],
            width=12,
        ),
    ],
    "Process": process("generator"),
}

DASHBOARDS: Final[dict[str, tuple[str, Rows]]] = {
    "overview": ("RECIPE overview", OVERVIEW),
    "encoder": ("RECIPE encoder", ENCODER),
    "retriever": ("RECIPE retriever", RETRIEVER),
    "generator": ("RECIPE generator", GENERATOR),
}


def build(name: str) -> str:
    """The JSON of one dashboard. Links to it are by its uid, which is its name for ever."""
    title, rows = DASHBOARDS[name]
    source = dashboard.DatasourceVariable("datasource").label("Prometheus").type("prometheus")
    others = dashboard.DashboardLink("Dashboards").type(DashboardLinkType.DASHBOARDS).tags([TAG]).keep_time(True)
    page = (
        dashboard.Dashboard(title)
        .uid(f"recipe-{name}")
        .tags([TAG])
        .readonly()
        .refresh("30s")
        .time("now-3h", "now")
        .timezone("browser")
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .with_variable(source.current(VariableOption(selected=True, text="Prometheus", value="prometheus")))
        .link(others)
    )
    number = 0
    for row, panels in rows.items():
        page.with_row(dashboard.Row(row).id(number := number + 1))
        for panel in panels:
            page.with_panel(panel.build(number := number + 1))
    return json.dumps(page.build(), cls=JSONEncoder, indent=1, sort_keys=True) + "\n"


def main() -> int:
    """Write what is stale, or only name it; returns the exit code."""
    check = sys.argv[1:] == ["--check"]
    files = {FOLDER / f"{name}.json": build(name) for name in DASHBOARDS}
    stale = [path for path, text in files.items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    for path in stale:
        if check:
            print(
                f"{path.name} is stale: run deploy/monitoring/grafana/generate.py and commit the result",
                file=sys.stderr,
            )
        else:
            path.write_text(files[path], encoding="utf-8")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
