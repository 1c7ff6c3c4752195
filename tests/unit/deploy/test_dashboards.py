"""The committed dashboards: about metrics that exist, with units, and found by the same links for ever."""

import re
import subprocess
import sys
from typing import Any

import pytest
import yaml

from deployment import REPOSITORY
from monitoring import MONITORING, dashboards, expressions, live_series, problems, rules, series_in

PANELS = [
    pytest.param(panel, id=f"{name}: {panel['title']}")
    for name, dashboard in dashboards().items()
    for panel in dashboard["panels"]
    if panel["type"] != "row"
]
# Made by every client of Prometheus, or for programs that look for restarts.
UNSHOWN = re.compile(r".*_created|process_(?!resident_memory_bytes|cpu_seconds_total).*")


def test_there_is_an_overview_and_one_for_each_service() -> None:
    uids = {name: dashboard["uid"] for name, dashboard in dashboards().items()}
    assert uids == {name: f"recipe-{name}" for name in ("overview", "encoder", "retriever", "generator")}


def test_what_is_committed_is_what_the_generator_makes() -> None:
    pytest.importorskip("grafana_foundation_sdk")
    command = [sys.executable, str(MONITORING / "grafana/generate.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_lint_checks_that_they_are_fresh() -> None:
    assert "deploy/monitoring/grafana/generate.py --check" in (REPOSITORY / "Makefile").read_text()


@pytest.mark.parametrize("expression", expressions())
def test_a_panel_is_about_series_that_exist(expression: str) -> None:
    assert list(series_in(expression))
    assert problems(expression) == []


@pytest.mark.parametrize("panel", PANELS)
def test_a_panel_has_a_unit_and_asks_the_source_that_was_chosen(panel: dict[str, Any]) -> None:
    assert panel["fieldConfig"]["defaults"]["unit"]
    assert panel["datasource"]["uid"] == "${datasource}"
    assert {target["datasource"]["uid"] for target in panel["targets"]} == {"${datasource}"}


@pytest.mark.parametrize("expression", expressions())
def test_a_rate_is_over_as_much_time_as_the_page_shows(expression: str) -> None:
    assert set(re.findall(r"rate\([^[]*\[([^]]+)\]", expression)) <= {"$__rate_interval"}


@pytest.mark.parametrize("name", dashboards())
def test_panels_have_ids_of_their_own_and_do_not_overlap(name: str) -> None:
    panels = dashboards()[name]["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells = [cell for panel in panels for cell in covered(panel["gridPos"])]
    assert len(cells) == len(set(cells))
    assert max(column for column, _ in cells) < 24


def covered(position: dict[str, int]) -> list[tuple[int, int]]:
    """The cells of the grid that a panel takes."""
    columns = range(position["x"], position["x"] + position["w"])
    rows = range(position["y"], position["y"] + position["h"])
    return [(column, row) for column in columns for row in rows]


def test_the_source_is_the_one_that_is_provisioned() -> None:
    provisioned = yaml.safe_load((MONITORING / "grafana/provisioning/datasources/prometheus.yml").read_text())
    for dashboard in dashboards().values():
        (variable,) = dashboard["templating"]["list"]
        assert (variable["type"], variable["query"], variable["name"]) == ("datasource", "prometheus", "datasource")
        assert variable["current"]["value"] == provisioned["datasources"][0]["uid"]


def test_every_metric_is_on_some_dashboard() -> None:
    read = [*expressions(), *(rule["expr"] for rule in rules())]  # what rules make of it is on one too
    shown = {family(name) for expression in read for name, _ in series_in(expression)}
    assert {family(name) for name in live_series() if not UNSHOWN.fullmatch(name)} - shown == set()


def family(name: str) -> str:
    """The metric that a series of a histogram belongs to."""
    return re.sub(r"_(bucket|count|sum)$", "", name)
