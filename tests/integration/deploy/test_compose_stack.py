"""Compose's broker, topics, services and canary, started as Compose starts them but without containers.

Only addresses differ: there are no names of containers here, and the store is the embedded one.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.error import URLError
from urllib.request import urlopen

import pytest
from kafka import KafkaAdminClient, KafkaProducer
from kafka.admin import ConfigResource, ConfigResourceType

from deployment import base_environment, compose_environment, compose_services, dot_env, seconds
from recipe_client.client import RecipeClient
from recipe_client.topics import topic_specs
from recipe_common.embedded_broker import HOST, TiedProcess, claim_port, wait_until_ready

pytestmark = pytest.mark.skipif("KAFKA_HOME" not in os.environ, reason="KAFKA_HOME names no Apache Kafka")

START_SECONDS: Final = 120.0
TOPIC: Final = "recipe.knowledge-updates.v1"


def here(environment: Mapping[str, str], places: Mapping[str, str]) -> dict[str, str]:
    """The environment with the addresses and folders of containers replaced by those of this machine."""
    moved = dict(environment)
    for place, replacement in places.items():
        assert any(place in value for value in moved.values()), f"nothing is at {place}"
        moved = {name: value.replace(place, replacement) for name, value in moved.items()}
    return moved


@pytest.fixture(scope="module")
def composed_broker() -> Iterator[str]:
    """Apache Kafka with the settings that its image makes of Compose's environment; yields bootstrap servers."""
    home = Path(os.environ["KAFKA_HOME"])
    inside, outside, controller = (claim_port(0) for _ in range(3))
    with tempfile.TemporaryDirectory(prefix="recipe-kafka-") as name:
        folder = Path(name)
        places = {
            "INSIDE://:19092": f"INSIDE://{HOST}:{inside}",
            "HOST://:9092": f"HOST://{HOST}:{outside}",
            "CONTROLLER://:9093": f"CONTROLLER://{HOST}:{controller}",
            "kafka:19092": f"{HOST}:{inside}",
            f"127.0.0.1:{dot_env()['KAFKA_PORT']}": f"{HOST}:{outside}",
            "kafka:9093": f"{HOST}:{controller}",
            "/var/lib/kafka/data": f"{folder}/data",
            "/tmp/logs": f"{folder}/logs",
        }
        environment = base_environment() | here(compose_environment("kafka"), places)
        properties = _as_the_image_configures(home, folder, environment)
        process = TiedProcess([f"{home}/bin/kafka-server-start.sh", str(properties)], environment)
        try:
            wait_until_ready(process, f"{HOST}:{outside}", START_SECONDS)
            yield f"{HOST}:{inside}"
        finally:
            process.stop(seconds(compose_services()["kafka"]["stop_grace_period"]))


def _as_the_image_configures(home: Path, folder: Path, environment: Mapping[str, str]) -> Path:
    """Run what Kafka's image runs first: it writes the broker's settings and formats the storage."""
    defaults, mounted, final = (folder / name for name in ("defaults", "mounted", "final"))
    for each in (defaults, mounted, final):
        each.mkdir()
    for file in ("server.properties", "log4j2.yaml", "tools-log4j2.yaml"):
        (defaults / file).touch()
    arguments = ["--default-configs-dir", str(defaults), "--mounted-configs-dir", str(mounted)]
    command = [f"{home}/bin/kafka-run-class.sh", "kafka.docker.KafkaDockerWrapper", "setup", *arguments]
    done = subprocess.run(
        [*command, "--final-configs-dir", str(final)], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return final / "server.properties"


@pytest.fixture(scope="module")
def composed_topics(composed_broker: str) -> str:
    """The broker once Compose's one-shot service has made the topics, twice: the second time must change nothing."""
    command = [
        dot_env()["KNOWLEDGE_PARTITIONS"] if word == "${KNOWLEDGE_PARTITIONS}" else word
        for word in compose_services()["topics"]["entrypoint"]
    ]
    assert command[0] == "recipe"
    environment = base_environment() | here(compose_environment("topics"), {"kafka:19092": composed_broker})
    for _ in range(2):
        subprocess.run(
            [str(Path(sys.executable).with_name("recipe")), *command[1:]],
            env=environment,
            check=True,
            timeout=START_SECONDS,
        )
    return composed_broker


def test_the_topics_are_those_of_the_embedded_stack_but_for_the_number_of_partitions(composed_topics: str) -> None:
    specs = topic_specs()
    with KafkaAdminClient(bootstrap_servers=composed_topics) as admin:
        described = {topic["name"]: topic for topic in admin.describe_topics(list(specs))}
        assert len(described[TOPIC]["partitions"]) == int(dot_env()["KNOWLEDGE_PARTITIONS"])
        for name, spec in specs.items():
            assert _settings_of(admin, name) == spec.configs


def _settings_of(admin: KafkaAdminClient, topic: str) -> dict[str, str]:
    """The settings of a topic that differ from the broker's defaults."""
    answer = admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, topic)])
    return {name: setting["value"] for name, setting in answer["topic"][topic].items()}


@dataclass(frozen=True)
class Encoded:
    """An encoder's run: what it left in its store, and how it ended."""

    store: Path
    exit_code: int


@contextmanager
def started(name: str, command: Sequence[str], environment: Mapping[str, str]) -> Iterator["subprocess.Popen[bytes]"]:
    """A service of Compose as a process that is stopped as Compose stops it, in no more than its grace."""
    image = {"HF_HUB_OFFLINE": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with subprocess.Popen(command, env={**base_environment(), **environment, **image}) as process:
        try:
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(seconds(compose_services()[name].get("stop_grace_period", "10s")))


@pytest.fixture(scope="module")
def encoded(composed_topics: str, tmp_path_factory: pytest.TempPathFactory) -> Encoded:
    """What an encoder that is started as Compose starts it makes of one fact."""
    folder, metrics_port = tmp_path_factory.mktemp("base") / "store", claim_port(0)
    environment = here(compose_environment("encoder"), {"kafka:19092": composed_topics})
    del environment["RECIPE_ENCODER_QDRANT_URL"], environment["RECIPE_ENCODER_QDRANT_API_KEY"]
    environment |= {"RECIPE_ENCODER_STORE_PATH": str(folder), "RECIPE_ENCODER_METRICS_PORT": str(metrics_port)}
    with started("encoder", [sys.executable, "-m", "recipe_encoder"], environment) as process:
        _publish(composed_topics)
        _wait_for(f"http://{HOST}:{metrics_port}/metrics", 'recipe_encoder_events_total{result="applied"} 1.0', process)
        assert urlopen(f"http://{HOST}:{metrics_port}/ready", timeout=5).status == 200
    return Encoded(folder, process.returncode)


def test_the_encoder_starts_as_compose_starts_it_and_ends_within_its_grace(encoded: Encoded) -> None:
    assert encoded.exit_code == 0


# There is no Qdrant server here: the address that Compose gives is read, and the embedded store opened in its place.
RETRIEVER = """
import sys
from pathlib import Path
from recipe_retriever import __main__ as service
from recipe_store.edge_store import open_edge_store

def opened(url, model_version, vector_size, prompt_width, **options):
    assert url == "http://qdrant:6333" and options["api_key"]
    return open_edge_store(Path(sys.argv[1]), model_version, vector_size, prompt_width)

service.open_client_store = opened
sys.exit(service.main())
"""


def test_a_fact_reaches_an_answer_through_services_started_as_compose_starts_them(
    encoded: Encoded, composed_topics: str
) -> None:
    retriever, generator, canary = (claim_port(0) for _ in range(3))
    calls, answers = f"{HOST}:{retriever}", f"{HOST}:{generator}"
    of_retriever = compose_environment("retriever") | {"RECIPE_RETRIEVER_PORT": str(retriever)}
    of_generator = here(compose_environment("generator"), {"retriever:50051": calls})
    of_generator |= {"RECIPE_GENERATOR_PORT": str(generator)}
    of_canary = here(compose_environment("canary"), {"kafka:19092": composed_topics, "generator:50052": answers})
    free = {f"RECIPE_{name}_METRICS_PORT": "0" for name in ("RETRIEVER", "GENERATOR")}
    recipe, *arguments = compose_services()["canary"]["entrypoint"]
    flying = [str(Path(sys.executable).with_name(recipe)), *arguments, "--metrics-port", str(canary)]
    with (
        started("retriever", [sys.executable, "-c", RETRIEVER, str(encoded.store)], of_retriever | free) as first,
        started("generator", [sys.executable, "-m", "recipe_generator"], of_generator | free) as second,
        started("canary", flying, of_canary) as third,
    ):
        for address, process in ((calls, first), (answers, second)):
            _wait_until_healthy(address, process)
        with RecipeClient(calls, answers) as client:
            assert client.ask("The CEO of Contoso is", max_new_tokens=4).knowledge.fact_id == "ceo"
        _wait_for(f"http://{HOST}:{canary}/metrics", "recipe_canary_round_trips_total", third)
    assert [process.returncode for process in (first, second, third)] == [0, 0, 0]


def _publish(bootstrap_servers: str) -> None:
    value = json.dumps({"fact_id": "ceo", "upsert": {"prompt": "The CEO of Contoso is", "answer": "Ada Example"}})
    producer = KafkaProducer(bootstrap_servers=bootstrap_servers, acks="all")
    producer.send(TOPIC, key=b"default/ceo", value=value.encode()).get(10)
    producer.close()


def _wait_for(url: str, line: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while line not in _read(url):
        assert process.poll() is None, f"the encoder ended with exit code {process.returncode}"
        assert time.monotonic() < deadline, f"waited {START_SECONDS:g} s in vain for {line}"
        time.sleep(0.2)


def _wait_until_healthy(address: str, process: "subprocess.Popen[bytes]") -> None:
    """Asks as the health check of a container asks."""
    probe = [sys.executable, "-m", "recipe_common.health_probe", address]
    deadline = time.monotonic() + START_SECONDS
    while subprocess.run(probe, capture_output=True, check=False).returncode != 0:
        assert process.poll() is None, f"it ended with exit code {process.returncode}"
        assert time.monotonic() < deadline, f"waited {START_SECONDS:g} s in vain for {address}"


def _read(url: str) -> str:
    try:
        with urlopen(url, timeout=5) as answer:
            text: str = answer.read().decode()
    except URLError:
        return ""
    return text
