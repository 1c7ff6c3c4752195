"""Facts, keys and prompts for the store's tests, small enough to compute by hand."""

from collections.abc import Mapping
from datetime import UTC, datetime

import numpy as np
from numpy.typing import NDArray

from recipe_store import Fact, FactWrite, LogPosition

MODEL_VERSION = "model-1"
KEY_SIZE = 8
PROMPT_SHAPE = (2, 4)
EVENT_TIME = datetime(2025, 3, 1, 12, 30, 0, 123456, tzinfo=UTC)


def axis(index: int, length: float = 1.0) -> NDArray[np.float32]:
    """A key along one axis."""
    key = np.zeros(KEY_SIZE, np.float32)
    key[index] = length
    return key


def prompt_of(value: float) -> NDArray[np.float16]:
    """A prompt that holds one value everywhere."""
    return np.full(PROMPT_SHAPE, value, np.float16)


def make_fact(
    namespace: str,
    fact_id: str,
    revision: int,
    offset: int,
    *,
    statement: str = "The capital of Testland is Example City.",
    valid_from: datetime | None = None,
    valid_until: datetime | None = None,
    labels: Mapping[str, str] | None = None,
    retracted: bool = False,
) -> Fact:
    """A fact whose event id tells revision and offset."""
    return Fact(
        namespace=namespace,
        fact_id=fact_id,
        revision=revision,
        statement="" if retracted else statement,
        subject="Testland",
        aliases=("Republic of Testland", "TL"),
        valid_from=valid_from,
        valid_until=valid_until,
        labels=labels or {},
        event_id=f"event-{revision}-{offset}",
        event_time=EVENT_TIME,
        publisher="atlas",
        uri="https://atlas.example/testland",
        position=LogPosition("recipe.knowledge-updates.v1", 3, offset),
        retracted=retracted,
        retract_reason="withdrawn" if retracted else "",
    )


def make_write(fact: Fact, key: NDArray[np.float32] | None = None) -> FactWrite:
    """A write of the fact; a live one has the key, by default the first axis, and its offset as prompt."""
    if fact.retracted:
        return FactWrite(fact, None, None)
    return FactWrite(fact, axis(0) if key is None else key, prompt_of(fact.position.offset))
