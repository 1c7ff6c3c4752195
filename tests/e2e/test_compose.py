"""The whole product in containers, as `docker compose up` starts it. Only where RECIPE_TEST_COMPOSE is set."""

import json
import os
import subprocess
from collections.abc import Iterator
from typing import Any
from urllib.request import urlopen

import pytest

from deployment import REPOSITORY, SERVICES, dot_env
from e2e.conftest import RECIPE, eventually

pytestmark = pytest.mark.skipif(
    "RECIPE_TEST_COMPOSE" not in os.environ, reason="RECIPE_TEST_COMPOSE is not set: no container engine is asked for"
)

START_SECONDS = 900
PROMPT = "The mother tongue of Ilva Marendahl is"
EVERYTHING = {"kafka", "qdrant", *SERVICES, "prometheus", "grafana"}


def compose(*arguments: str) -> str:
    """Run Docker Compose; what it says about a failure is in the test's output."""
    command = ["docker", "compose", *arguments]
    done = subprocess.run(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True, timeout=START_SECONDS, check=True)
    return done.stdout


def recipe(*arguments: str) -> str:
    """Run the `recipe` command of this machine, which reaches the containers at its default addresses."""
    done = subprocess.run([str(RECIPE), *arguments], stdout=subprocess.PIPE, text=True, timeout=120, check=True)
    return done.stdout


def publish(fact_id: str, answer: str) -> None:
    recipe("publish", fact_id, "--prompt", PROMPT, "--answer", answer, "--subject", "Ilva Marendahl", "--wait")


def ask() -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(recipe("ask", PROMPT, "--complete", "--max-new-tokens", "6", "--json"))
    return answer


@pytest.fixture(scope="module", autouse=True)
def stack() -> Iterator[None]:
    """Everything is up and healthy; afterwards nothing of it is left."""
    try:
        compose("up", "--detach", "--wait", "--wait-timeout", "600")
        yield
    finally:
        print(compose("ps", "--all"), compose("logs", "--tail", "100"))
        compose("down", "--volumes")


def test_a_published_fact_is_in_the_next_answer_and_outlives_a_restart() -> None:
    before = ask()
    assert before["knowledge"]["decision"] == "DECISION_EMPTY_BASE"
    publish("marendahl-language", "Spanish")
    assert ask()["text"].strip().startswith("Spanish")
    # The retriever restarts too: with a key that only reads, it must find all that it needs.
    compose("restart", "qdrant", "encoder", "retriever")
    compose("up", "--detach", "--wait", "--wait-timeout", "600")
    assert ask()["text"].strip().startswith("Spanish")
    publish("marendahl-language", "Russian")
    assert ask()["text"].strip().startswith("Russian")


def test_prometheus_scrapes_all_services() -> None:
    url = f"http://127.0.0.1:{dot_env()['PROMETHEUS_PORT']}/api/v1/query?query=up"

    def seen() -> bool:
        with urlopen(url, timeout=10) as answer:
            found = json.load(answer)["data"]["result"]
        return {each["metric"]["job"] for each in found if each["value"][1] == "1"} >= SERVICES.keys()

    eventually(seen, seconds=60)


def test_grafana_reaches_prometheus_without_an_account() -> None:
    proxy = f"http://127.0.0.1:{dot_env()['GRAFANA_PORT']}/api/datasources/proxy/uid/prometheus"
    with urlopen(f"{proxy}/api/v1/query?query=up", timeout=10) as answer:
        assert json.load(answer)["status"] == "success"


@pytest.mark.parametrize("service", sorted(EVERYTHING))
def test_a_container_can_write_neither_to_its_image_nor_as_root(service: str) -> None:
    container = compose("ps", "--quiet", service).strip()
    inspected = subprocess.run(["docker", "inspect", container], capture_output=True, text=True, check=True).stdout
    (state,) = json.loads(inspected)
    assert state["HostConfig"]["ReadonlyRootfs"] is True
    assert state["Config"]["User"].partition(":")[0] not in {"", "0", "root"}
