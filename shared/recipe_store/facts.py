"""Facts as the store knows them."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

import numpy as np
from numpy.typing import NDArray

from recipe_common.token_states import TokenStates
from recipe_store.errors import CorruptTokensError


@dataclass(frozen=True, slots=True)
class LogPosition:
    """Where in the log an event stands."""

    topic: str
    partition: int
    offset: int


@dataclass(frozen=True, slots=True)
class Fact:
    """One revision of one fact, without vectors.

    `revision` is 0 or more; 0 says that the publisher does not count revisions and the log's order decides.
    `statement` is the fact as a sentence, "" on a retraction marker. The fact is valid from
    `valid_from` (inclusive) until `valid_until` (exclusive), None meaning unbounded. Times carry a time zone
    and are kept to the microsecond; the store gives them back in UTC.
    """

    namespace: str
    fact_id: str
    revision: int
    statement: str
    subject: str
    aliases: tuple[str, ...]
    valid_from: datetime | None
    valid_until: datetime | None
    labels: Mapping[str, str]
    event_id: str
    event_time: datetime
    publisher: str
    uri: str
    position: LogPosition
    retracted: bool = False
    retract_reason: str = ""
    answer: str = ""  # the end of the statement, where the publisher gave it apart

    def valid_at(self, moment: datetime) -> bool:
        """Whether it holds at that instant."""
        return (self.valid_from is None or self.valid_from <= moment) and (
            self.valid_until is None or moment < self.valid_until
        )


@dataclass(frozen=True, slots=True)
class FactWrite:
    """What the encoder hands to the store: a fact with its vector [h], its token states and its prompt p_k [l, d].

    The vector is of any length but 0, as similarities are cosines; l is from 1 to 256 and may differ from fact to fact.
    All three are None exactly when the fact is retracted.
    """

    fact: Fact
    vector: NDArray[np.float32] | None
    tokens: TokenStates | None
    prompt: NDArray[np.float16] | None


@dataclass(frozen=True, slots=True)
class Match:
    """One search result: a fact, the cosine of its vector and the query's, and its token states, to read only."""

    fact: Fact
    similarity: float  # -1 to 1
    tokens: TokenStates
    prompt_sha256: str  # hexadecimal, as it was stored; "" if none was


@dataclass(frozen=True, slots=True)
class DamagedMatch:
    """A search result whose token states are not what was written, so that nothing can be decided about it."""

    fact: Fact
    similarity: float  # -1 to 1
    error: CorruptTokensError
