"""The generator's metrics, value by value."""

from collections.abc import Sequence

import pytest
from prometheus_client import CollectorRegistry

from recipe_common.admission import Admission
from recipe_common.errors import ResourceExhaustedError
from recipe_generator.metrics import GeneratorMetrics, Pace

FIRST, TOKEN = "recipe_generator_first_token_seconds", "recipe_generator_token_seconds"


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


def write(registry: CollectorRegistry, asked: float, pieces: Sequence[tuple[float, int]]) -> None:
    """An answer in pieces: when each came, and how many tokens there were then."""
    times = iter([time for time, _ in pieces])
    pace = Pace(GeneratorMetrics(registry, clock=lambda: next(times)), asked)
    for _, tokens in pieces:
        pace.reached(tokens)
    pace.finished()


def values(registry: CollectorRegistry, name: str) -> tuple[float | None, float | None]:
    return registry.get_sample_value(f"{name}_count"), registry.get_sample_value(f"{name}_sum")


def test_every_series_is_there_before_anything_happens(registry: CollectorRegistry) -> None:
    GeneratorMetrics(registry)
    for knowledge in ("edited", "unedited_no_match", "unedited_off", "unedited_degraded"):
        assert registry.get_sample_value("recipe_generator_answers_total", {"knowledge": knowledge}) == 0
    for stage in ("retrieve", "generate"):
        assert registry.get_sample_value("recipe_generator_stage_seconds_count", {"stage": stage}) == 0
    for code in ("OK", "RESOURCE_EXHAUSTED"):
        assert registry.get_sample_value("recipe_generator_calls_total", {"method": "Generate", "code": code}) == 0
    assert values(registry, FIRST) == values(registry, TOKEN) == (0, 0)


def test_the_first_token_is_timed_from_the_request_and_the_others_from_the_first(registry: CollectorRegistry) -> None:
    write(registry, 10.0, [(10.5, 1), (10.75, 2), (11.5, 5)])
    assert values(registry, FIRST) == (1, 0.5)
    assert values(registry, TOKEN) == (1, 0.25)
    assert registry.get_sample_value("recipe_generator_tokens_total") == 5
    assert registry.get_sample_value(f"{FIRST}_bucket", {"le": "0.3"}) == 0
    assert registry.get_sample_value(f"{FIRST}_bucket", {"le": "0.5"}) == 1
    assert registry.get_sample_value(f"{TOKEN}_bucket", {"le": "0.2"}) == 0
    assert registry.get_sample_value(f"{TOKEN}_bucket", {"le": "0.3"}) == 1


def test_tokens_that_come_together_with_the_first_are_not_timed(registry: CollectorRegistry) -> None:
    write(registry, 10.0, [(10.5, 3)])
    assert values(registry, FIRST) == (1, 0.5)
    assert values(registry, TOKEN) == (0, 0)


def test_the_end_of_a_text_is_no_token(registry: CollectorRegistry) -> None:
    write(registry, 10.0, [(10.5, 1), (11.0, 2), (99.0, 2)])
    assert values(registry, TOKEN) == (1, 0.5)


def test_an_answer_without_a_token_has_no_pace(registry: CollectorRegistry) -> None:
    write(registry, 10.0, [(10.5, 0)])
    assert values(registry, FIRST) == values(registry, TOKEN) == (0, 0)
    assert registry.get_sample_value("recipe_generator_tokens_total") == 0


def test_places_are_counted_and_so_is_who_finds_none(registry: CollectorRegistry) -> None:
    admission = Admission(1, GeneratorMetrics(registry))
    assert registry.get_sample_value("recipe_generator_request_places") == 1
    with admission.admit():
        assert registry.get_sample_value("recipe_generator_requests_inside") == 1
        with pytest.raises(ResourceExhaustedError), admission.admit():
            pass
    assert registry.get_sample_value("recipe_generator_requests_inside") == 0
    assert registry.get_sample_value("recipe_generator_requests_refused_total") == 1
