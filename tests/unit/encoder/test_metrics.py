"""The encoder's metrics, value by value."""

import math
from collections.abc import Iterator

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from recipe_encoder.metrics import EncoderMetrics


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


def ticking(*times: float) -> Iterator[float]:
    yield from times


def test_every_series_is_there_before_anything_happens(registry: CollectorRegistry) -> None:
    EncoderMetrics(registry)
    for result in ("applied", "retracted", "dead_lettered"):
        assert registry.get_sample_value("recipe_encoder_events_total", {"result": result}) == 0
    for stage in ("parse", "encode", "write", "commit"):
        assert registry.get_sample_value("recipe_encoder_stage_seconds_count", {"stage": stage}) == 0
    for name in ("batch_size_count", "freshness_seconds_count", "store_retries_total"):
        assert registry.get_sample_value(f"recipe_encoder_{name}") == 0
    for dependency in ("store", "broker"):
        assert registry.get_sample_value("recipe_encoder_paused", {"dependency": dependency}) == 0
    for change in ("assigned", "revoked", "lost"):
        assert registry.get_sample_value("recipe_encoder_rebalances_total", {"change": change}) == 0
    assert registry.get_sample_value("recipe_encoder_newest_dead_letter_age_seconds") == math.inf
    assert registry.get_sample_value("recipe_encoder_oldest_dead_letter_age_seconds") == 0


def test_the_newest_dead_letter_ages(registry: CollectorRegistry) -> None:
    clock = ticking(100.0, 130.0, 131.5)
    metrics = EncoderMetrics(registry, clock=lambda: next(clock))
    metrics.count_dead_letters(2)
    metrics.count_dead_letters(0)
    age = "recipe_encoder_newest_dead_letter_age_seconds"
    assert [registry.get_sample_value(age), registry.get_sample_value(age)] == [30.0, 31.5]
    assert registry.get_sample_value("recipe_encoder_events_total", {"result": "dead_lettered"}) == 2


def test_a_partition_has_series_for_as_long_as_it_is_here(registry: CollectorRegistry) -> None:
    metrics = EncoderMetrics(registry)
    labels = {"partition": "3"}
    metrics.show_partition(3, lambda: 7.5)
    assert registry.get_sample_value("recipe_encoder_lag_records", labels) == 0
    assert registry.get_sample_value("recipe_encoder_last_commit_age_seconds", labels) == 7.5
    metrics.hide_partition(3)
    assert registry.get_sample_value("recipe_encoder_lag_records", labels) is None
    assert registry.get_sample_value("recipe_encoder_last_commit_age_seconds", labels) is None


def test_every_metric_has_a_help_text(registry: CollectorRegistry) -> None:
    EncoderMetrics(registry)
    helps = [line.split(" ", 3) for line in generate_latest(registry).decode().splitlines() if "# HELP" in line]
    named = {name for _, _, name, text in helps if text and not name.endswith("_created")}
    assert named == {
        "recipe_encoder_events_total",
        "recipe_encoder_batch_size",
        "recipe_encoder_stage_seconds",
        "recipe_encoder_freshness_seconds",
        "recipe_encoder_unreadable_facts_total",
        "recipe_encoder_store_retries_total",
        "recipe_encoder_paused",
        "recipe_encoder_newest_dead_letter_age_seconds",
        "recipe_encoder_oldest_dead_letter_age_seconds",
        "recipe_encoder_rebalances_total",
        "recipe_encoder_lag_records",
        "recipe_encoder_last_commit_age_seconds",
        "recipe_encoder_model_info",
    }


def test_a_stage_is_timed_by_the_clock_also_when_it_fails(registry: CollectorRegistry) -> None:
    clock = ticking(10.0, 10.5, 20.0, 22.0)
    metrics = EncoderMetrics(registry, clock=lambda: next(clock))
    with metrics.time_stage("write"):
        pass
    with pytest.raises(RuntimeError), metrics.time_stage("write"):
        raise RuntimeError
    labels = {"stage": "write"}
    assert registry.get_sample_value("recipe_encoder_stage_seconds_sum", labels) == 2.5
    assert registry.get_sample_value("recipe_encoder_stage_seconds_count", labels) == 2
    assert registry.get_sample_value("recipe_encoder_stage_seconds_bucket", labels | {"le": "0.25"}) == 0
    assert registry.get_sample_value("recipe_encoder_stage_seconds_bucket", labels | {"le": "0.5"}) == 1
    assert registry.get_sample_value("recipe_encoder_stage_seconds_bucket", labels | {"le": "2.5"}) == 2
    assert registry.get_sample_value("recipe_encoder_stage_seconds_count", {"stage": "parse"}) == 0


def test_the_buckets_separate_what_the_goals_ask_for(registry: CollectorRegistry) -> None:
    metrics = EncoderMetrics(registry)
    metrics.freshness_seconds.observe(2.4)
    metrics.batch_size.observe(64)
    assert registry.get_sample_value("recipe_encoder_freshness_seconds_bucket", {"le": "2.0"}) == 0
    assert registry.get_sample_value("recipe_encoder_freshness_seconds_bucket", {"le": "3.0"}) == 1
    assert registry.get_sample_value("recipe_encoder_batch_size_bucket", {"le": "32.0"}) == 0
    assert registry.get_sample_value("recipe_encoder_batch_size_bucket", {"le": "64.0"}) == 1
