import random

import pytest

from recipe_trainer.datasets import Edit
from recipe_trainer.wordings import alias, other_form, other_number, with_subject, wording


@pytest.mark.parametrize(
    ("prompt", "subject"),
    [
        ("What team does Galih Firmansyah play for?", "Galih Firmansyah"),
        ("Who is Nebetiunet's dad?", "Nebetiunet"),
        ("What is the launch date of Mars 2MV-4 No.1?", "Mars 2MV-4 No.1"),
        ("Who distributed Devil Dogs of the Air?", "Devil Dogs of the Air"),
        ("Which language is spoken here?", ""),
    ],
)
def test_the_capitalised_words_behind_the_first_are_the_subject(prompt: str, subject: str) -> None:
    assert with_subject(Edit(prompt, "x")).subject == subject


def test_a_subject_that_the_data_names_stays() -> None:
    edit = Edit("Who is the mayor of Aville City?", "x", subject="Aville")
    assert with_subject(edit) is edit


@pytest.mark.parametrize(
    ("text", "subject", "expected"),
    [
        ("The mayor of Aville is", "Aville", "The mayor of {} is"),
        ("Aville, the", "Aville", None),  # nothing is left that names a relation
        ("Aville is Aville's mayor", "Aville", None),
        ("The mayor is", "Aville", None),
        ("The mayor is", "", None),
    ],
)
def test_a_wording_is_a_prompt_without_its_subject(text: str, subject: str, expected: str | None) -> None:
    assert wording(text, subject) == expected


@pytest.mark.parametrize(
    ("text", "turned"),
    [
        ("The mother tongue of Ann is", "What is the mother tongue of Ann?"),
        ("Ann was born in", "Ann was born in what?"),
        ("What is the mother tongue of Ann?", "The mother tongue of Ann is"),
        ("Who was the first owner of the Aurora?", "The first owner of the Aurora is"),
        ("Which company makes Nutella?", "The company that makes Nutella is"),
        ("Who is Ann's father?", None),
    ],
)
def test_a_question_turns_into_the_beginning_of_a_sentence_and_back(text: str, turned: str | None) -> None:
    assert other_form(text) == turned


@pytest.mark.parametrize(
    ("subject", "expected"),
    [
        (
            "Jennifer Shrader Lawrence",
            {"J. Shrader Lawrence", "J Shrader Lawrence", "JSL", "J.S.L.", "Jennifer Lawrence"},
        ),
        ("Whoopi Goldberg", {"W. Goldberg", "Whoopi Elaine Goldberg", "whoopi goldberg"}),
        ("Eurovision Song Contest 2022", {"ESC 2022", "E.S.C. 2022"}),
        ("Erling H\u00e5land", {"Erling Haland"}),
        ("Saint-Aville", {"Saint Aville"}),
    ],
)
def test_an_alias_follows_a_rule_and_is_another_name(subject: str, expected: set[str]) -> None:
    random_ = random.Random(0)
    found = {alias(random_, subject, "Elaine Johnson") for _ in range(300)}
    assert expected <= found
    assert subject not in found


def test_a_name_without_another_form_stays_as_it_is() -> None:
    assert alias(random.Random(0), "1984", "Elaine") == "1984"


def test_no_alias_leaves_a_number_out() -> None:
    random_ = random.Random(0)
    assert {alias(random_, "BMW R 80", "Elaine") for _ in range(300)} == {
        "bmw r 80",
        "B R 80",
        "B. R 80",
        "BMW Elaine R 80",
        "BMW 80",
        "R 80",
    }


def test_another_number_differs_in_one_digit_or_without_digits_in_one_capital() -> None:
    random_ = random.Random(0)
    assert {other_number(random_, "A1") for _ in range(200)} == {f"A{digit}" for digit in "023456789"}
    assert {other_number(random_, "Ab")[1:] for _ in range(20)} == {"b"}
    assert other_number(random_, "Ab") != "Ab"
    assert other_number(random_, "ab") == "ab"
