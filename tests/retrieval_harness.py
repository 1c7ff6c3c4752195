"""What the retriever's tests are made of: facts along the axes of a small space, and a table in place of the model."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recipe_common.errors import FieldViolation, InvalidArgumentError
from recipe_model.editor import QueryVector
from recipe_store.facts import Fact, FactWrite, LogPosition

MODEL_VERSION = "recipe-table"
KEY_SIZE = 4
PROMPT_SHAPE = (2, 3)
EVENT_TIME = datetime(2025, 3, 1, 12, 30, 0, 123456, tzinfo=UTC)
NOW = datetime(2026, 1, 1, tzinfo=UTC)
SENTINEL_SIMILARITY = 2.0


def axis(index: int, length: float = 1.0) -> NDArray[np.float32]:
    """A vector [R] along one axis."""
    vector = np.zeros(KEY_SIZE, np.float32)
    vector[index] = length
    return vector


def prompt_of(value: float) -> NDArray[np.float16]:
    """A prompt [l, d] that holds one value everywhere."""
    return np.full(PROMPT_SHAPE, value, np.float16)


def make_fact(fact_id: str = "mayor", **changes: Any) -> Fact:
    """A fact with every field set, of the namespace "cities"."""
    values: dict[str, Any] = {
        "namespace": "cities",
        "fact_id": fact_id,
        "revision": 3,
        "statement": f"The {fact_id} of Aville is Ann",
        "subject": "Aville",
        "aliases": ("A-Ville", "AV"),
        "valid_from": datetime(2025, 1, 1, tzinfo=UTC),
        "valid_until": datetime(2030, 1, 1, tzinfo=UTC),
        "labels": {"country": "AA"},
        "event_id": f"event-{fact_id}",
        "event_time": EVENT_TIME,
        "publisher": "atlas",
        "uri": "https://atlas.example/aville",
        "position": LogPosition("recipe.knowledge-updates.v1", 3, 17),
    }
    return Fact(**values | changes)


def make_write(fact: Fact, key: NDArray[np.float32], value: float = 1.5) -> FactWrite:
    """A write of a live fact with that key and a prompt of that value."""
    return FactWrite(fact, key, prompt_of(value))


def retraction(fact_id: str = "mayor", revision: int = 4) -> FactWrite:
    """The retraction of a fact."""
    after = LogPosition("recipe.knowledge-updates.v1", 3, 18)
    gone = {"statement": "", "retracted": True, "retract_reason": "withdrawn"}
    fact = make_fact(fact_id, revision=revision, position=after, **gone)
    return FactWrite(fact, None, None)


class TableEncoder:
    """Gives each query the vector of a table, the first axis if it is not there, and always the same scores."""

    model_version = MODEL_VERSION

    def __init__(
        self, vectors: Mapping[str, NDArray[np.float32]] | None = None, growth: float = 0.0, crowd: float = 0.0
    ) -> None:
        self.vectors = dict(vectors or {})
        self.growth = growth
        self.crowd = crowd
        self.queries: list[str] = []

    def query(self, questions: Sequence[str]) -> list[QueryVector]:
        if any("too long" in question for question in questions):
            raise InvalidArgumentError([FieldViolation("query", "is 999 tokens long")])
        self.queries += questions
        given = (SENTINEL_SIMILARITY, self.growth, self.crowd)
        return [QueryVector(self.vectors.get(text, axis(0)), *given) for text in questions]
