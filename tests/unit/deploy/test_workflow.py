"""The workflow for those who host the repository: it runs what it is there for, on the pinned versions."""

import yaml

from deployment import REPOSITORY, dot_env

JOBS = yaml.safe_load((REPOSITORY / ".github/workflows/ci.yml").read_text())["jobs"]


def commands(job: str) -> list[str]:
    return [step["run"] for step in JOBS[job]["steps"] if "run" in step]


def test_the_checks_are_those_of_any_machine() -> None:
    assert commands("checks")[-1] == ".ci/run"


def test_the_stores_contract_runs_on_the_qdrant_that_is_deployed() -> None:
    job = JOBS["store-contract"]
    assert job["services"]["qdrant"]["image"] == f"qdrant/qdrant:v{dot_env()['QDRANT_VERSION']}-unprivileged"
    assert job["env"]["RECIPE_TEST_QDRANT_URL"] == "http://127.0.0.1:6333"
    assert commands("store-contract")[-1].endswith("pytest tests/contract")


def test_the_containers_are_built_and_tried_end_to_end() -> None:
    assert JOBS["compose"]["env"] == {"RECIPE_TEST_COMPOSE": "1"}
    *_, build, test = commands("compose")
    assert build == "docker compose build"
    path = test.split()[-1]
    assert "RECIPE_TEST_COMPOSE" in (REPOSITORY / path).read_text()


def test_every_job_may_only_read_and_has_an_end() -> None:
    workflow = yaml.safe_load((REPOSITORY / ".github/workflows/ci.yml").read_text())
    assert workflow["permissions"] == {"contents": "read"}
    assert all(job["timeout-minutes"] <= 90 for job in JOBS.values())
