"""Kill the encoder again and again, the broker and the store now and then: is the store what the log says?

`python -m integration.chaos.run --kills 100 --seed 1 --report report.json`; needs KAFKA_HOME.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from signal import SIGKILL, SIGTERM
from threading import Thread
from typing import get_args

from kafka import KafkaConsumer, TopicPartition

from brokers import ApacheKafka, Topics, apache_kafka
from encoder_harness import PROMPT_WIDTH, VECTOR_SIZE
from integration.chaos.publisher import NAMESPACE, Publisher
from integration.chaos.victim import MODEL_VERSION, Plan, Stage
from recipe_client.log import open_log
from recipe_common.embedded_broker import TopicSpec, create_topics
from recipe_encoder.dead_letters import HEADER_PREFIX
from recipe_encoder.events import InvalidEventError, KafkaRecord, parse_record
from recipe_store import Fact
from recipe_store.edge_store import EdgeStore, open_edge_store
from recipe_store.ordering import fact_name
from waiting import wait_for

TOPICS = Topics("chaos", "chaos.dlq")
PARTITIONS = 3
GROUP = "chaos"
EVENTS_PER_SECOND = 100.0
BROKER_SHARE, OUTAGE_SHARE = 0.08, 0.15  # of the kills that a broker's restart or a store's outage goes with
LIFE_SECONDS = 90.0  # within which a victim must have died, a broker's restart included

Names = tuple[str, str]


@dataclass
class Report:
    """What happened and what it did; `lost`, `stale` and `duplicated` must be 0."""

    kills: int = 0
    kills_by_stage: dict[str, int] = field(default_factory=dict)
    broker_restarts: int = 0
    starts_without_broker: int = 0
    store_outages: int = 0
    events: int = 0  # in the log
    malformed: int = 0  # of them
    facts: int = 0
    lost: int = (
        0  # events that are neither a fact's newest revision nor in its history nor, if malformed, a dead letter
    )
    stale: int = 0  # facts that are not what the log says
    duplicated: int = 0  # facts that are there twice, and events that are twice in a history
    acknowledged_but_gone: int = 0  # events that the broker acknowledged and lost
    repeated_dead_letters: int = 0  # allowed: they are written at least once
    seconds: float = 0.0


def run_chaos(kafka: ApacheKafka, folder: Path, kills: int, seed: int) -> Report:
    """Run the scenario of a seed on a broker of its own."""
    started = time.monotonic()
    report = Report()
    create_topics(kafka.bootstrap_servers, {TOPICS.updates: TopicSpec(PARTITIONS), TOPICS.dead_letters: TopicSpec()})
    publisher = Publisher(kafka.bootstrap_servers, TOPICS.updates, f"load-{seed}", EVENTS_PER_SECOND)
    publisher.start()
    try:
        for number in range(kills):
            _one_life(kafka, folder, random.Random(f"{seed}/{number}"), report)
            print(f"killed {number + 1} of {kills}, {len(publisher.acknowledged)} events", file=sys.stderr, flush=True)
    finally:
        publisher.stop()
    _live_until_caught_up(kafka, folder)
    with closing(open_edge_store(folder / "store", MODEL_VERSION, VECTOR_SIZE, PROMPT_WIDTH)) as store:
        _judge(kafka.bootstrap_servers, store, publisher.acknowledged, report)
    report.seconds = round(time.monotonic() - started, 1)
    return report


def _one_life(kafka: ApacheKafka, folder: Path, random_: random.Random, report: Report) -> None:
    stage: Stage = random_.choice(get_args(Stage))
    count, trouble = random_.randint(1, 8), random_.random()
    victim = _start(kafka, folder, stage, count)
    helper = None
    if trouble < BROKER_SHARE:
        report.broker_restarts += 1
        helper = Thread(target=_restart, args=(kafka, random_.uniform(0, 3)))
    elif trouble < BROKER_SHARE + OUTAGE_SHARE:
        report.store_outages += 1
        helper = Thread(target=_take_store_away, args=(folder / "outage", random_.uniform(0.2, 1.5)))
    if helper is not None:
        helper.start()
    code = victim.wait(LIFE_SECONDS)
    if helper is not None:
        helper.join()
    if code == 1 and trouble < BROKER_SHARE:
        # An encoder that finds no broker when it starts says so and ends; whoever runs it starts it again.
        report.starts_without_broker += 1
        code = _start(kafka, folder, stage, count).wait(LIFE_SECONDS)
    if code != -SIGKILL:
        raise AssertionError(f"the encoder ended by itself with {code}: see {folder / 'encoder.log'}")
    report.kills += 1
    report.kills_by_stage[stage] = report.kills_by_stage.get(stage, 0) + 1


def _live_until_caught_up(kafka: ApacheKafka, folder: Path) -> None:
    victim = _start(kafka, folder, None, 1)
    partitions = [TopicPartition(TOPICS.updates, number) for number in range(PARTITIONS)]
    with closing(KafkaConsumer(bootstrap_servers=kafka.bootstrap_servers, group_id=GROUP)) as observer:
        ends = observer.end_offsets(partitions)
        wait_for(
            lambda: all((observer.committed(each) or 0) >= end for each, end in ends.items()),
            "all to be committed",
            LIFE_SECONDS,
        )
    victim.send_signal(SIGTERM)
    assert victim.wait(30) == 0


def _start(kafka: ApacheKafka, folder: Path, stage: Stage | None, count: int) -> "subprocess.Popen[bytes]":
    settings = {
        "kafka_bootstrap_servers": kafka.bootstrap_servers,
        "topic": TOPICS.updates,
        "group_id": GROUP,
        "group_instance_id": "only-member",  # or the group would wait for the dead to time out
        "batch_size": 16,
        "store_path": str(folder / "store"),
        "retry_initial_seconds": 0.05,
        "retry_max_seconds": 0.5,
    }
    plan = Plan(settings=settings, outage=folder / "outage", stage=stage, count=count)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with (folder / "encoder.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "integration.chaos.victim", plan.model_dump_json()],
            env=environment, stdout=log, stderr=log,
        )  # fmt: skip


def _restart(kafka: ApacheKafka, after: float) -> None:
    time.sleep(after)
    kafka.kill()
    kafka.start()


def _take_store_away(outage: Path, seconds: float) -> None:
    outage.touch()
    time.sleep(seconds)
    outage.unlink()


def _judge(servers: str, store: EdgeStore, acknowledged: list[tuple[int, int]], report: Report) -> None:
    log = _records(servers, TOPICS.updates)
    report.events = len(log)
    report.acknowledged_but_gone = len(set(acknowledged) - {(record.partition, record.offset) for record in log})
    events, malformed = _parse(log)
    report.malformed = len(malformed)
    expected = _fold(events)
    report.facts = len(expected)
    listed = Counter(fact_name(fact) for fact in _all(store))
    report.duplicated += sum(count - 1 for count in listed.values())
    kept: set[tuple[int, int]] = set()
    for name, fact in expected.items():
        history = store.history(*name)
        places = [(each.position.partition, each.position.offset) for each in history]
        report.duplicated += len(places) - len(set(places))
        kept.update(places)
        report.stale += store.get(*name) != fact
    report.stale += len(listed.keys() - expected.keys())
    letters = Counter(_origins(_records(servers, TOPICS.dead_letters)))
    report.repeated_dead_letters = sum(count - 1 for count in letters.values())
    good = {(fact.position.partition, fact.position.offset) for fact in events}
    report.lost = len(good - kept) + len(malformed - letters.keys())


def _parse(log: list[KafkaRecord]) -> tuple[list[Fact], set[tuple[int, int]]]:
    events, malformed = [], set()
    for record in log:
        try:
            events.append(parse_record(record).fact)
        except InvalidEventError:
            malformed.add((record.partition, record.offset))
    return events, malformed


def _fold(events: list[Fact]) -> dict[Names, Fact]:
    """The rule as it is stated: of two events of a fact the one with the larger (revision, offset) stands."""
    standing: dict[Names, Fact] = {}
    for fact in events:
        before = standing.get(fact_name(fact))
        revision = fact.revision or (before.revision if before else 0)
        if before is None or (before.revision, before.position.offset) < (revision, fact.position.offset):
            standing[fact_name(fact)] = replace(fact, revision=revision)
    return standing


def _all(store: EdgeStore) -> Iterator[Fact]:
    token = ""
    while True:
        facts, token = store.list(NAMESPACE, limit=500, page_token=token)
        yield from facts
        if not token:
            return


def _records(servers: str, topic: str) -> list[KafkaRecord]:
    with open_log(servers, topic) as log:
        return list(log.records())


def _origins(letters: list[KafkaRecord]) -> Iterator[tuple[int, int]]:
    for letter in letters:
        headers = dict(letter.headers)
        yield int(headers[f"{HEADER_PREFIX}partition"] or b""), int(headers[f"{HEADER_PREFIX}offset"] or b"")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--report", type=Path, default=Path("chaos.json"))
    arguments = parser.parse_args()
    if not os.environ.get("KAFKA_HOME"):
        print("KAFKA_HOME must name an unpacked Apache Kafka, whose broker is killed too", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as folder, apache_kafka(Path(os.environ["KAFKA_HOME"])) as kafka:
        report = run_chaos(kafka, Path(folder), arguments.kills, arguments.seed)
    arguments.report.parent.mkdir(parents=True, exist_ok=True)
    arguments.report.write_text(json.dumps(asdict(report), indent=1) + "\n")
    print(json.dumps(asdict(report), indent=1))
    return 1 if report.lost or report.stale or report.duplicated or report.acknowledged_but_gone else 0


if __name__ == "__main__":
    sys.exit(main())
