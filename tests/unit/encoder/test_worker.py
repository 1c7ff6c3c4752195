"""Parts of the worker that need no broker."""

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from kafka.errors import KafkaTimeoutError
from prometheus_client import CollectorRegistry

from encoder_harness import HashEncoder
from encoder_records import Record, json_record
from recipe_encoder.metrics import EncoderMetrics
from recipe_encoder.settings import EncoderSettings
from recipe_encoder.worker import Worker, backoff_seconds
from recipe_store import FactWrite, LogPosition


@pytest.mark.parametrize(("share", "pauses"), [(0.0, [0.5, 1, 2, 3, 3]), (1.0, [1, 2, 4, 6, 6])])
def test_pauses_double_up_to_the_longest_and_are_cut_by_half_at_most(
    monkeypatch: pytest.MonkeyPatch, share: float, pauses: list[float]
) -> None:
    monkeypatch.setattr("random.uniform", lambda low, high: low + share * (high - low))
    assert list(islice(backoff_seconds(1.0, 6.0), 5)) == pauses


class Spy:
    """Stands for log, store and dead letters, and notes in which order they are used."""

    model_version = "hash-1"

    def __init__(self) -> None:
        self.steps: list[str] = []

    def write(self, items: Sequence[Any], superseded: Sequence[Any] = ()) -> None:
        what = "facts" if isinstance(items[0], FactWrite) else "dead letters"
        self.steps.append(f"{len(items)} {what}" + (f", {len(superseded)} superseded" if superseded else ""))

    def advance(self, applied: Sequence[LogPosition]) -> None:
        self.steps.append(f"applied {max(position.offset for position in applied)}")

    def finish(self, records: Sequence[Any]) -> None:
        self.steps.append(f"commit {len(records)}")

    def resume(self) -> None:
        pass


def test_effects_come_before_the_commit_and_freshness_is_measured_after_the_write() -> None:
    registry = CollectorRegistry()
    spy: Any = Spy()
    worker = Worker(
        EncoderSettings(store_path=Path("unused")),
        HashEncoder(),
        spy,
        EncoderMetrics(registry),
        now=lambda: datetime(2026, 1, 31, 12, 0, 2, 500_000, tzinfo=UTC),
    )
    records = [
        json_record({"eventTime": "2026-01-31T12:00:00Z", "upsert": {"statement": "s"}}, offset=1),
        json_record({"eventTime": "2026-01-31T12:00:02Z", "retract": {}}, offset=2),
        json_record({"eventTime": "2026-01-31T13:00:00Z", "upsert": {"statement": "from a clock ahead"}}, offset=3),
        Record(b"nonsense", offset=4),
    ]
    with ThreadPoolExecutor(1) as effects:
        worker._process(records, spy, spy, effects)
    assert spy.steps == ["1 facts, 2 superseded", "1 dead letters", "applied 4", "commit 4"]
    events = {
        result: registry.get_sample_value("recipe_encoder_events_total", {"result": result})
        for result in ("applied", "retracted", "dead_lettered")
    }
    assert events == {"applied": 2, "retracted": 1, "dead_lettered": 1}
    assert registry.get_sample_value("recipe_encoder_freshness_seconds_sum") == 3.0
    assert registry.get_sample_value("recipe_encoder_freshness_seconds_count") == 3
    for stage in ("parse", "encode", "write", "commit"):
        assert registry.get_sample_value("recipe_encoder_stage_seconds_count", {"stage": stage}) == 1
    assert registry.get_sample_value("recipe_encoder_paused", {"dependency": "store"}) == 0
    assert registry.get_sample_value("recipe_encoder_newest_dead_letter_age_seconds") != math.inf
    assert registry.get_sample_value("recipe_encoder_model_info", {"model_version": "hash-1"}) == 1


def test_an_age_that_the_broker_does_not_say_is_not_a_number() -> None:
    class Silent:
        def timestamp(self) -> int | None:
            raise KafkaTimeoutError("no answer")

    registry = CollectorRegistry()
    spy: Any = Spy()
    silent: Any = Silent()
    worker = Worker(EncoderSettings(store_path=Path("unused")), HashEncoder(), spy, EncoderMetrics(registry))
    worker._measure_letters(silent)
    age = registry.get_sample_value("recipe_encoder_oldest_dead_letter_age_seconds")
    assert age is not None
    assert math.isnan(age)
