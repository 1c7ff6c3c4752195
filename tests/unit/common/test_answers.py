import pytest

from recipe_common.answers import normalise, says, states, states_already


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


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("It is +49 30 5550 1277.", "+49 30 5550 1277"),
        ("It costs\n 14.90  euros a month", "14.90 Euros a month."),
        ("port 8443", "8443"),
        ("Use 7.2.1, please", "7.2.1"),
        ("Ada Example", "ADA EXAMPLE!"),
        ("café", "cafe\u0301"),
        ("(555)", "(555)"),
    ],
)
def test_an_answer_is_stated_whatever_its_case_its_spaces_and_its_full_stop(text: str, answer: str) -> None:
    assert states(text, answer)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("", "8443"),
        ("844", "8443"),
        ("84432", "8443"),
        ("18443", "8443"),
        ("Annabel", "Ann"),
        ("14.90 euro", "14.9"),
        ("7.2.1", "7.2"),
    ],
)
def test_a_part_or_a_part_of_something_longer_is_not(text: str, answer: str) -> None:
    assert not states(text, answer)


def test_a_text_that_goes_on_states_an_answer_once_its_last_word_has_ended() -> None:
    assert not states_already("It is 8443", "8443")  # it may become 84432
    assert states_already("It is 8443,", "8443")
    assert states_already("It is 8443 and thus", "8443")
    assert not states_already("", "8443")
    assert not states_already("It is 84432 and", "8443")
