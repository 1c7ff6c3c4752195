"""Why a query hits a fact or none."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import Enum

from recipe_model.editor import QueryVector
from recipe_retriever.retrieval import Decision
from recipe_store import Fact, KnowledgeStore, Match


class Verdict(Enum):
    """What a decision means for one fact."""

    APPLIES = "applies"
    OUTRANKED = "outranked"
    BELOW_SENTINEL = "below_sentinel"
    NOT_YET_VALID = "not_yet_valid"
    NO_LONGER_VALID = "no_longer_valid"


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
    applying = store.search(query.vector, namespace=namespace, as_of=as_of, score_threshold=threshold)
    nearest = store.search(query.vector, namespace=namespace, as_of=None, limit=limit)
    nearest += [match for match in applying if match.fact not in [near.fact for near in nearest]]
    hit = applying[0] if applying else None
    decision = Decision.HIT if hit else Decision.BELOW_SENTINEL if facts else Decision.EMPTY_BASE
    verdicts = [(match, _verdict(match, threshold, as_of, hit)) for match in nearest]
    return Explanation(decision, threshold, verdicts, facts, _reason(threshold, as_of, hit, nearest, facts))


def _verdict(match: Match, threshold: float, as_of: datetime, hit: Match | None) -> Verdict:
    fact = match.fact
    if hit is not None and fact == hit.fact:
        return Verdict.APPLIES
    if not fact.valid_at(as_of):
        return Verdict.NO_LONGER_VALID if _ended(fact, as_of) else Verdict.NOT_YET_VALID
    return Verdict.OUTRANKED if match.similarity > threshold else Verdict.BELOW_SENTINEL


def _reason(threshold: float, as_of: datetime, hit: Match | None, nearest: Sequence[Match], facts: int) -> str:
    if not facts:
        return "The namespace holds no fact that is not retracted."
    if hit is not None:
        others = sum(match.similarity > hit.similarity for match in nearest)
        nearer = f" {others} nearer ones are not valid then." if others else ""
        return (
            f"{hit.fact.fact_id!r} is the nearest fact valid at {as_of.isoformat()}, and "
            f"{hit.similarity - threshold:.4g} more similar to the query than the sentinel is.{nearer}"
        )
    valid = [match for match in nearest if match.fact.valid_at(as_of)]
    if not valid:
        return f"None of the {len(nearest)} nearest facts is valid at {as_of.isoformat()}."
    short = threshold - valid[0].similarity
    return (
        f"The nearest fact valid at {as_of.isoformat()}, {valid[0].fact.fact_id!r}, is {short:.4g} less similar to the "
        "query than the sentinel is."
    )


def _ended(fact: Fact, as_of: datetime) -> bool:
    return fact.valid_until is not None and fact.valid_until <= as_of
