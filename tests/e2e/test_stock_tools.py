"""The product with what its users have: grpcurl over reflection, and Kafka's own console producer."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from e2e.conftest import RunningStack, eventually

TOPIC = "recipe.knowledge-updates.v1"
STATEMENT = "The chief executive of Contoso is Ada Example"


@pytest.mark.skipif(shutil.which("grpcurl") is None, reason="grpcurl is not on PATH")
def test_grpcurl_finds_the_services_and_calls_them(stack: RunningStack) -> None:
    def grpcurl(*arguments: str) -> str:
        done = subprocess.run(
            ["grpcurl", "-plaintext", *arguments], capture_output=True, text=True, timeout=60, check=True
        )
        return done.stdout

    generator = stack.addresses["generator"]
    assert "recipe_protos.generator.v1.GeneratorService" in grpcurl(generator, "list")
    method = "recipe_protos.generator.v1.GeneratorService/Generate"
    request = json.dumps({"prompt": "The capital of France is", "max_new_tokens": 2})
    assert json.loads(grpcurl("-d", request, generator, method))["generated_tokens"] == 2
    health = json.loads(grpcurl(stack.addresses["retriever"], "grpc.health.v1.Health/Check"))
    assert health == {"status": "SERVING"}


@pytest.mark.skipif("KAFKA_HOME" not in os.environ, reason="KAFKA_HOME names no Apache Kafka")
def test_the_console_producer_publishes_a_fact(stack: RunningStack) -> None:
    event = json.dumps({"fact_id": "ceo", "namespace": "console", "upsert": {"statement": STATEMENT}})
    program = Path(os.environ["KAFKA_HOME"]) / "bin" / "kafka-console-producer.sh"
    properties = ["--property", "parse.key=true", "--property", "key.separator=|"]
    subprocess.run(
        [str(program), "--bootstrap-server", stack.addresses["kafka"], "--topic", TOPIC, *properties],
        input=f"console/ceo|{event}\n", text=True, timeout=60, check=True, capture_output=True,
    )  # fmt: skip
    facts = eventually(lambda: json.loads(stack.recipe("facts", "--namespace", "console", "--json").stdout))
    assert [fact["statement"] for fact in facts] == [STATEMENT]
