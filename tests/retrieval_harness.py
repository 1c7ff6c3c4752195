"""What the retriever's tests are made of: facts along the axes of a small space, and a table in place of the model.

A key has a direction, by which candidates are found, and a length: what the verifier says of it is the inner product
with the question, less that of the sentinel.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import qdrant_edge as edge
from numpy.typing import NDArray

from recipe_common.token_states import TokenStates
from recipe_model.decision import Decider
from recipe_model.encoded import EncodedQuery
from recipe_model.verifier import VerifierError
from recipe_store.edge_store import EdgeStore
from recipe_store.facts import Fact, FactWrite, LogPosition
from recipe_store.payload import point_id

MODEL_VERSION = "recipe-table"
VECTOR_SIZE = 4
PROMPT_WIDTH = 3
EVENT_TIME = datetime(2025, 3, 1, 12, 30, 0, 123456, tzinfo=UTC)
NOW = datetime(2026, 1, 1, tzinfo=UTC)
SENTINEL = 2.0
MIN_SIMILARITY = 0.5


def axis(index: int, length: float = 1.0) -> NDArray[np.float32]:
    """A vector [h] along one axis."""
    vector = np.zeros(VECTOR_SIZE, np.float32)
    vector[index] = length
    return vector


def prompt_of(value: float, tokens: int = 2) -> NDArray[np.float16]:
    """A prompt [l, d] that holds one value everywhere."""
    return np.full((tokens, PROMPT_WIDTH), value, np.float16)


def tokens_of(vector: NDArray[np.float32]) -> TokenStates:
    """Token states from which the verifier of this module reads the vector."""
    return TokenStates(np.array([7], np.int32), np.zeros(1, np.uint8), vector[None].astype(np.float16))


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


def make_write(fact: Fact, key: NDArray[np.float32], value: float = 1.5, tokens: int = 2) -> FactWrite:
    """A write of a live fact with that key and a prompt [tokens, d] of that value."""
    return FactWrite(fact, key, tokens_of(key), prompt_of(value, tokens))


def retraction(fact_id: str = "mayor", revision: int = 4) -> FactWrite:
    """The retraction of a fact."""
    after = LogPosition("recipe.knowledge-updates.v1", 3, 18)
    gone = {"statement": "", "retracted": True, "retract_reason": "withdrawn"}
    fact = make_fact(fact_id, revision=revision, position=after, **gone)
    return FactWrite(fact, None, None, None)


def damage(store: EdgeStore, fact_id: str = "mayor", part: str = "tokens") -> None:
    """Change a stored part of a fact, "tokens" or "prompt", behind the store's back."""
    store._facts.engine.update(
        edge.UpdateOperation.set_payload([point_id("cities", fact_id)], {part: {"data": "AAAA"}})
    )


class TableVerifier:
    """Reads vectors out of token states; fails while `broken` says why, and after so many times."""

    def __init__(self) -> None:
        self.broken = ""
        self.fails_after: int | None = None
        self.read: list[int] = []  # how many facts at a time

    def margins(self, query: TokenStates, facts: Sequence[TokenStates]) -> NDArray[np.float32]:
        if self.broken or len(self.read) == self.fails_after:
            raise VerifierError(self.broken or "it has read enough")
        self.read.append(len(facts))
        return np.array([query.states[0] @ fact.states[0] - SENTINEL for fact in facts], np.float32)


class TableEncoder:
    """Gives each query the vector of a table, the first axis if it is not there."""

    model_version = MODEL_VERSION

    def __init__(self, vectors: Mapping[str, NDArray[np.float32]] | None = None) -> None:
        self.vectors = dict(vectors or {})
        self.queries: list[str] = []
        self.verifier = TableVerifier()
        self.decider = Decider(self.verifier, min_similarity=MIN_SIMILARITY)

    def query(self, questions: Sequence[str]) -> list[EncodedQuery]:
        self.queries += questions
        return [replace(encoded(self.vectors.get(text, axis(0))), text=text) for text in questions]


def encoded(vector: NDArray[np.float32]) -> EncodedQuery:
    """A query of that vector."""
    return EncodedQuery(vector / np.linalg.norm(vector), tokens_of(vector))
