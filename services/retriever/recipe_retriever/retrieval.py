"""The decision about a query (arXiv 2405.03279, section 3.2): candidates from the store, then the verifier.

`recipe_model.decision` decides; here it gets its candidates, and what follows from it is fetched, counted and told.
"""

import logging
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Final, Protocol, TypeAlias

from opentelemetry.trace import get_current_span

from recipe_common import tracing
from recipe_model.decision import Decider, Judged
from recipe_model.encoded import EncodedQuery
from recipe_model.verifier import VerifierError
from recipe_retriever.damage import Damage, damaged_reason
from recipe_retriever.metrics import RetrieverMetrics, Stage
from recipe_retriever.prompt_cache import Prompt, PromptCache
from recipe_store.errors import StoreUnavailableError
from recipe_store.facts import DamagedMatch, Fact, Match
from recipe_store.store import KnowledgeStore

logger = logging.getLogger(__name__)

# A fact may be replaced between the search and the reading of its prompt, but hardly again and again.
ATTEMPTS: Final = 3
WARM_UP: Final = "Is the model warm?"

JudgedMatch: TypeAlias = Judged[Match]


class Decision(Enum):
    """Whether stored knowledge applies to a query."""

    HIT = "hit"
    BELOW_SENTINEL = "below_sentinel"
    EMPTY_BASE = "empty_base"


class QueryEncoder(Protocol):
    """The part of the model that retrieval needs."""

    model_version: str
    decider: Decider

    def query(self, questions: Sequence[str]) -> list[EncodedQuery]:
        """Vectors and token states of queries."""


@dataclass(frozen=True, slots=True)
class Thresholds:
    """The least confidence of a hit, 0 to 1: `default`, unless a namespace has its own; None is the checkpoint's."""

    default: float | None = None
    namespaces: Mapping[str, float] | None = None

    def of(self, namespace: str) -> float | None:
        """That of a namespace."""
        return (self.namespaces or {}).get(namespace, self.default)


@dataclass(frozen=True, slots=True)
class Retrieval:
    """The decision about one query and what it rests on."""

    decision: Decision
    min_confidence: float  # that was applied
    nearest: JudgedMatch | None = None  # the candidate that most likely applies; on a hit it does
    prompt: Prompt | None = None  # p_k [l, d] of it, on a hit only
    degraded_reason: str = ""  # set if nothing applies, and the second step failed or could not read a candidate


@dataclass(frozen=True, slots=True)
class Nearby:
    """What one search found, each the most similar first."""

    matches: Sequence[Match]
    damaged: Sequence[DamagedMatch]  # of which nothing can be read

    @property
    def facts(self) -> list[Fact]:
        """All of them."""
        return [*(match.fact for match in self.matches), *(match.fact for match in self.damaged)]


class Retriever:
    """Encodes queries, has the store find candidates, and decides among them; threads may share it.

    Up to `cache_bytes` of the prompts that were read are kept.
    """

    def __init__(
        self,
        encoder: QueryEncoder,
        store: KnowledgeStore,
        metrics: RetrieverMetrics,
        *,
        cache_bytes: int = 0,
        thresholds: Thresholds | None = None,
    ) -> None:
        self.store = store
        self.model_version = encoder.model_version
        self.decider = encoder.decider
        self._encoder = encoder
        self._metrics = metrics
        self._damage = Damage(metrics)
        self._prompts = PromptCache(store, cache_bytes, metrics)
        self._thresholds = thresholds or Thresholds()
        metrics.model_info.labels(encoder.model_version).set(1)

    def retrieve(self, namespace: str, query: str, as_of: datetime, min_confidence: float | None = None) -> Retrieval:
        """Decide about one query alone: `encode` and `decide`."""
        (encoded,) = self.encode([query])
        return self.decide(namespace, encoded, as_of, min_confidence)

    def encode(self, queries: Sequence[str]) -> list[EncodedQuery]:
        """Encode queries in one pass."""
        begun = time.perf_counter()
        encoded = self._encoder.query(queries)
        for _ in encoded:  # each has waited for all
            self._metrics.stage_seconds.labels("encode").observe(time.perf_counter() - begun)
        return encoded

    def warm_up(self) -> None:
        """Run both networks once, as the first time takes longer. A verifier that fails shows in the log."""
        (query,) = self._encoder.query([WARM_UP])
        try:
            self.decider.verifier.margins(query.tokens, [query.tokens])
        except VerifierError as error:
            logger.error("the second step of decisions fails, so that no fact will apply: %s", error)  # noqa: TRY400

    def decide(
        self, namespace: str, query: EncodedQuery, as_of: datetime, min_confidence: float | None = None
    ) -> Retrieval:
        """Decide about one query among the facts of `namespace` that are valid at `as_of`.

        `min_confidence`, 0 to 1, replaces the namespace's. Raises CorruptPromptError and StoreUnavailableError.
        """
        threshold = self.threshold(namespace, min_confidence)
        for _ in range(ATTEMPTS):
            if (retrieval := self._attempt(namespace, query, as_of, threshold)) is not None:
                self._count(retrieval)
                return retrieval
        raise StoreUnavailableError(f"the fact that applies was replaced {ATTEMPTS} times while it was read; retry")

    def threshold(self, namespace: str, asked: float | None = None) -> float:
        """The least confidence of a hit: what was asked for, else the namespace's, else the checkpoint's."""
        chosen = self._thresholds.of(namespace) if asked is None else asked
        return self.decider.min_confidence if chosen is None else chosen

    def candidates(self, namespace: str, query: EncodedQuery, as_of: datetime) -> Nearby:
        """The first step: the nearest facts that are valid at `as_of`, if they are near enough."""
        decider = self.decider
        with self._timed("search"):
            return self.near(namespace, query, as_of, decider.candidates, decider.min_similarity)

    def near(
        self,
        namespace: str,
        query: EncodedQuery,
        as_of: datetime | None,
        limit: int,
        min_similarity: float | None = None,
    ) -> Nearby:
        """The `limit` nearest facts, as `KnowledgeStore.search` finds them, damaged ones among them."""
        damaged: list[DamagedMatch] = []
        matches = self.store.search(
            query.vector,
            namespace=namespace,
            as_of=as_of,
            limit=limit,
            min_similarity=min_similarity,
            damaged=damaged.append,
        )
        return Nearby(matches, damaged)

    def judge(self, query: EncodedQuery, matches: Sequence[Match]) -> list[JudgedMatch]:
        """The second step, the likeliest first; [] for none. Raises VerifierError."""
        if not matches:
            return []
        try:
            with self._timed("verify"):
                return self.decider.judge(query, matches)
        except VerifierError as error:
            logger.warning("the second step of a decision failed: %s", error)
            raise

    def _attempt(self, namespace: str, query: EncodedQuery, as_of: datetime, threshold: float) -> Retrieval | None:
        """The decision; None if the fact that applies was replaced before its prompt was read."""
        near = self.candidates(namespace, query, as_of)
        self._metrics.candidates.observe(len(near.matches))
        self._damage.left_out(near.damaged)
        if not near.facts:
            return Retrieval(self._without_candidates(namespace), threshold)
        try:
            judged = self.judge(query, near.matches)
        except VerifierError as error:
            self._metrics.verifier_failures.inc()  # here, as an operator's Explain is no decision
            return Retrieval(Decision.BELOW_SENTINEL, threshold, degraded_reason=degraded_reason(error))
        hit = self.decider.hit(judged, threshold)
        if hit is None:
            likeliest = judged[0] if judged else None
            return Retrieval(Decision.BELOW_SENTINEL, threshold, likeliest, None, damaged_reason(near.damaged))
        prompt = self._prompts.get(hit.candidate)
        return None if prompt is None else Retrieval(Decision.HIT, threshold, hit, prompt)

    def _without_candidates(self, namespace: str) -> Decision:
        with self._timed("count"):
            empty = self.store.empty(namespace)
        return Decision.EMPTY_BASE if empty else Decision.BELOW_SENTINEL

    def _count(self, retrieval: Retrieval) -> None:
        decision = retrieval.decision.value
        self._metrics.decisions.labels(decision).inc()
        get_current_span().set_attributes(
            {"recipe.decision": decision, "recipe.degraded": bool(retrieval.degraded_reason)}
        )
        if retrieval.nearest is not None:
            self._metrics.confidence.labels(decision).observe(retrieval.nearest.confidence)

    def _timed(self, stage: Stage) -> AbstractContextManager[object]:
        return tracing.stage(stage, self._metrics.stage_seconds.labels(stage))


def degraded_reason(error: VerifierError) -> str:
    """What a response says of a second step that failed."""
    return f"the second step of the decision failed, so no fact applies: {error}"
