"""Why a query hits a fact or none."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from enum import Enum

from recipe_model.encoded import EncodedQuery
from recipe_model.verifier import VerifierError
from recipe_retriever.damage import damaged_reason
from recipe_retriever.retrieval import Decision, JudgedMatch, Nearby, Retriever, degraded_reason
from recipe_store import DamagedMatch, Fact, Match


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

    match: Match | DamagedMatch
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

    candidates: Nearby
    nearest: Nearby
    judged: Sequence[JudgedMatch] = ()  # the candidates, the likeliest first
    others: Sequence[JudgedMatch] = ()
    failure: str = ""  # of the second step

    def judgement(self, match: Match | DamagedMatch) -> JudgedMatch | None:
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

    Raises StoreUnavailableError.
    """
    threshold = retriever.threshold(namespace, min_confidence)
    facts = retriever.store.count(namespace)
    nearest = retriever.near(namespace, query, None, limit)
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
        _reason(found, hit, as_of, facts, threshold) + _unread(found),
        found.failure or ("" if hit else damaged_reason(found.candidates.damaged)),
    )


def _read(retriever: Retriever, query: EncodedQuery, found: _Found) -> _Found:
    """Read the candidates as retrieval does, then all others that are shown, which have no part in the decision."""
    try:
        found = replace(found, judged=retriever.judge(query, found.candidates.matches))
    except VerifierError as error:
        return replace(found, failure=degraded_reason(error))
    known = found.candidates.facts
    others = [match for match in found.nearest.matches if match.fact not in known]
    with suppress(VerifierError):  # it is in the log, and what could not be read has no confidence
        found = replace(found, others=retriever.judge(query, others))
    return found


def _shown(found: _Found) -> list[Match | DamagedMatch]:
    """The nearest, and the likeliest candidate if it is none of them."""
    nearest: list[Match | DamagedMatch] = [*found.nearest.matches, *found.nearest.damaged]
    nearest.sort(key=lambda match: match.similarity, reverse=True)
    facts = found.nearest.facts
    return [*nearest, *(each.candidate for each in found.judged[:1] if each.candidate.fact not in facts)]


def _verdict(
    match: Match | DamagedMatch, found: _Found, hit: JudgedMatch | None, as_of: datetime, threshold: float
) -> Verdict:
    fact = match.fact
    if hit is not None and fact == hit.candidate.fact:
        return Verdict.APPLIES
    if not fact.valid_at(as_of):
        return Verdict.NO_LONGER_VALID if _ended(fact, as_of) else Verdict.NOT_YET_VALID
    if fact not in found.candidates.facts:
        return Verdict.NOT_A_CANDIDATE
    judged = found.judgement(match)
    return Verdict.OUTRANKED if judged is not None and judged.confidence >= threshold else Verdict.BELOW_SENTINEL


def _reason(found: _Found, hit: JudgedMatch | None, as_of: datetime, facts: int, threshold: float) -> str:
    if not facts:
        return "The namespace holds no fact that is not retracted."
    moment = as_of.isoformat()
    if not found.candidates.facts:
        valid = any(fact.valid_at(as_of) for fact in found.nearest.facts)
        near = "is similar enough to the query to be a candidate" if valid else "near the query is valid then"
        return f"Of the facts at {moment}, none {near}."
    count = len(found.candidates.facts)
    if found.failure:
        return f"None of {count} candidates applies, as the second step of the decision failed."
    if not found.judged:
        return f"None of {count} candidates applies, as what is stored of them is damaged."
    best = found.judged[0]
    told = f"of {count} candidates valid at {moment}, {best.candidate.fact.fact_id!r} is the likeliest"
    confidence = f"confidence {best.confidence:.3f}"
    if hit is not None:
        return f"It applies: {told}, with {confidence}, and {threshold:.3f} is enough."
    return f"None applies: {told}, but with {confidence}, and {threshold:.3f} is needed."


def _unread(found: _Found) -> str:
    """A sentence about the damaged facts, if there are any."""
    damaged = [*found.candidates.damaged, *found.nearest.damaged]
    names = dict.fromkeys(repr(match.fact.fact_id) for match in damaged)
    return f" What is stored of {', '.join(names)} is damaged, so that it was not read." if names else ""


def _ended(fact: Fact, as_of: datetime) -> bool:
    return fact.valid_until is not None and fact.valid_until <= as_of
