"""Rules and alerts: on metrics that exist, each seen to fire and to stay silent."""

import shutil
import subprocess
from typing import Any

import pytest
import yaml

from monitoring import PROMETHEUS, alerts, expressions, problems, recorded, rules, series_in

TEST_FILES = sorted((PROMETHEUS / "tests").glob("*.yml"))
TESTS = [test for path in TEST_FILES for test in yaml.safe_load(path.read_text())["tests"]]


def promtool(*arguments: str) -> subprocess.CompletedProcess[str]:
    """What Prometheus' own tool says."""
    program = shutil.which("promtool")
    if program is None:
        pytest.skip("promtool is not on PATH; Debian's package prometheus has it")
    return subprocess.run([program, *arguments], capture_output=True, text=True, check=False)


def expected(alert: str) -> list[tuple[str, list[Any]]]:
    """The name of each test in which an alert is looked at, and what it then raises."""
    checks = [(test["name"], check) for test in TESTS for check in test.get("alert_rule_test", [])]
    return [(name, check["exp_alerts"]) for name, check in checks if check["alertname"] == alert]


def test_prometheus_accepts_its_configuration_with_all_rules() -> None:
    done = promtool("check", "config", str(PROMETHEUS / "prometheus.yml"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(list((PROMETHEUS / 'rules').glob('*.yml')))} rule files" in done.stdout


@pytest.mark.parametrize("path", TEST_FILES, ids=lambda path: path.stem)
def test_the_rules_do_what_their_tests_say(path: Any) -> None:
    done = promtool("test", "rules", str(path))
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule.get("alert") or rule["record"])
def test_a_rule_is_about_series_that_exist(rule: dict[str, Any]) -> None:
    assert problems(rule["expr"]) == []


@pytest.mark.parametrize("name", alerts())
def test_an_alert_says_how_urgent_it_is_and_where_the_runbook_explains_it(name: str) -> None:
    alert = alerts()[name]
    assert alert["labels"]["severity"] in {"page", "ticket"}
    assert alert["annotations"].keys() == {"summary", "runbook"}
    assert alert["annotations"]["runbook"] == f"deploy/monitoring/runbook.md#{name.lower()}"


@pytest.mark.parametrize("name", alerts())
def test_an_alert_is_seen_to_fire_to_stay_silent_and_not_to_mind_that_nothing_happens(name: str) -> None:
    checks = expected(name)
    assert any(raised for _, raised in checks)
    assert any(not raised for test, raised in checks if not quiet(test))
    if name != "RecipeCanaryMissing":  # the one that is about nothing happening
        assert any(quiet(test) for test, _ in checks)
        assert not any(raised for test, raised in checks if quiet(test))


def quiet(test: str) -> bool:
    return test.startswith(("no traffic", "nothing is scraped"))


def test_a_recorded_series_is_used_by_somebody() -> None:
    read = [*(rule["expr"] for rule in rules()), *expressions()]
    assert recorded() - {name for expression in read for name, _ in series_in(expression)} == set()


@pytest.mark.parametrize(
    ("expression", "problem"),
    [
        ("recipe_encoder_lagg_records", "no service has recipe_encoder_lagg_records"),
        ("rate(recpe_encoder_events_total[5m]) and up", "no service has recpe_encoder_events_total"),
        ("sum(recipe:hit_share:9h)", "no rule records recipe:hit_share:9h"),
        ('recipe_encoder_paused{dependency=~"store|brokr"}', "recipe_encoder_paused has no dependency=['brokr']"),
        ('recipe_encoder_paused{partition="0"}', "recipe_encoder_paused has no partition=['0'], only []"),
    ],
)
def test_a_misspelt_series_is_found(expression: str, problem: str) -> None:
    (found,) = problems(expression)
    assert found.startswith(problem)
