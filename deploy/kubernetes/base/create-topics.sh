#!/usr/bin/env bash
# Creates the topic of the updates and that of its dead letters unless they exist; changes none that does.
# Needs KAFKA_HOME, BOOTSTRAP_SERVERS, TOPIC and PARTITIONS. Compose and Kubernetes run the same file.
set -euo pipefail

create() {
  "$KAFKA_HOME/bin/kafka-topics.sh" --bootstrap-server "$BOOTSTRAP_SERVERS" --create --if-not-exists --topic "$@"
}

create "$TOPIC" --partitions "$PARTITIONS" --config cleanup.policy=compact
# Dead letters keep their old timestamps, and their headers make them larger than the events were.
create "$TOPIC.dlq" --partitions 1 --config retention.ms=-1 --config max.message.bytes=4194304
