"""The product as its users start it: `recipe up` as a process, on a real broker, with the shipped models."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

START_SECONDS = 180  # the first start on a machine converts the LLM
RECIPE = Path(sys.executable).with_name("recipe")


@dataclass(frozen=True)
class RunningStack:
    """A `recipe up` and how to reach it."""

    process: subprocess.Popen[str]
    addresses: dict[str, Any]

    @property
    def environment(self) -> dict[str, str]:
        """What a user exports to point the `recipe` command at it."""
        names = {"RECIPE_KAFKA": "kafka", "RECIPE_RETRIEVER": "retriever", "RECIPE_GENERATOR": "generator"}
        return os.environ | {variable: self.addresses[part] for variable, part in names.items()}

    def recipe(self, *arguments: str, ok: bool = True) -> subprocess.CompletedProcess[str]:
        """Run the `recipe` command against it."""
        done = subprocess.run(
            [str(RECIPE), *arguments],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert (done.returncode == 0) is ok, done.stdout + done.stderr
        return done


@pytest.fixture(scope="session")
def stack(broker: str) -> Iterator[RunningStack]:
    running = start_stack("--kafka", broker)
    yield running
    running.process.send_signal(signal.SIGTERM)
    running.process.wait(timeout=30)


def start_stack(*arguments: str) -> RunningStack:
    ports = ["--kafka-port", "0", "--retriever-port", "0", "--generator-port", "0", "--metrics-port", "0"]
    process = subprocess.Popen(
        [str(RECIPE), "up", "--json", *ports, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    # A start that fails closes its standard output, so this never waits for ever.
    line = process.stdout.readline()
    assert line, f"recipe up ended with exit code {process.wait()} before it was ready"
    return RunningStack(process, json.loads(line))


def eventually(check: Any, seconds: float = 30.0) -> Any:
    """The first true value of `check`, polled."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if value := check():
            return value
        time.sleep(0.1)
    raise AssertionError(f"not true within {seconds} s")
