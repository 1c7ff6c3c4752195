"""`recipe topics`: what it creates, what it finds different, what it mends and what it leaves."""

import json
import uuid
from collections.abc import Iterator

import pytest
from kafka import KafkaAdminClient
from kafka.admin import ConfigResource, ConfigResourceType

from integration.client.conftest import run_recipe
from recipe_client.topics import ensure_topics, topic_specs
from recipe_common.embedded_broker import EmbeddedBroker, TopicSpec, create_topics
from recipe_common.errors import UnavailableError


@pytest.fixture
def topic(broker: str) -> Iterator[str]:
    """The name of a topic that does not exist."""
    name = f"test-{uuid.uuid4().hex}"
    yield name
    with KafkaAdminClient(bootstrap_servers=broker) as admin:
        admin.delete_topics([each for each in (name, f"{name}.dlq") if each in admin.list_topics()])


def setting(broker: str, topic: str, name: str) -> str | None:
    with KafkaAdminClient(bootstrap_servers=broker) as admin:
        resource = ConfigResource(ConfigResourceType.TOPIC, topic, None)
        found = admin.describe_configs([resource], config_filter="all")["topic"][topic]
    value: str | None = found.get(name, {}).get("value")
    return value


def partitions(broker: str, topic: str) -> int:
    with KafkaAdminClient(bootstrap_servers=broker) as admin:
        return len(admin.describe_topics([topic])[0]["partitions"])


def test_both_topics_are_created_and_the_second_run_changes_nothing(broker: str, topic: str) -> None:
    first = run_recipe("topics", "--kafka", broker, "--topic", topic, "--json")
    assert (first.exit_code, json.loads(first.stdout)["created"]) == (0, [topic, f"{topic}.dlq"])
    assert setting(broker, topic, "cleanup.policy") == "compact"
    assert setting(broker, topic, "delete.retention.ms") == str(30 * 24 * 3_600_000)
    assert setting(broker, f"{topic}.dlq", "cleanup.policy") == "delete"
    assert setting(broker, f"{topic}.dlq", "retention.ms") == "-1"
    assert partitions(broker, topic) == 6
    second = run_recipe("topics", "--kafka", broker, "--topic", topic, "--json")
    assert (second.exit_code, json.loads(second.stdout)) == (0, {"created": [], "mended": [], "differences": []})


def test_the_number_of_copies_can_be_chosen(broker: str, topic: str) -> None:
    result = run_recipe("topics", "--kafka", broker, "--topic", topic, "--replication-factor", "1", "--partitions", "2")
    assert result.exit_code == 0
    assert setting(broker, topic, "min.insync.replicas") == "1"
    assert partitions(broker, topic) == 2


def test_one_copy_may_be_down_unless_told_otherwise() -> None:
    def minimum(replication_factor: int, min_insync_replicas: int = -1) -> str | None:
        specs = topic_specs("t", replication_factor=replication_factor, min_insync_replicas=min_insync_replicas)
        return specs["t"].configs.get("min.insync.replicas")

    assert (minimum(3), minimum(1), minimum(-1), minimum(3, 1)) == ("2", "1", None, "1")


def test_differences_are_listed_and_fail_and_fix_mends_settings_only(broker: str, topic: str) -> None:
    configs = {"cleanup.policy": "delete", "delete.retention.ms": "1000", "max.message.bytes": "2000000"}
    letters = {"cleanup.policy": "delete", "retention.ms": "60000", "retention.bytes": "-1"}
    create_topics(
        broker,
        {
            topic: TopicSpec(2, configs),
            f"{topic}.dlq": TopicSpec(1, letters | {"max.message.bytes": "4194304"}),
        },
    )
    arguments = ("topics", "--kafka", broker, "--topic", topic, "--json")
    found = run_recipe(*arguments)
    assert found.exit_code == 1
    differences = json.loads(found.stdout)["differences"]
    # A larger limit is no difference, and neither is unlimited size.
    assert [(each["topic"], each["setting"], each["found"]) for each in differences] == [
        (topic, "cleanup.policy", "delete"),
        (topic, "delete.retention.ms", "1000"),
        (f"{topic}.dlq", "retention.ms", "60000"),
        (topic, "partitions", "2"),
    ]
    assert setting(broker, topic, "cleanup.policy") == "delete"

    mended = run_recipe(*arguments, "--fix")
    report = json.loads(mended.stdout)
    assert (mended.exit_code, len(report["mended"])) == (1, 3)
    assert [each["setting"] for each in report["differences"]] == ["partitions"]
    assert "--partitions 2" in report["differences"][0]["remedy"]
    assert setting(broker, topic, "cleanup.policy") == "compact"
    assert setting(broker, topic, "max.message.bytes") == "2000000"
    assert partitions(broker, topic) == 2

    accepted = run_recipe("topics", "--kafka", broker, "--topic", topic, "--partitions", "2")
    assert (accepted.exit_code, "as they should be" in accepted.stdout) == (0, True)


def test_the_table_says_what_to_do(broker: str, topic: str) -> None:
    create_topics(broker, {topic: TopicSpec(6, {"cleanup.policy": "delete"})})
    result = run_recipe("topics", "--kafka", broker, "--topic", topic)
    assert result.exit_code == 1
    (row,) = [line for line in result.stdout.splitlines() if "cleanup.policy" in line]
    assert [cell.strip() for cell in row.split("│")[2:6]] == [
        "cleanup.policy", "delete", "compact", "run again with --fix",
    ]  # fmt: skip
    assert "nothing: created" in result.stdout


def test_too_few_copies_are_named_and_never_changed(broker: str, topic: str) -> None:
    create_topics(broker, topic_specs(topic))
    report = ensure_topics(broker, topic_specs(topic, replication_factor=3, min_insync_replicas=1), fix=True)
    assert [(each.topic, each.setting, each.found) for each in report.differences] == [
        (topic, "replication factor", "1"),
        (f"{topic}.dlq", "replication factor", "1"),
    ]


def test_the_embedded_broker_has_topics_with_the_same_settings() -> None:
    with EmbeddedBroker(topics=topic_specs(partitions=1)) as embedded:
        report = ensure_topics(embedded.bootstrap_servers, topic_specs(partitions=1))
    assert (report.created, report.differences) == ([], [])


@pytest.mark.parametrize("servers", ["127.0.0.1:1", "nonsense:port"])
def test_no_broker_is_one_clear_error(servers: str) -> None:
    result = run_recipe("topics", "--kafka", servers)
    assert isinstance(result.exception, UnavailableError)
    assert f"Kafka at {servers} does not manage the topics" in str(result.exception)
    assert "correct --kafka" in str(result.exception)


def test_a_name_that_no_topic_can_have_is_refused(broker: str) -> None:
    result = run_recipe("topics", "--kafka", broker, "--topic", "no spaces allowed")
    assert isinstance(result.exception, UnavailableError)
    assert "no spaces allowed" in str(result.exception)
