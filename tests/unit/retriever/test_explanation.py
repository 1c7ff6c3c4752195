"""Why a query hits a fact or none."""

import math
from datetime import UTC, datetime

from recipe_model.editor import QueryVector
from recipe_retriever.explanation import Explanation, Verdict, explain
from recipe_retriever.retrieval import Decision
from recipe_store.edge_store import EdgeStore
from retrieval_harness import (
    NOW,
    SENTINEL_SIMILARITY,
    axis,
    make_fact,
    make_write,
    retraction,
)

NORTH = QueryVector(axis(0), SENTINEL_SIMILARITY)
WHEN = "2026-01-01T00:00:00+00:00"


def shown(found: Explanation) -> list[tuple[str, float, Verdict]]:
    return [(match.fact.fact_id, match.similarity, verdict) for match, verdict in found.nearest]


def test_every_verdict_is_told(store: EdgeStore) -> None:
    ended, later = datetime(2025, 6, 1, tzinfo=UTC), datetime(2026, 6, 1, tzinfo=UTC)
    store.write(
        [
            make_write(make_fact("ended", valid_until=ended), axis(0, 9.0)),
            make_write(make_fact("to come", valid_from=later), axis(0, 8.0)),
            make_write(make_fact("best"), axis(0, 5.0)),
            make_write(make_fact("second"), axis(0, 4.0)),
            make_write(make_fact("weak"), axis(0, 2.0)),
            make_write(make_fact("gone"), axis(0, 7.0)),
            retraction("gone"),
        ]
    )
    found = explain(store, "cities", NORTH, NOW, 5)
    assert shown(found) == [
        ("ended", 9.0, Verdict.NO_LONGER_VALID),
        ("to come", 8.0, Verdict.NOT_YET_VALID),
        ("best", 5.0, Verdict.APPLIES),
        ("second", 4.0, Verdict.OUTRANKED),
        ("weak", 2.0, Verdict.BELOW_SENTINEL),
    ]
    assert (found.decision, found.sentinel_similarity, found.facts) == (Decision.HIT, 2.0, 5)
    assert found.reason == (
        f"'best' is the nearest fact valid at {WHEN}, and 3 more similar to the query than the sentinel is. "
        "2 nearer ones are not valid then."
    )


def test_what_applies_is_shown_even_if_it_is_not_among_the_nearest(store: EdgeStore) -> None:
    ended = datetime(2025, 6, 1, tzinfo=UTC)
    store.write(
        [
            make_write(make_fact("ended", valid_until=ended), axis(0, 9.0)),
            make_write(make_fact("best"), axis(0, 5.0)),
        ]
    )
    found = explain(store, "cities", NORTH, NOW, 1)
    assert [verdict for _, _, verdict in shown(found)] == [Verdict.NO_LONGER_VALID, Verdict.APPLIES]


def test_a_miss_says_by_how_much(store: EdgeStore) -> None:
    store.write([make_write(make_fact(), axis(0, 1.5))])
    found = explain(store, "cities", NORTH, NOW, 5)
    assert (found.decision, shown(found)) == (Decision.BELOW_SENTINEL, [("mayor", 1.5, Verdict.BELOW_SENTINEL)])
    assert found.reason == (
        f"The nearest fact valid at {WHEN}, 'mayor', is 0.5 less similar to the query than the sentinel is."
    )


def test_a_miss_in_a_crowd_says_how_much_more_it_would_take(store: EdgeStore) -> None:
    store.write([make_write(make_fact(name), axis(0, length)) for name, length in (("a", 4.0), ("b", 4.0), ("c", 1.0))])
    query = QueryVector(axis(0), SENTINEL_SIMILARITY, sentinel_crowd=2.0)
    found = explain(store, "cities", query, NOW, 5)
    assert found.decision is Decision.BELOW_SENTINEL
    assert {name: verdict for name, _, verdict in shown(found)} == {
        "a": Verdict.CROWDED,
        "b": Verdict.CROWDED,
        "c": Verdict.BELOW_SENTINEL,
    }
    needed = 4 * math.log(2 + math.exp(-1.5))
    assert found.reason.endswith(
        f"is 2 more similar to the query than the sentinel is, but would have to be {needed:.4g} more, "
        "as other facts are about as similar."
    )


def test_the_fact_that_a_miss_is_about_is_shown_even_if_it_is_not_among_the_nearest(store: EdgeStore) -> None:
    ended = datetime(2025, 6, 1, tzinfo=UTC)
    store.write([make_write(make_fact("ended", valid_until=ended), axis(0, 9.0))])
    store.write([make_write(make_fact("weak"), axis(0, 1.0))])
    found = explain(store, "cities", NORTH, NOW, 1)
    assert [verdict for _, _, verdict in shown(found)] == [Verdict.NO_LONGER_VALID, Verdict.BELOW_SENTINEL]


def test_a_miss_because_nothing_near_is_valid_says_so(store: EdgeStore) -> None:
    store.write([make_write(make_fact(valid_until=NOW), axis(0, 9.0))])
    found = explain(store, "cities", NORTH, NOW, 5)
    assert (found.decision, found.reason) == (
        Decision.BELOW_SENTINEL,
        f"No fact is valid at {WHEN}.",
    )


def test_a_base_without_facts_says_so(store: EdgeStore) -> None:
    found = explain(store, "cities", NORTH, NOW, 5)
    assert (found.decision, found.nearest, found.facts) == (Decision.EMPTY_BASE, [], 0)
    assert found.reason == "The namespace holds no fact that is not retracted."
