"""Why a query hits a fact or none."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import Enum

import numpy as np

from recipe_model.editor import QueryVector
from recipe_retriever.retrieval import Decision
from recipe_store import Fact, KnowledgeStore, Match
from recipe_store.crowd import CROWD_FACTS, rise_among


class Verdict(Enum):
    """What a decision means for one fact."""

    APPLIES = "applies"
    OUTRANKED = "outranked"
    BELOW_SENTINEL = "below_sentinel"
    NOT_YET_VALID = "not_yet_valid"
    NO_LONGER_VALID = "no_longer_valid"
    CROWDED = "crowded"


@dataclass(frozen=True, slots=True)
class Explanation:
    """The decision about one query, and the nearest facts, best first, each with what speaks for or against it."""

    decision: Decision
    sentinel_similarity: float
    nearest: Sequence[tuple[Match, Verdict]]
    facts: int  # in the namespace, those not retracted
    reason: str


def explain(store: KnowledgeStore, namespace: str, query: QueryVector, as_of: datetime, limit: int) -> Explanation:
    """The decision about a query among the facts of `namespace`, with the `limit` nearest facts, valid or not.

    Raises StoreUnavailableError.
    """
    facts, weight = store.count(namespace), query.sentinel_crowd
    threshold = float(np.float32(query.threshold(facts)))
    nearest = store.search(query.vector, namespace=namespace, as_of=None, limit=limit)
    hit = store.hit(query.vector, namespace=namespace, as_of=as_of, threshold=threshold, crowd_weight=weight)
    if hit is not None:
        shown, reason = [hit], _why_it_applies(hit, threshold, as_of, nearest)
    else:
        valid = store.search(query.vector, namespace=namespace, as_of=as_of, limit=CROWD_FACTS)
        rise = rise_among(valid, weight, len(query.vector))
        shown, reason = valid[:1], _why_none_applies(valid, threshold, rise, as_of, facts)
    nearest += [match for match in shown if match.fact not in [near.fact for near in nearest]]
    decision = Decision.HIT if hit else Decision.BELOW_SENTINEL if facts else Decision.EMPTY_BASE
    verdicts = [(match, _verdict(match, threshold, as_of, hit)) for match in nearest]
    return Explanation(decision, threshold, verdicts, facts, reason)


def _verdict(match: Match, threshold: float, as_of: datetime, hit: Match | None) -> Verdict:
    fact = match.fact
    if hit is not None and fact == hit.fact:
        return Verdict.APPLIES
    if not fact.valid_at(as_of):
        return Verdict.NO_LONGER_VALID if _ended(fact, as_of) else Verdict.NOT_YET_VALID
    if match.similarity <= threshold:
        return Verdict.BELOW_SENTINEL
    return Verdict.CROWDED if hit is None else Verdict.OUTRANKED


def _why_it_applies(hit: Match, threshold: float, as_of: datetime, nearest: Sequence[Match]) -> str:
    others = sum(match.similarity > hit.similarity for match in nearest)
    nearer = f" {others} nearer ones are not valid then." if others else ""
    return (
        f"{hit.fact.fact_id!r} is the nearest fact valid at {as_of.isoformat()}, and "
        f"{hit.similarity - threshold:.4g} more similar to the query than the sentinel is.{nearer}"
    )


def _why_none_applies(valid: Sequence[Match], threshold: float, rise: float, as_of: datetime, facts: int) -> str:
    if not facts:
        return "The namespace holds no fact that is not retracted."
    if not valid:
        return f"No fact is valid at {as_of.isoformat()}."
    margin = valid[0].similarity - threshold
    nearest = f"The nearest fact valid at {as_of.isoformat()}, {valid[0].fact.fact_id!r}, is"
    if margin <= 0:
        return f"{nearest} {-margin:.4g} less similar to the query than the sentinel is."
    if margin <= rise:
        needed = f"would have to be {rise:.4g} more, as other facts are about as similar."
    else:
        needed = "was stored or found only after the decision."
    return f"{nearest} {margin:.4g} more similar to the query than the sentinel is, but {needed}"


def _ended(fact: Fact, as_of: datetime) -> bool:
    return fact.valid_until is not None and fact.valid_until <= as_of
