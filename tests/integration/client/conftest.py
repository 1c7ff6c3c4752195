"""The `recipe` command against the broker of the tests."""

import os
import subprocess
import sys
from collections.abc import Callable

import pytest
from typer.testing import CliRunner, Result

from brokers import Topics
from integration.encoder.conftest import assignment, harness, store
from recipe_client import cli

__all__ = ["assignment", "harness", "store"]

Recipe = Callable[..., Result]


def run_recipe(*arguments: str, stdin: str | bytes | None = None) -> Result:
    """Runs it in this process; an error is in `exception`, standard output and error are apart."""
    return CliRunner().invoke(cli.app, arguments, input=stdin)


@pytest.fixture
def recipe(broker: str, topics: Topics) -> Recipe:
    """The command on the topics of this test."""

    def run(*arguments: str, stdin: str | bytes | None = None) -> Result:
        return run_recipe(*arguments, "--kafka", broker, "--topic", topics.updates, stdin=stdin)

    return run


def start_recipe(*arguments: str) -> "subprocess.Popen[bytes]":
    """Runs it as a process of its own, as a shell does."""
    code = "from recipe_client.cli import main; main()"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
