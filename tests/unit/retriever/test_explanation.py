"""Why a query hits a fact or none."""

from datetime import UTC, datetime

import pytest
from prometheus_client import CollectorRegistry

from recipe_retriever.explanation import Explanation, Verdict, explain
from recipe_retriever.metrics import RetrieverMetrics
from recipe_retriever.retrieval import Decision, Retriever
from recipe_store.edge_store import EdgeStore
from retrieval_harness import (
    MIN_SIMILARITY,
    NOW,
    TableEncoder,
    axis,
    damage,
    encoded,
    make_fact,
    make_write,
    retraction,
)

NORTH = encoded(axis(0))
WHEN = "2026-01-01T00:00:00+00:00"
ENDED, LATER = datetime(2025, 6, 1, tzinfo=UTC), datetime(2026, 6, 1, tzinfo=UTC)


@pytest.fixture
def encoder() -> TableEncoder:
    return TableEncoder()


@pytest.fixture
def retriever(encoder: TableEncoder, store: EdgeStore, registry: CollectorRegistry) -> Retriever:
    return Retriever(encoder, store, RetrieverMetrics(registry))


def verdicts(found: Explanation) -> dict[str, Verdict]:
    return {each.match.fact.fact_id: each.verdict for each in found.nearest}


def margins(found: Explanation) -> list[tuple[str, float | None]]:
    return [(each.match.fact.fact_id, None if each.judged is None else each.judged.margin) for each in found.nearest]


def test_every_verdict_is_told(store: EdgeStore, retriever: Retriever) -> None:
    store.write(
        [
            make_write(make_fact("ended", valid_until=ENDED), axis(0, 9.0)),
            make_write(make_fact("to come", valid_from=LATER), axis(0, 8.0)),
            make_write(make_fact("best"), axis(0, 5.0)),
            make_write(make_fact("second"), axis(0, 4.0)),
            make_write(make_fact("weak"), axis(0, 1.0)),
            make_write(make_fact("far"), axis(1, 9.0)),
            make_write(make_fact("gone"), axis(0, 7.0)),
            retraction("gone"),
        ]
    )
    found = explain(retriever, "cities", NORTH, NOW, 6)
    assert verdicts(found) == {
        "ended": Verdict.NO_LONGER_VALID,
        "to come": Verdict.NOT_YET_VALID,
        "best": Verdict.APPLIES,
        "second": Verdict.OUTRANKED,
        "weak": Verdict.BELOW_SENTINEL,
        "far": Verdict.NOT_A_CANDIDATE,
    }
    assert dict(margins(found)) == {"ended": 7, "to come": 6, "best": 3, "second": 2, "weak": -1, "far": -2}
    assert (found.decision, found.min_confidence, found.facts) == (Decision.HIT, 0.5, 6)
    assert found.min_similarity == MIN_SIMILARITY
    assert found.reason == (
        f"It applies: of 3 candidates valid at {WHEN}, 'best' is the likeliest, with confidence 0.953, "
        "and 0.500 is enough."
    )


def test_it_decides_as_retrieval_does(store: EdgeStore, retriever: Retriever) -> None:
    store.write([make_write(make_fact(f"fact-{number}"), axis(0, 1.0 + number / 10)) for number in range(20)])
    for confidence in (None, 0.2, 0.9):
        found = explain(retriever, "cities", NORTH, NOW, 20, confidence)
        assert found.decision is retriever.decide("cities", NORTH, NOW, confidence).decision


def test_what_applies_is_shown_even_if_it_is_not_among_the_nearest(store: EdgeStore, retriever: Retriever) -> None:
    store.write(
        [
            make_write(make_fact("ended", valid_until=ENDED), axis(0, 9.0)),
            make_write(make_fact("best"), axis(0, 5.0) + axis(1, 1.0)),
        ]
    )
    found = explain(retriever, "cities", NORTH, NOW, 1)
    assert list(verdicts(found).items()) == [("ended", Verdict.NO_LONGER_VALID), ("best", Verdict.APPLIES)]


def test_a_miss_says_how_likely_the_likeliest_is(store: EdgeStore, retriever: Retriever) -> None:
    store.write([make_write(make_fact(), axis(0, 1.5))])
    found = explain(retriever, "cities", NORTH, NOW, 5)
    assert (found.decision, verdicts(found)) == (Decision.BELOW_SENTINEL, {"mayor": Verdict.BELOW_SENTINEL})
    assert found.reason == (
        f"None applies: of 1 candidates valid at {WHEN}, 'mayor' is the likeliest, but with confidence 0.378, "
        "and 0.500 is needed."
    )


def test_the_fact_that_a_miss_is_about_is_shown_even_if_it_is_not_among_the_nearest(
    store: EdgeStore, retriever: Retriever
) -> None:
    store.write([make_write(make_fact("ended", valid_until=ENDED), axis(0, 9.0))])
    store.write([make_write(make_fact("weak"), axis(0, 1.0) + axis(1, 1.0))])
    found = explain(retriever, "cities", NORTH, NOW, 1)
    assert list(verdicts(found).values()) == [Verdict.NO_LONGER_VALID, Verdict.BELOW_SENTINEL]


def test_a_miss_because_nothing_near_is_valid_says_so(store: EdgeStore, retriever: Retriever) -> None:
    store.write([make_write(make_fact(valid_until=NOW), axis(0, 9.0))])
    found = explain(retriever, "cities", NORTH, NOW, 5)
    assert (found.decision, found.reason) == (
        Decision.BELOW_SENTINEL,
        f"Of the facts at {WHEN}, none near the query is valid then.",
    )


def test_a_miss_because_nothing_is_near_says_so(store: EdgeStore, retriever: Retriever) -> None:
    store.write([make_write(make_fact(), axis(1, 9.0))])
    found = explain(retriever, "cities", NORTH, NOW, 5)
    assert (found.decision, found.reason) == (
        Decision.BELOW_SENTINEL,
        f"Of the facts at {WHEN}, none is similar enough to the query to be a candidate.",
    )


def test_a_base_without_facts_says_so(retriever: Retriever) -> None:
    found = explain(retriever, "cities", NORTH, NOW, 5)
    assert (found.decision, found.nearest, found.facts) == (Decision.EMPTY_BASE, [], 0)
    assert found.reason == "The namespace holds no fact that is not retracted."


def test_what_cannot_be_read_beside_the_candidates_changes_no_decision(
    store: EdgeStore, encoder: TableEncoder, retriever: Retriever
) -> None:
    store.write([make_write(make_fact("best"), axis(0, 5.0)), make_write(make_fact("far"), axis(1, 9.0))])
    encoder.verifier.fails_after = 1
    found = explain(retriever, "cities", NORTH, NOW, 5)
    assert (found.decision, found.degraded_reason) == (Decision.HIT, "")
    assert margins(found) == [("best", 3), ("far", None)]
    assert verdicts(found) == {"best": Verdict.APPLIES, "far": Verdict.NOT_A_CANDIDATE}


def test_a_failed_second_step_is_told(store: EdgeStore, encoder: TableEncoder, retriever: Retriever) -> None:
    store.write([make_write(make_fact(), axis(0, 5.0))])
    encoder.verifier.broken = "no numbers"
    found = explain(retriever, "cities", NORTH, NOW, 5)
    assert (found.decision, verdicts(found)) == (Decision.BELOW_SENTINEL, {"mayor": Verdict.BELOW_SENTINEL})
    assert margins(found) == [("mayor", None)]
    assert found.reason == "None of 1 candidates applies, as the second step of the decision failed."
    assert found.degraded_reason.endswith("no numbers")


def test_an_operators_look_counts_as_no_failed_decision(
    store: EdgeStore, encoder: TableEncoder, retriever: Retriever, registry: CollectorRegistry
) -> None:
    store.write([make_write(make_fact("best"), axis(0, 5.0)), make_write(make_fact("far"), axis(1, 9.0))])
    for fails_after in (0, 1):  # at the candidates, and at what else is near
        encoder.verifier.fails_after = fails_after
        explain(retriever, "cities", NORTH, NOW, 5)
        encoder.verifier.read.clear()
    assert registry.get_sample_value("recipe_retriever_verifier_failures_total") == 0


def test_damaged_facts_are_shown_without_a_confidence(
    store: EdgeStore, retriever: Retriever, registry: CollectorRegistry
) -> None:
    store.write([make_write(make_fact("best"), axis(0, 5.0)), make_write(make_fact("far"), axis(1, 9.0))])
    store.write([make_write(make_fact("near"), axis(0, 9.0) + axis(1, 1.0))])
    damage(store, "near")
    damage(store, "far")
    found = explain(retriever, "cities", NORTH, NOW, 5)
    assert margins(found) == [("best", 3), ("near", None), ("far", None)]
    assert verdicts(found) == {
        "best": Verdict.APPLIES,
        "near": Verdict.BELOW_SENTINEL,
        "far": Verdict.NOT_A_CANDIDATE,
    }
    assert (found.decision, found.degraded_reason) == (Decision.HIT, "")
    assert found.reason.endswith(" What is stored of 'near', 'far' is damaged, so that it was not read.")
    assert registry.get_sample_value("recipe_retriever_damaged_facts_total") == 0


@pytest.mark.parametrize("others", [0, 1])
def test_a_miss_beside_a_damaged_fact_is_explained_as_degraded(
    store: EdgeStore, retriever: Retriever, others: int
) -> None:
    store.write([make_write(make_fact(), axis(0, 5.0))])
    store.write([make_write(make_fact(f"weak {number}"), axis(0, 1.0)) for number in range(others)])
    damage(store)
    found = explain(retriever, "cities", NORTH, NOW, 5)
    assert found.decision is Decision.BELOW_SENTINEL
    assert found.degraded_reason == retriever.decide("cities", NORTH, NOW).degraded_reason != ""
    first = (
        "None of 1 candidates applies, as what is stored of them is damaged." if not others else "None applies: of 2"
    )
    assert found.reason.startswith(first)
