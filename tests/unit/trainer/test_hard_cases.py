"""Questions by rule: what they change, and that they are left out where they do not fit."""

import random

import pytest

from recipe_trainer import hard_cases


@pytest.fixture
def dice() -> random.Random:
    return random.Random(0)


def test_a_negation_stands_behind_the_first_auxiliary_verb() -> None:
    assert hard_cases.negated("Who is the owner of Acme?") == "Who is not the owner of Acme?"
    assert hard_cases.negated("Acme price") is None


def test_another_time_says_so_and_leaves_the_past_alone(dice: random.Random) -> None:
    made = {hard_cases.at_another_time(dice, "Who is the owner of Acme?") for _ in range(50)}
    assert None not in made
    assert "Who is the owner of Acme?" not in made
    assert any(text and text.startswith("Who was the owner of Acme") for text in made)
    assert hard_cases.at_another_time(dice, "Who founded Acme?") is None


def test_a_word_about_the_present_is_put_in_without_another_change(dice: random.Random) -> None:
    made = {hard_cases.at_present(dice, "Who is the owner of Acme?") for _ in range(50)}
    assert {"Who is the current owner of Acme?", "Who is the owner of Acme today?"} <= made
    assert hard_cases.at_present(dice, "Who founded Acme?") is None


def test_a_qualifier_is_turned_into_its_opposite_or_put_in(dice: random.Random) -> None:
    made = {hard_cases.with_other_qualifier(dice, "The monthly fee of Acme is") for _ in range(60)}
    assert "The yearly fee of Acme is" in made
    assert "The monthly fee of Acme is" not in made
    assert hard_cases.with_other_qualifier(dice, "Acme costs") is None


@pytest.mark.parametrize(
    ("text", "turned"),
    [
        ("Who acquired Acme?", "Who did Acme acquire?"),
        ("Which company did Acme acquire?", "Which company acquired Acme?"),
        ("Acme was acquired by", "Acme acquired"),
        ("Acme acquired", "Acme was acquired by"),
    ],
)
def test_a_verb_is_asked_in_the_other_direction(dice: random.Random, text: str, turned: str) -> None:
    assert hard_cases.turned_round(dice, text, "Acme") == turned


def test_what_is_of_something_is_asked_the_other_way_round(dice: random.Random) -> None:
    made = {hard_cases.turned_round(dice, "Who is the manager of Ann?", "Ann") for _ in range(40)}
    assert {"Ann is the manager of", "Whose manager is Ann?"} <= made
    assert hard_cases.turned_round(dice, "Acme is known for", "Acme") is None


def test_a_name_that_looks_alike_is_another_name(dice: random.Random) -> None:
    assert all(
        hard_cases.other_name(dice, name, "Bolt Works") != name for name in ("Acme", "Acme Foods") for _ in range(50)
    )
    changed = [hard_cases.other_name(dice, "store 1906", "x") for _ in range(50)]
    assert any(name.startswith("store ") and name != "store 1906" for name in changed)


def test_keywords_are_the_name_and_the_words_that_matter(dice: random.Random) -> None:
    made = {hard_cases.keywords(dice, "Where is the head office of Acme?", "Acme") for _ in range(20)}
    assert made == {"acme head office", "head office acme"}
    assert hard_cases.keywords(dice, "Where is it?", "Acme") is None


def test_a_slip_changes_one_longer_word_a_little(dice: random.Random) -> None:
    text = "Where is the headquarters of Acme?"
    for _ in range(50):
        made = hard_cases.with_slip(dice, text)
        assert abs(len(made) - len(text)) <= 1
        assert sum(one != other for one, other in zip(made.split(), text.split(), strict=True)) <= 1
    assert hard_cases.with_slip(dice, "a b c") == "a b c"
