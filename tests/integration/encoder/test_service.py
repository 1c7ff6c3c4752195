"""The process: it serves metrics, stops on a signal, and says in one line why it cannot start."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from threading import Event, Thread
from typing import Any
from urllib.request import urlopen

import pytest

from brokers import Topics
from encoder_harness import PROMPT_WIDTH, VECTOR_SIZE, EncoderHarness, HashEncoder
from recipe_common import process
from recipe_common.embedded_broker import claim_port
from recipe_encoder import __main__ as service
from recipe_store.edge_store import open_edge_store
from waiting import DEADLINE_SECONDS, wait_for


class Editor(HashEncoder):
    """The small model with what the service wants to know about one."""

    model_version = "hash-1"
    vector_size = VECTOR_SIZE
    prompt_width = PROMPT_WIDTH

    @classmethod
    def load(cls, *_: Any, **__: Any) -> "Editor":
        return cls()


@pytest.mark.parametrize("assignment", ["manual"])
def test_the_service_consumes_and_serves_its_metrics_until_it_is_stopped(
    harness: EncoderHarness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "RecipeEditor", Editor)
    settings = harness.settings(store_path=tmp_path / "kb", metrics_port=claim_port(0))
    stop = Event()
    thread = Thread(target=service.run, args=(settings, stop))
    thread.start()
    harness.upsert("f", "statement")
    wait_for(lambda: harness.committed() == 1, "the record to be committed")
    with urlopen(f"http://127.0.0.1:{settings.metrics_port}/metrics", timeout=DEADLINE_SECONDS) as answer:
        assert 'recipe_encoder_events_total{result="applied"} 1.0' in answer.read().decode()
    with urlopen(f"http://127.0.0.1:{settings.metrics_port}/ready", timeout=DEADLINE_SECONDS) as answer:
        assert (answer.status, answer.read()) == (200, b"ready\n")
    stop.set()
    thread.join(DEADLINE_SECONDS)
    assert not thread.is_alive()
    store = open_edge_store(tmp_path / "kb", "hash-1", VECTOR_SIZE, PROMPT_WIDTH)
    assert store.count(harness.namespace) == 1
    store.close()


def test_a_signal_ends_the_process_in_order(topics: Topics, broker: str, tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from recipe_encoder import __main__ as service\n"
        "from encoder_harness import HashEncoder, VECTOR_SIZE, PROMPT_WIDTH\n"
        "class Editor(HashEncoder):\n"
        "    model_version, vector_size, prompt_width = 'hash-1', VECTOR_SIZE, PROMPT_WIDTH\n"
        "    load = classmethod(lambda cls, *_, **__: cls())\n"
        "class Worker(service.Worker):\n"
        "    def run(self):\n"
        "        print('running', flush=True)\n"
        "        super().run()\n"
        "service.RecipeEditor, service.Worker = Editor, Worker\n"
        "sys.exit(service.main())\n"
    )
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        "RECIPE_ENCODER_KAFKA_BOOTSTRAP_SERVERS": broker,
        "RECIPE_ENCODER_TOPIC": topics.updates,
        "RECIPE_ENCODER_ASSIGNMENT": "manual",
        "RECIPE_ENCODER_STORE_PATH": str(tmp_path / "kb"),
        "RECIPE_ENCODER_METRICS_PORT": "0",
    }
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "running\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(DEADLINE_SECONDS) == 0


def test_a_conflict_in_the_settings_is_one_message_and_exit_code_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RECIPE_ENCODER_STORE_PATH", "kb")
    monkeypatch.setenv("RECIPE_ENCODER_QDRANT_URL", "http://127.0.0.1:6333")
    # What would change the process of the tests.
    monkeypatch.setattr(process, "configure_logging", lambda _: None)
    monkeypatch.setattr(service, "stop_on_signals", Event)
    assert service.main() == 1
    error = capsys.readouterr().err
    assert error.startswith("recipe_encoder: set exactly one of RECIPE_ENCODER_STORE_PATH")
    assert len(error.splitlines()) == 1
