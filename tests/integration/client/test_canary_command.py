"""`recipe canary` as a process: it flies, shows what comes of it, and ends in order."""

import signal
from urllib.request import urlopen

from brokers import Topics
from generation_harness import closed_address
from integration.client.conftest import start_recipe
from recipe_common.embedded_broker import claim_port
from waiting import DEADLINE_SECONDS, wait_for


def test_a_deployment_that_does_not_answer_is_a_metric_and_no_reason_to_stop(broker: str, topics: Topics) -> None:
    port = claim_port(0)
    options = ["--kafka", broker, "--topic", topics.updates, "--generator", closed_address(), "--timeout", "1"]
    process = start_recipe("canary", *options, "--metrics-port", str(port), "--interval", "1")

    def flown() -> float:
        assert process.poll() is None
        try:
            with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=DEADLINE_SECONDS) as answer:
                lines = answer.read().decode().splitlines()
        except OSError:
            return 0.0  # it is still starting
        name = 'recipe_canary_round_trips_total{result="not_answered"} '
        (value,) = [line.removeprefix(name) for line in lines if line.startswith(name)]
        return float(value)

    wait_for(lambda: flown() >= 2, "two round trips")
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=DEADLINE_SECONDS)
    assert process.returncode == 0
    assert b"the canary got no answer" in errors


def test_a_broker_that_is_not_there_is_one_line_that_says_so() -> None:
    process = start_recipe("canary", "--kafka", closed_address(), "--metrics-port", "0")
    _, errors = process.communicate(timeout=DEADLINE_SECONDS)
    assert process.returncode == 1
    assert b"Kafka" in errors.splitlines()[-1]
