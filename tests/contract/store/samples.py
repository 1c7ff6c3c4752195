"""Facts, vectors, token states and prompts for the store's tests, small enough to compute by hand."""

from collections.abc import Mapping
from datetime import UTC, datetime

import numpy as np
from numpy.typing import NDArray

from recipe_common.token_states import ROLE_ANSWER, ROLE_QUESTION, TokenStates
from recipe_store import Fact, FactWrite, LogPosition

MODEL_VERSION = "model-1"
VECTOR_SIZE = 8
PROMPT_WIDTH = 4
EVENT_TIME = datetime(2025, 3, 1, 12, 30, 0, 123456, tzinfo=UTC)


def axis(index: int, sign: float = 1.0) -> NDArray[np.float32]:
    """A vector along one axis."""
    vector = np.zeros(VECTOR_SIZE, np.float32)
    vector[index] = sign
    return vector


def similar(similarity: float, index: int = 0) -> NDArray[np.float32]:
    """A vector whose cosine with that axis is `similarity`; its remainder lies along the last axis."""
    vector = axis(index, similarity)
    vector[-1] = np.sqrt(1 - similarity**2)
    return vector


def prompt_of(value: float, length: int = 2) -> NDArray[np.float16]:
    """A prompt that holds one value everywhere."""
    return np.full((length, PROMPT_WIDTH), value, np.float16)


def tokens_of(value: float, count: int = 3, size: int = VECTOR_SIZE) -> TokenStates:
    """Tokens whose states hold one value everywhere; the last one is of the answer."""
    roles = np.full(count, ROLE_QUESTION, np.uint8)
    roles[-1] = ROLE_ANSWER
    return TokenStates(np.arange(100, 100 + count, dtype=np.int32), roles, np.full((count, size), value, np.float16))


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
        answer="" if retracted else "Example City",
    )


def make_write(fact: Fact, vector: NDArray[np.float32] | None = None) -> FactWrite:
    """A write of the fact; a live one's vector is the first axis by default, its tokens and prompt hold its offset."""
    if fact.retracted:
        return FactWrite(fact, None, None, None)
    value = fact.position.offset
    vector = axis(0) if vector is None else vector
    return FactWrite(fact, vector, tokens_of(value, size=len(vector)), prompt_of(value))


def same_tokens(left: TokenStates, right: TokenStates) -> bool:
    """Whether they are the same to the bit."""
    pairs = ((left.ids, right.ids), (left.roles, right.roles), (left.states, right.states))
    return all(a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes() for a, b in pairs)
