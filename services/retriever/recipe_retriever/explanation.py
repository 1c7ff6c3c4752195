"""Why a query hits a fact or none."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from enum import Enum

from recipe_model.encoded import EncodedQuery
from recipe_model.verifier import VerifierError
from recipe_retriever.retrieval import Decision, JudgedMatch, Retriever, degraded_reason
from recipe_store import Fact, Match


class Verdict(Enum):
    """What a decision means for one fact."""

    APPLIES = "applies"
    OUTRANKED = "outranked"
    BELOW_SENTINEL = "below_sentinel"
    NOT_YET_VALID = "not_yet_valid"
    NO_LONGER_VALID = "no_longer_valid"
    NOT_A_CANDIDATE = "not_a_candidate"


@dataclass(frozen=True, slots=True)
class ExplainedMatch:
    """A fact near the query, what speaks for it, and what became of it."""

    match: Match
    verdict: Verdict
    judged: JudgedMatch | None  # None if it could not be read


@dataclass(frozen=True, slots=True)
class Explanation:
    """The decision about one query, and the most similar facts first, each with what speaks for or against it."""

    decision: Decision
    min_confidence: float
    min_similarity: float
    nearest: Sequence[ExplainedMatch]
    facts: int  # in the namespace, those not retracted
    reason: str
    degraded_reason: str = ""


@dataclass(frozen=True, slots=True)
class _Found:
    """Both steps: what retrieval looks at, what else is near, and how each reads with the query."""

    candidates: Sequence[Match]
    nearest: Sequence[Match]
    judged: Sequence[JudgedMatch] = ()  # the candidates, the likeliest first
    others: Sequence[JudgedMatch] = ()
    degraded_reason: str = ""

    def judgement(self, match: Match) -> JudgedMatch | None:
        """How a match reads, None if nothing was read."""
        return next((each for each in (*self.judged, *self.others) if each.candidate.fact == match.fact), None)


def explain(
    retriever: Retriever,
    namespace: str,
    query: EncodedQuery,
    as_of: datetime,
    limit: int,
    min_confidence: float | None = None,
) -> Explanation:
    """The decision about a query among the facts of `namespace`, with the `limit` nearest facts, valid or not.

    Raises CorruptTokensError and StoreUnavailableError.
    """
    store, threshold = retriever.store, retriever.threshold(namespace, min_confidence)
    facts = store.count(namespace)
    nearest = store.search(query.vector, namespace=namespace, as_of=None, limit=limit)
    found = _read(retriever, query, _Found(retriever.candidates(namespace, query, as_of), nearest))
    hit = retriever.decider.hit(found.judged, threshold)
    decision = Decision.HIT if hit else Decision.BELOW_SENTINEL if facts else Decision.EMPTY_BASE
    return Explanation(
        decision,
        threshold,
        retriever.decider.min_similarity,
        [
            ExplainedMatch(match, _verdict(match, found, hit, as_of, threshold), found.judgement(match))
            for match in _shown(found)
        ],
        facts,
        _reason(found, hit, as_of, facts, threshold),
        found.degraded_reason,
    )


def _read(retriever: Retriever, query: EncodedQuery, found: _Found) -> _Found:
    """Read the candidates as retrieval does, then all others that are shown, which have no part in the decision."""
    try:
        found = replace(found, judged=retriever.judge(query, found.candidates))
    except VerifierError as error:
        return replace(found, degraded_reason=degraded_reason(error))
    known = [match.fact for match in found.candidates]
    others = [match for match in found.nearest if match.fact not in known]
    with suppress(VerifierError):  # it is counted and in the log, and what could not be read has no confidence
        found = replace(found, others=retriever.judge(query, others))
    return found


def _shown(found: _Found) -> list[Match]:
    """The nearest, and the likeliest candidate if it is none of them."""
    facts = [match.fact for match in found.nearest]
    return [*found.nearest, *(each.candidate for each in found.judged[:1] if each.candidate.fact not in facts)]


def _verdict(match: Match, found: _Found, hit: JudgedMatch | None, as_of: datetime, threshold: float) -> Verdict:
    fact = match.fact
    if hit is not None and fact == hit.candidate.fact:
        return Verdict.APPLIES
    if not fact.valid_at(as_of):
        return Verdict.NO_LONGER_VALID if _ended(fact, as_of) else Verdict.NOT_YET_VALID
    if fact not in [candidate.fact for candidate in found.candidates]:
        return Verdict.NOT_A_CANDIDATE
    judged = found.judgement(match)
    return Verdict.OUTRANKED if judged is not None and judged.confidence >= threshold else Verdict.BELOW_SENTINEL


def _reason(found: _Found, hit: JudgedMatch | None, as_of: datetime, facts: int, threshold: float) -> str:
    if not facts:
        return "The namespace holds no fact that is not retracted."
    moment = as_of.isoformat()
    if not found.candidates:
        valid = any(match.fact.valid_at(as_of) for match in found.nearest)
        near = "is similar enough to the query to be a candidate" if valid else "near the query is valid then"
        return f"Of the facts at {moment}, none {near}."
    if found.degraded_reason:
        return f"None of {len(found.candidates)} candidates applies, as the second step of the decision failed."
    best = found.judged[0]
    told = f"of {len(found.candidates)} candidates valid at {moment}, {best.candidate.fact.fact_id!r} is the likeliest"
    confidence = f"confidence {best.confidence:.3f}"
    if hit is not None:
        return f"It applies: {told}, with {confidence}, and {threshold:.3f} is enough."
    return f"None applies: {told}, but with {confidence}, and {threshold:.3f} is needed."


def _ended(fact: Fact, as_of: datetime) -> bool:
    return fact.valid_until is not None and fact.valid_until <= as_of
