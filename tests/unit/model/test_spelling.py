import math
from zlib import crc32

import pytest
import torch

from recipe_model.spelling import BUCKETS, NUMBER_CODES, Spelling, spelling_codes


def codes_of(*grams: str) -> set[int]:
    return {crc32(gram.encode()) for gram in grams}


def test_ngrams_are_those_of_every_word_between_its_marks() -> None:
    assert set(spelling_codes("Ab CDE?")) == codes_of("<ab", "ab>", "<ab>", "<cd", "cde", "de>", "<cde", "cde>")


def test_ngrams_count_once_and_in_any_case() -> None:
    assert sorted(spelling_codes("Rome, ROME")) == sorted(spelling_codes("rome"))


def test_a_word_shorter_than_any_ngram_is_one() -> None:
    assert set(spelling_codes("x")) == codes_of("<x>")


def test_what_holds_a_digit_is_a_whole() -> None:
    assert set(spelling_codes("x 1906")) == codes_of("<x>", *(f"{place}#1906" for place in range(NUMBER_CODES)))
    assert not set(spelling_codes("1906")) & set(spelling_codes("1900"))
    assert not set(spelling_codes("r80")) & set(spelling_codes("s80"))


def test_words_that_are_joined_with_a_number_are_a_whole_beside_themselves() -> None:
    joined, parts = set(spelling_codes("db-eu-013.prod")), set(spelling_codes("db eu 013 prod"))
    assert parts < joined
    assert len(joined - parts) == NUMBER_CODES
    assert not (joined - parts) & set(spelling_codes("db-us-013.prod"))
    assert set(spelling_codes("Saint-Aville")) == set(spelling_codes("Saint Aville"))
    assert set(spelling_codes("in 2019.")) == set(spelling_codes("in 2019"))


def test_codes_are_the_same_in_every_process() -> None:
    assert spelling_codes("é") == [0xB6F4AA17]
    assert spelling_codes("5")[0] == crc32(b"0#5")


def test_texts_become_vectors_of_the_scales_length() -> None:
    spelling = Spelling(16)
    spelling.scale.fill_(3.0)

    vectors = spelling(["Ada Lovelace", "", "?!"])

    assert vectors.shape == (3, 16)
    assert vectors.norm(dim=1).tolist() == pytest.approx([3.0, 0.0, 0.0])


def test_a_slip_moves_a_text_less_than_another_word_does() -> None:
    spelling = Spelling(1024)
    right, slip, other = spelling(["Antonio Stradivari", "Antonio Stradivrai", "Antonio Vivaldi"])

    assert float(right @ slip) > 0.6
    assert float(right @ other) < 0.55


def test_another_number_moves_a_text_more_than_a_slip_does() -> None:
    spelling = Spelling(1024)
    right, slip, other = spelling(["manager of store 1906", "manger of store 1906", "manager of store 1900"])

    assert float(right @ slip) > float(right @ other) + 0.2


def test_weights_start_as_inverse_document_frequencies() -> None:
    spelling = Spelling(16)

    spelling.start(["abc", "abc abc", "xyz"])

    bucket = crc32(b"abc") % BUCKETS
    assert float(spelling.weight[bucket]) == pytest.approx(math.log(4 / 3))
    unseen = set(range(BUCKETS)) - {code % BUCKETS for code in spelling_codes("abc xyz")}
    assert float(spelling.weight[unseen.pop()]) == pytest.approx(math.log(4))


def test_weights_learn() -> None:
    spelling = Spelling(64)

    (spelling(["one two"])[0] @ torch.arange(64.0)).backward()

    assert spelling.weight.grad is not None
    touched = spelling.weight.grad.nonzero().flatten().tolist()
    assert set(touched) <= {code % BUCKETS for code in spelling_codes("one two")}
    assert touched


def test_more_places_than_a_code_names_are_refused() -> None:
    with pytest.raises(ValueError, match="40000 is more than the 32768 places"):
        Spelling(40_000)
