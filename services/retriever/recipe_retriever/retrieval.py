"""The decision about a query (arXiv 2405.03279, section 3.2): the best fact, if it beats the sentinel."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Protocol

from recipe_model.editor import QueryVector
from recipe_retriever.metrics import RetrieverMetrics
from recipe_store.facts import Match
from recipe_store.store import KnowledgeStore


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
    sentinel_similarity: float
    match: Match | None  # on a hit only

    @property
    def margin(self) -> float | None:
        """How far the fact beats the sentinel, above 0; None unless it is a hit."""
        return None if self.match is None else self.match.similarity - self.sentinel_similarity


class Retriever:
    """Encodes a query and lets the store compare its facts with the sentinel."""

    def __init__(self, encoder: QueryEncoder, store: KnowledgeStore, metrics: RetrieverMetrics) -> None:
        self.store = store
        self.model_version = encoder.model_version
        self._encoder = encoder
        self._metrics = metrics

    def retrieve(self, namespace: str, query: str, as_of: datetime) -> Retrieval:
        """Decide about one query among the facts of `namespace` that are valid at `as_of`.

        The sentinel's score is the store's score threshold, so a miss transfers nothing. Raises
        InvalidArgumentError for a query too long to encode and StoreUnavailableError.
        """
        with self._timed("total"):
            with self._timed("encode"):
                (encoded,) = self._encoder.query([query])
            with self._timed("search"):
                retrieval = self._search(namespace, encoded, as_of)
        self._metrics.decisions.labels(retrieval.decision.value).inc()
        if retrieval.margin is not None:
            self._metrics.hit_margin.observe(retrieval.margin)
        return retrieval

    def _search(self, namespace: str, query: QueryVector, as_of: datetime) -> Retrieval:
        threshold = query.sentinel_similarity
        matches = self.store.search(query.vector, namespace=namespace, as_of=as_of, score_threshold=threshold)
        if matches:
            return Retrieval(Decision.HIT, threshold, matches[0])
        empty = self.store.count(namespace) == 0
        return Retrieval(Decision.EMPTY_BASE if empty else Decision.BELOW_SENTINEL, threshold, None)

    def _timed(self, stage: str) -> AbstractContextManager[object]:
        return self._metrics.stage_seconds.labels(stage).time()
