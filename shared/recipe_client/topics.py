"""The topics of the log: how they are created, and how existing ones differ from that."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

from kafka import KafkaAdminClient
from kafka.admin import ConfigResource, ConfigResourceType
from kafka.errors import KafkaError, UnknownTopicOrPartitionError, for_code

from recipe_client.publishing import DEFAULT_TOPIC
from recipe_common.embedded_broker import BROKERS_CHOICE, TopicSpec, create_topics, open_admin
from recipe_common.errors import UnavailableError

DEFAULT_PARTITIONS: Final = 6  # as many encoders can share the work; adding some later moves facts between them
# An encoder that was away this long still sees every tombstone. It must exceed the broker's offsets.retention.minutes
# (7 days): a group whose offsets are forgotten reads a log that must not have forgotten more than the store.
_TOMBSTONES_KEPT: Final = timedelta(days=30)
_MAX_EVENT_BYTES: Final = 1_048_588  # Kafka's own default; the largest valid event has about 700 kB
_MAX_LETTER_BYTES: Final = 4 * 2**20  # the headers make a dead letter larger than its event was
_LETTERS_KEPT_BYTES: Final = 2**30  # per partition
_UNLIMITED: Final = "-1"
_UNSET: Final = "not set"


@dataclass(frozen=True, slots=True)
class Difference:
    """A setting of an existing topic that is not as it should be."""

    topic: str
    setting: str
    found: str
    wanted: str
    remedy: str


@dataclass(frozen=True, slots=True)
class TopicsReport:
    """What `ensure_topics` did and what is left to do; a difference that was mended is not left."""

    created: list[str]
    mended: list[Difference]
    differences: list[Difference]


def dead_letters_of(topic: str) -> str:
    """The topic of the dead letters, unless it is given another name."""
    return f"{topic}.dlq"


def topic_specs(
    topic: str = DEFAULT_TOPIC,
    dead_letters: str = "",
    *,
    partitions: int = DEFAULT_PARTITIONS,
    replication_factor: int = BROKERS_CHOICE,
    min_insync_replicas: int = BROKERS_CHOICE,
) -> dict[str, TopicSpec]:
    """How the updates and their dead letters are created.

    With a replication factor of 2 or more and no `min_insync_replicas`, one replica may be down. Dead letters keep the
    timestamps of their events, which may be old, so they are kept by size and not by age.
    """
    if min_insync_replicas == BROKERS_CHOICE and replication_factor != BROKERS_CHOICE:
        min_insync_replicas = max(1, replication_factor - 1)
    durable = {} if min_insync_replicas == BROKERS_CHOICE else {"min.insync.replicas": str(min_insync_replicas)}
    updates = {
        "cleanup.policy": "compact",
        "delete.retention.ms": str(_TOMBSTONES_KEPT // timedelta(milliseconds=1)),
        "max.message.bytes": str(_MAX_EVENT_BYTES),
    }
    letters = {
        "cleanup.policy": "delete",
        "retention.ms": _UNLIMITED,
        "retention.bytes": str(_LETTERS_KEPT_BYTES),
        "max.message.bytes": str(_MAX_LETTER_BYTES),
    }
    return {
        topic: TopicSpec(partitions, updates | durable, replication_factor),
        dead_letters or dead_letters_of(topic): TopicSpec(1, letters | durable, replication_factor),
    }


def ensure_topics(bootstrap_servers: str, specs: Mapping[str, TopicSpec], *, fix: bool = False) -> TopicsReport:
    """Create the topics that do not exist and compare the others; with `fix`, mend their settings.

    Partitions and replicas of a topic that exists are never changed. Raises UnavailableError.
    """
    try:
        with open_admin(bootstrap_servers) as admin:
            existing = {name: found for name in specs if (found := _existing(admin, name)) is not None}
            created = [name for name in specs if name not in existing]
            create_topics(bootstrap_servers, {name: specs[name] for name in created})
            configs = {name: list(_config_differences(admin, name, specs[name])) for name in existing}
            shapes = [each for name, found in existing.items() for each in _shape_differences(name, found, specs[name])]
            if fix:
                _alter(admin, configs)
    except (KafkaError, ValueError) as error:
        reason = str(error) or type(error).__name__
        raise UnavailableError(
            f"Kafka at {bootstrap_servers} does not manage the topics ({reason}); "
            "correct --kafka (RECIPE_KAFKA) or the names"
        ) from error
    differing = [each for name in configs for each in configs[name]]
    return TopicsReport(created, differing if fix else [], shapes if fix else differing + shapes)


def _existing(admin: KafkaAdminClient, topic: str) -> dict[str, Any] | None:
    # Asked by name alone, because asking for a list fails as a whole when a topic's name is impossible.
    found: dict[str, Any] = admin.describe_topics([topic])[0]
    if found["error_code"] == UnknownTopicOrPartitionError.errno:
        return None
    if found["error_code"]:
        raise for_code(found["error_code"])(f"topic {topic}")
    return found


def _config_differences(admin: KafkaAdminClient, topic: str, spec: TopicSpec) -> Iterator[Difference]:
    resource = ConfigResource(ConfigResourceType.TOPIC, topic, None)  # all: Tansu hangs up when asked for some
    described = admin.describe_configs([resource], config_filter="all")["topic"][topic]
    for setting, wanted in spec.configs.items():
        found = described.get(setting, {}).get("value") or _UNSET
        if not _suffices(setting, found, wanted):
            yield Difference(topic, setting, found, wanted, "run again with --fix")


def _suffices(setting: str, found: str, wanted: str) -> bool:
    """Sizes, times and counts may be larger than they must be."""
    if found in (wanted, _UNSET) or setting == "cleanup.policy":
        return found == wanted
    return found == _UNLIMITED or (wanted != _UNLIMITED and int(found) >= int(wanted))


def _shape_differences(topic: str, found: Mapping[str, Any], spec: TopicSpec) -> Iterator[Difference]:
    partitions = len(found["partitions"])
    if partitions < spec.partitions:
        remedy = (
            f"accept them with --partitions {partitions}, or export the facts and import them into a new topic: "
            "partitions that are added would tear the events of a fact apart"
        )
        yield Difference(topic, "partitions", str(partitions), str(spec.partitions), remedy)
    replicas = min(len(partition["replica_nodes"]) for partition in found["partitions"])
    if replicas < spec.replication_factor:
        remedy = "kafka-reassign-partitions.sh with more replicas for each partition"
        yield Difference(topic, "replication factor", str(replicas), str(spec.replication_factor), remedy)


def _alter(admin: KafkaAdminClient, configs: Mapping[str, list[Difference]]) -> None:
    changes = [
        ConfigResource(ConfigResourceType.TOPIC, topic, {each.setting: each.wanted for each in differences})
        for topic, differences in configs.items()
        if differences
    ]
    if not changes:
        return
    # Tansu lists only the settings it was given, so the client must not refuse those that it does not list.
    results: dict[str, str] = admin.alter_configs(changes, raise_on_unknown=False)["topic"]
    if refused := {topic: result for topic, result in results.items() if result != "OK"}:
        raise ValueError("; ".join(f"{topic} cannot be altered: {result}" for topic, result in refused.items()))
