"""Numbers in a text as a part of its vector."""

import numpy as np
import pytest

from recipe_model.number_signature import NUMBERS, WEIGHT, number_signature, number_words


def test_words_with_a_digit_are_found_whole_and_in_parts() -> None:
    assert number_words("Who runs db-eu-013.prod in 2024?") == ["db-eu-013.prod", "013", "2024"]
    assert number_words("the iPhone15's price") == ["iphone15"]
    assert number_words("no number here") == []


def test_the_signature_has_one_length_or_none() -> None:
    assert number_signature("no number here").tolist() == [0.0] * NUMBERS
    assert np.linalg.norm(number_signature("store 6890 opens at 9")) == pytest.approx(WEIGHT, abs=1e-6)


def test_the_same_numbers_agree_and_others_do_not() -> None:
    own, worded, other = map(number_signature, ("store 6890", "What does Store 6890 sell?", "store 6891"))
    assert own @ worded == pytest.approx(WEIGHT**2, abs=1e-6)
    assert abs(own @ other) < 0.5 * WEIGHT**2


def test_a_long_word_costs_no_more_than_its_length() -> None:
    assert len(number_words("1-" * 20_000)) == 2
