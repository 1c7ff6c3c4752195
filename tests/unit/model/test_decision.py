"""The rule by which a fact applies, whatever the verifier says."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import NDArray

from recipe_common.token_states import TokenStates
from recipe_model.decision import CANDIDATES, Decider
from recipe_model.encoded import EncodedQuery
from recipe_model.verifier import VerifierError

TOKENS = TokenStates(np.zeros(1, np.int32), np.zeros(1, np.uint8), np.zeros((1, 2), np.float16))
QUERY = EncodedQuery(np.ones(2, np.float32), TOKENS)


@dataclass(frozen=True)
class Found:
    """A candidate."""

    name: str
    similarity: float = 0.5
    tokens: TokenStates = TOKENS


@dataclass(frozen=True)
class Says:
    """A verifier that gives these margins."""

    given: Sequence[float]

    def margins(self, query: TokenStates, facts: Sequence[TokenStates]) -> NDArray[np.float32]:
        assert query is TOKENS
        assert len(facts) == len(self.given)
        return np.array(self.given, np.float32)


class Fails:
    """A verifier that cannot say anything."""

    def margins(self, query: TokenStates, facts: Sequence[TokenStates]) -> NDArray[np.float32]:
        raise VerifierError("no numbers")


def test_the_best_margin_comes_first_with_its_confidence() -> None:
    decider = Decider(Says([-1.0, 2.0, 0.0]), scale=2.0, offset=1.0)

    judged = decider.judge(QUERY, [Found("a"), Found("b"), Found("c")])

    assert [each.candidate.name for each in judged] == ["b", "c", "a"]
    assert [each.margin for each in judged] == [2.0, 0.0, -1.0]
    expected = [1 / (1 + math.exp(-logit)) for logit in (5.0, 1.0, -1.0)]
    assert [each.confidence for each in judged] == pytest.approx(expected)


def test_of_equal_margins_the_more_similar_fact_comes_first_then_the_one_found_first() -> None:
    decider = Decider(Says([1.0, 1.0, 1.0]))
    judged = decider.judge(QUERY, [Found("a", 0.1), Found("b", 0.9), Found("c", 0.9)])
    assert [each.candidate.name for each in judged] == ["b", "c", "a"]


def test_margins_beyond_all_confidence_still_rank() -> None:
    judged = Decider(Says([800.0, 900.0, -900.0])).judge(QUERY, [Found("a"), Found("b"), Found("c")])
    assert [each.candidate.name for each in judged] == ["b", "a", "c"]
    assert [each.confidence for each in judged] == [1.0, 1.0, 0.0]


def test_without_candidates_nothing_is_compared_and_nothing_applies() -> None:
    decider = Decider(Fails(), min_confidence=0.0)
    assert decider.judge(QUERY, []) == []
    assert decider.hit([]) is None


@pytest.mark.parametrize(
    ("min_confidence", "hits"), [(None, True), (0.0, True), (0.5, True), (0.51, False), (1.0, False)]
)
def test_a_fact_applies_from_the_threshold_on(min_confidence: float | None, hits: bool) -> None:
    decider = Decider(Says([0.0, -1.0]), min_confidence=0.3)
    judged = decider.judge(QUERY, [Found("a"), Found("b")])
    assert decider.hit(judged, min_confidence) is (judged[0] if hits else None)


def test_the_threshold_is_the_checkpoints_unless_one_is_given() -> None:
    decider = Decider(Says([0.0]), min_confidence=0.6)
    judged = decider.judge(QUERY, [Found("a")])
    assert decider.hit(judged) is None
    assert decider.hit(judged, 0.0) is judged[0]


def test_a_verifier_that_fails_is_not_taken_for_one_that_declines() -> None:
    with pytest.raises(VerifierError):
        Decider(Fails()).judge(QUERY, [Found("a")])


def test_as_many_candidates_are_asked_for_as_the_default_says() -> None:
    assert Decider(Fails()).candidates == CANDIDATES
