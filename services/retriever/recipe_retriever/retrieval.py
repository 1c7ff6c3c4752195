"""The decision about a query (arXiv 2405.03279, section 3.2): the best fact, if it beats the sentinel.

Beyond the paper, the sentinel's score rises with the number of facts in the namespace, as its best wrong fact's does,
and a fact must beat it by more where others are about as similar to the query.
"""

import logging
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from itertools import count
from typing import Final, Protocol

from opentelemetry.trace import get_current_span

from recipe_common import tracing
from recipe_model.editor import QueryVector
from recipe_retriever.fact_counts import FactCounts
from recipe_retriever.metrics import RetrieverMetrics, Stage
from recipe_retriever.prompt_cache import Prompt, PromptCache
from recipe_store.crowd import CROWD_FACTS, rise_among
from recipe_store.errors import StoreUnavailableError
from recipe_store.facts import Match
from recipe_store.store import KnowledgeStore

logger = logging.getLogger(__name__)

# One of so many misses is searched for once more: too few to be the slowest hundredth of the retrievals.
MISSES_PER_MARGIN: Final = 200
# The threshold goes with the logarithm of the number of facts, so some more or fewer do not matter.
COUNT_SECONDS: Final = 5.0
# A fact may be replaced between the search and the reading of its prompt, but hardly again and again.
ATTEMPTS: Final = 3


class Decision(Enum):
    """Whether stored knowledge applies to a query."""

    HIT = "hit"
    BELOW_SENTINEL = "below_sentinel"
    EMPTY_BASE = "empty_base"


class QueryEncoder(Protocol):
    """The part of the model that retrieval needs."""

    model_version: str

    def query(self, questions: Sequence[str]) -> list[QueryVector]:
        """Query representations and their sentinel scores."""


@dataclass(frozen=True, slots=True)
class Retrieval:
    """The decision about one query and what it rests on."""

    decision: Decision
    sentinel_similarity: float  # the threshold of a fact that stands alone, for the number of facts there are
    match: Match | None = None  # on a hit only
    prompt: Prompt | None = None  # p_k [l, d] of that match

    @property
    def margin(self) -> float | None:
        """How far the fact beats the sentinel, above 0; None unless it is a hit."""
        return None if self.match is None else self.match.similarity - self.sentinel_similarity


class Retriever:
    """Encodes queries and lets the store compare its facts with the sentinel; threads may share it.

    Up to `cache_bytes` of the prompts that were read are kept, and counts of a namespace's facts `count_seconds` long.
    """

    def __init__(
        self,
        encoder: QueryEncoder,
        store: KnowledgeStore,
        metrics: RetrieverMetrics,
        *,
        cache_bytes: int = 0,
        count_seconds: float = COUNT_SECONDS,
    ) -> None:
        self.store = store
        self.model_version = encoder.model_version
        self._encoder = encoder
        self._metrics = metrics
        self._counts = FactCounts(store, count_seconds, metrics)
        self._prompts = PromptCache(store, cache_bytes, metrics)
        self._misses = count()
        metrics.model_info.labels(encoder.model_version).set(1)

    def retrieve(self, namespace: str, query: str, as_of: datetime) -> Retrieval:
        """Decide about one query alone: `encode` and `decide`."""
        (encoded,) = self.encode([query])
        return self.decide(namespace, encoded, as_of)

    def encode(self, queries: Sequence[str]) -> list[QueryVector]:
        """Encode queries in one pass. Raises InvalidArgumentError if one is too long to encode."""
        begun = time.perf_counter()
        vectors = self._encoder.query(queries)
        for _ in vectors:  # each has waited for all
            self._metrics.stage_seconds.labels("encode").observe(time.perf_counter() - begun)
        return vectors

    def decide(self, namespace: str, query: QueryVector, as_of: datetime) -> Retrieval:
        """Decide about one query among the facts of `namespace` that are valid at `as_of`.

        The store compares, so a miss mostly transfers no fact of the namespace, but for the sample of which the margin
        is measured. Raises CorruptPromptError and StoreUnavailableError.
        """
        threshold = query.threshold(self._counts.of(namespace))
        retrieval = self._hit(namespace, query, threshold, as_of) or self._miss(namespace, threshold)
        self._metrics.decisions.labels(retrieval.decision.value).inc()
        get_current_span().set_attribute("recipe.decision", retrieval.decision.value)
        if retrieval.margin is not None:
            self._metrics.margin.labels("hit").observe(retrieval.margin)
        elif retrieval.decision is Decision.BELOW_SENTINEL and next(self._misses) % MISSES_PER_MARGIN == 0:
            self._measure_miss(namespace, query, threshold, as_of)
        return retrieval

    def _hit(self, namespace: str, query: QueryVector, threshold: float, as_of: datetime) -> Retrieval | None:
        for _ in range(ATTEMPTS):
            with self._timed("search"):
                match = self.store.hit(
                    query.vector,
                    namespace=namespace,
                    as_of=as_of,
                    threshold=threshold,
                    crowd_weight=query.sentinel_crowd,
                )
            if match is None:
                return None
            if (prompt := self._prompts.get(match)) is not None:
                return Retrieval(Decision.HIT, threshold, match, prompt)
        raise StoreUnavailableError(f"the fact that applies was replaced {ATTEMPTS} times while it was read; retry")

    def _miss(self, namespace: str, threshold: float) -> Retrieval:
        with self._timed("count"):
            empty = self.store.empty(namespace)
        return Retrieval(Decision.EMPTY_BASE if empty else Decision.BELOW_SENTINEL, threshold)

    def _measure_miss(self, namespace: str, query: QueryVector, threshold: float, as_of: datetime) -> None:
        """By how much the best fact falls short; nothing if no fact is valid at that time."""
        try:
            matches = self.store.search(query.vector, namespace=namespace, as_of=as_of, limit=CROWD_FACTS)
        except StoreUnavailableError as error:  # the decision about the query stands
            logger.warning("the margin of a miss was not measured: %s", error)
            return
        if matches:
            needed = threshold + rise_among(matches, query.sentinel_crowd, len(query.vector))
            self._metrics.margin.labels("below_sentinel").observe(matches[0].similarity - needed)

    def _timed(self, stage: Stage) -> AbstractContextManager[object]:
        return tracing.stage(stage, self._metrics.stage_seconds.labels(stage))
