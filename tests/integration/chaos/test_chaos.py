"""The short form of `make chaos`."""

import os
from pathlib import Path
from typing import get_args

import pytest

from brokers import apache_kafka
from integration.chaos.run import run_chaos
from integration.chaos.victim import Stage

KILLS = 25
SEED = 3  # draws every stage, a broker's restart and a store's outage


@pytest.mark.skipif(
    "KAFKA_HOME" not in os.environ, reason="KAFKA_HOME names no Apache Kafka, whose broker is killed too"
)
def test_killed_encoders_lose_repeat_and_delay_nothing(tmp_path: Path) -> None:
    with apache_kafka(Path(os.environ["KAFKA_HOME"])) as kafka:
        report = run_chaos(kafka, tmp_path, KILLS, SEED)
    assert report.kills == KILLS
    assert report.kills_by_stage.keys() == set(get_args(Stage))
    assert report.broker_restarts > 0
    assert report.store_outages > 0
    assert report.events > KILLS
    assert report.malformed > 0
    assert (report.lost, report.stale, report.duplicated, report.acknowledged_but_gone) == (0, 0, 0, 0)
