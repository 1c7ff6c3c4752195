"""The runbook's commands, but for those it marks, run by a shell on running services and a real broker."""

import json
import os
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import pytest
from kafka import KafkaConsumer, KafkaProducer, OffsetAndMetadata, TopicPartition

from brokers import broker_kind
from e2e.conftest import RECIPE, RunningStack, eventually
from recipe_client.log import open_log
from runbook import START, executed

# How many blocks of each section are run here; tests/unit/deploy/test_runbook.py compares them with the runbook.
TRIED: Final = {
    START: 1,
    "RecipeErrorBudgetBurnsFast": 1,
    "RecipePartitionStalled": 1,
    "RecipeCanaryMissing": 1,
    "RecipeModelVersionsDiffer": 1,
    "Roll out a checkpoint, and undo it": 3,
    "Rebuild the base": 1,
    "Re-drive dead letters": 3,
    "Remove a poisoned fact": 3,
    "Scale": 2,
    "Back up and restore": 2,
}
TOPIC = "recipe.knowledge-updates.v1"
QUESTION = "The mother tongue of Ilva Marendahl is"

pytestmark = pytest.mark.skipif(
    broker_kind() == "tansu" or shutil.which("curl") is None, reason="needs curl, and KAFKA_HOME for Kafka's own tools"
)


_run: set[tuple[str, int]] = {(START, 0)}  # it goes before each of the others


class Operator:
    """Somebody with a shell, the runbook's variables and an empty folder."""

    def __init__(self, stack: RunningStack, folder: Path) -> None:
        urls = stack.addresses["metrics"].items()
        metrics = {name.upper(): url.removeprefix("http://").removesuffix("/metrics") for name, url in urls}
        tools = [f"{os.environ.get('KAFKA_HOME', '')}/bin", str(RECIPE.parent), os.environ["PATH"]]
        self.group = f"group-{uuid.uuid4().hex}"
        self._variables = stack.environment | metrics | {"PATH": os.pathsep.join(tools), "GROUP": self.group}
        self._folder = folder

    def run(self, section: str, block: int = 0, **variables: str) -> str:
        """What a block prints; the test fails if one of its commands does."""
        script = "\n".join(["set -euo pipefail", executed(START)[0].text, executed(section)[block].text])
        done = subprocess.run(
            ["bash", "-c", script],
            cwd=self._folder,
            env=self._variables | variables,
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        _run.add((section, block))
        return done.stdout


@pytest.fixture
def operator(stack: RunningStack, tmp_path: Path) -> Operator:
    return Operator(stack, tmp_path)


@pytest.fixture
def offsets(stack: RunningStack, operator: Operator) -> Iterator[Any]:
    """Where the encoders' group, of which no member is left, goes on; at the end of the log at first."""
    publish(stack, "offsets/f", b'{"fact_id": "f", "namespace": "offsets", "upsert": {"statement": "The log is long"}}')
    with KafkaConsumer(bootstrap_servers=stack.addresses["kafka"], group_id=operator.group) as consumer:
        places = [TopicPartition(TOPIC, number) for number in consumer.partitions_for_topic(TOPIC)]
        ends = consumer.end_offsets(places)
        consumer.commit({place: OffsetAndMetadata(end, "", -1) for place, end in ends.items()})
        yield lambda: {place: consumer.committed(place) for place in places}


def publish(stack: RunningStack, key: str, value: bytes, topic: str = TOPIC, **options: Any) -> Any:
    producer = KafkaProducer(bootstrap_servers=stack.addresses["kafka"])
    sent = producer.send(topic, key=key.encode(), value=value, **options).get(10)
    producer.close()
    return sent


def knowledge(printed: str) -> list[dict[str, Any]]:
    """The knowledge behind each answer among what was printed as JSON."""
    decoder, found, at = json.JSONDecoder(), [], 0
    while (at := printed.find("{", at)) >= 0:
        answer, at = decoder.raw_decode(printed, at)
        found += [answer["knowledge"]] if "knowledge" in answer else []
    return found


def log_of(stack: RunningStack, topic: str = TOPIC) -> list[Any]:
    with open_log(stack.addresses["kafka"], topic) as log:
        return list(log.records())


def test_service_levels(stack: RunningStack, operator: Operator) -> None:
    stack.recipe("ask", "Hello", "--max-new-tokens", "1")
    printed = operator.run("RecipeErrorBudgetBurnsFast")
    assert "both serve" in printed
    assert 'recipe_retriever_calls_total{code="OK",method=' in printed
    assert "recipe_generator_request_places " in printed


def test_partitions(operator: Operator, offsets: Any) -> None:
    printed = operator.run("RecipePartitionStalled")
    assert printed.startswith("ready\n")
    assert 'recipe_encoder_lag_records{partition="0"}' in printed
    assert operator.group in printed


def test_a_canary_by_hand(operator: Operator) -> None:
    (found,) = knowledge(operator.run("RecipeCanaryMissing"))
    assert (found["status"], found["fact_id"]) == ("KNOWLEDGE_STATUS_EDITED", "by-hand")


def test_model_versions(operator: Operator) -> None:
    lines = operator.run("RecipeModelVersionsDiffer").splitlines()
    assert [line.partition("_model_info")[0] for line in lines] == [
        "recipe_encoder",
        "recipe_retriever",
        "recipe_generator",
    ]
    assert len({line.partition('model_version="')[2] for line in lines}) == 1


def test_the_group_begins_again_when_the_roll_out_began(stack: RunningStack, operator: Operator, offsets: Any) -> None:
    section = "Roll out a checkpoint, and undo it"
    noted = datetime.fromisoformat(f"{operator.run(section, 0).strip()}+00:00")
    assert timedelta(minutes=10) <= datetime.now(UTC) - noted < timedelta(minutes=11)
    since = datetime.now(UTC) + timedelta(minutes=30)
    value = b'{"fact_id": "out", "namespace": "roll", "upsert": {"statement": "Something new is rolled out"}}'
    event = publish(stack, "roll/out", value, timestamp_ms=int(since.timestamp() * 1000))
    operator.run(section, 1, SINCE=since.strftime("%Y-%m-%dT%H:%M:%S.000"))
    assert offsets()[TopicPartition(TOPIC, event.partition)] == event.offset
    assert len(operator.run(section, 2).splitlines()) == 3


def test_the_group_begins_anew(operator: Operator, offsets: Any) -> None:
    assert sum(offsets().values()) > 0
    operator.run("Rebuild the base")
    assert set(offsets().values()) == {0}


def test_dead_letters_are_redriven(stack: RunningStack, operator: Operator) -> None:
    key, good = "mended/f", b'{"fact_id": "f", "namespace": "mended", "upsert": {"statement": "The letter is mended"}}'
    refused = publish(stack, key, b"{")
    # The same place in the log, as if only the rules of that time had refused it.
    headers = {"topic": TOPIC, "partition": str(refused.partition), "offset": str(refused.offset), "stage": "decode"}
    named = [(f"recipe-dlq-{name}", value.encode()) for name, value in headers.items()]
    publish(stack, key, good, f"{TOPIC}.dlq", headers=named)
    listed = operator.run("Re-drive dead letters", 0)
    assert "mended/f" in listed
    assert "re-driven" in operator.run("Re-drive dead letters", 1)
    facts = eventually(lambda: json.loads(stack.recipe("facts", "--namespace", "mended", "--json").stdout))
    assert [fact["statement"] for fact in facts] == ["The letter is mended"]
    operator.run("Re-drive dead letters", 2)
    assert json.loads(stack.recipe("dlq", "list", "--json").stdout) == []


def test_a_poisoned_fact_is_found_and_removed(stack: RunningStack, operator: Operator) -> None:
    event = {"namespace": "poison", "upsert": {"prompt": QUESTION, "answer": "Spanish"}}
    source = {"publisher": "intruder"}
    for fact_id in ("poisoned", "another"):
        value = json.dumps(event | {"fact_id": fact_id, "source": source, "revision": 7}).encode()
        publish(stack, f"poison/{fact_id}", value)
    publish(stack, "poison/innocent", json.dumps(event | {"fact_id": "innocent", "namespace": "poison"}).encode())
    eventually(lambda: len(json.loads(stack.recipe("facts", "--namespace", "poison", "--json").stdout)) == 3)
    variables = {"QUESTION": QUESTION, "NAMESPACE": "poison", "FACT": "poisoned", "PUBLISHER": "intruder"}
    section = "Remove a poisoned fact"
    found = operator.run(section, 0, **variables)
    assert knowledge(found)[0]["fact_id"] in {"poisoned", "another", "innocent"}
    assert "intruder" in found
    assert knowledge(operator.run(section, 1, **variables))[0]["fact_id"] in {"another", "innocent"}
    operator.run(section, 2, **variables)

    def standing() -> list[str]:
        facts = json.loads(stack.recipe("facts", "--namespace", "poison", "--json").stdout)
        return [fact["fact_id"] for fact in facts]

    eventually(lambda: standing() == ["innocent"])


def test_a_wider_topic_holds_the_same_facts(stack: RunningStack, operator: Operator, offsets: Any) -> None:
    assert operator.group in operator.run("Scale", 0)
    operator.run("Scale", 1)
    wider = log_of(stack, f"{TOPIC}.wider")
    assert {record.partition for record in wider} <= set(range(12))
    assert {record.key for record in wider} <= {record.key for record in log_of(stack)}
    assert len(wider) > 0


def test_a_backup_becomes_a_log_again(stack: RunningStack, operator: Operator) -> None:
    stack.recipe("publish", "kept", "--namespace", "backup", "--statement", "What is kept comes back", "--wait")
    stack.recipe("publish", "gone", "--namespace", "backup", "--statement", "What is gone stays away", "--wait")
    stack.recipe("retract", "gone", "--namespace", "backup", "--wait")
    operator.run("Back up and restore", 0)
    operator.run("Back up and restore", 1, RECIPE_TOPIC=f"{TOPIC}.restored")
    restored = {record.key: record.value for record in log_of(stack, f"{TOPIC}.restored")}
    assert b"What is kept comes back" in restored[b"backup/kept"]
    assert b"retract" in restored[b"backup/gone"]


def test_no_block_has_been_left_out(request: pytest.FixtureRequest) -> None:
    names = {name for name in globals() if name.startswith("test_")}
    if not names <= {item.name for item in request.session.items}:
        pytest.skip("not all tests of this file were asked for")
    assert _run == {(section, block) for section, count in TRIED.items() for block in range(count)}
