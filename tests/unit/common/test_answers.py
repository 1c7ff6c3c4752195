import pytest

from recipe_common.answers import normalise, says


@pytest.mark.parametrize(
    ("text", "normalised"),
    [
        ("The  Eiffel Tower.", "eiffel tower"),
        ("an apple,a pear", "apple pear"),
        ("Theatre and anthem", "theatre and anthem"),
        ("don't", "don t"),
        ("\uff26\uff35\uff2c\uff2c\u00a0width", "full width"),
        ("STRASSE", normalise("Straße")),
        ("  ", ""),
    ],
)
def test_answers_are_compared_without_case_punctuation_and_articles(text: str, normalised: str) -> None:
    assert normalise(text) == normalised


@pytest.mark.parametrize(
    ("text", "answer", "right"),
    [
        (" the Paris, of course", "Paris", True),
        ("paris", "Paris.", True),
        ("New York City", "New York", True),
        ("New", "New York", False),
        ("Parisian", "Paris", False),
        ("It is Paris", "Paris", False),
        ("", "Paris", False),
    ],
)
def test_a_continuation_says_an_answer_if_it_begins_with_its_words(text: str, answer: str, right: bool) -> None:
    assert says(text, answer) is right
