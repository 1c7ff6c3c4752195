"""Why a query hits a fact or none."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import Enum

from recipe_model.editor import QueryVector
from recipe_retriever.retrieval import Decision
from recipe_store import Fact, KnowledgeStore, Match
from recipe_store.crowd import CROWD, rise_among


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
    facts = store.count(namespace)
    threshold = query.threshold(facts)
    valid = store.search(query.vector, namespace=namespace, as_of=as_of, limit=CROWD)
    rise = rise_among(valid, query.sentinel_crowd, len(query.vector))
    hit = store.hit(query.vector, namespace=namespace, as_of=as_of, threshold=threshold, crowd=query.sentinel_crowd)
    nearest = store.search(query.vector, namespace=namespace, as_of=None, limit=limit)
    if hit is not None and hit.fact not in [near.fact for near in nearest]:
        nearest.append(hit)
    decision = Decision.HIT if hit else Decision.BELOW_SENTINEL if facts else Decision.EMPTY_BASE
    if not facts:
        reason = "The namespace holds no fact that is not retracted."
    elif hit is not None:
        reason = _why_it_applies(hit, threshold, as_of, nearest)
    else:
        reason = _why_none_applies(valid, threshold, rise, as_of)
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


def _why_none_applies(valid: Sequence[Match], threshold: float, rise: float, as_of: datetime) -> str:
    if not valid:
        return f"No fact is valid at {as_of.isoformat()}."
    margin = valid[0].similarity - threshold
    nearest = f"The nearest fact valid at {as_of.isoformat()}, {valid[0].fact.fact_id!r}, is"
    if margin <= 0:
        return f"{nearest} {-margin:.4g} less similar to the query than the sentinel is."
    return (
        f"{nearest} {margin:.4g} more similar to the query than the sentinel is, but would have to be {rise:.4g} more, "
        "as other facts are about as similar."
    )


def _ended(fact: Fact, as_of: datetime) -> bool:
    return fact.valid_until is not None and fact.valid_until <= as_of
