import random
import re

import pytest

from recipe_trainer.datasets import Edit
from recipe_trainer.families import MEMBERS, Family, family_facts, held_out_families, held_out_words, members

WORDS = {"first": ["Ann", "Bo", "Cy"], "last": ["Lee", "Ray"], "word": ["red", "blue"]}
PEOPLE = Family("{first} {last}", (("Who knows {}?", "{} is known by"), ("Where is {}?", "{} is in")))
TRAINED_ON = [Edit("The mayor is", "Paris", "Ada Lovelace"), Edit("The mayor is", "two words", "Anna Adler")]


def test_members_are_different_and_ask_in_the_wordings_of_their_relation() -> None:
    made = members(PEOPLE, WORDS, random.Random(0), 12)
    assert len({(edit.subject, "know" in edit.prompt) for edit in made}) == 12  # six people, two relations
    for edit in made:
        (relation,) = (
            one for one in PEOPLE.relations if edit.prompt in {text.replace("{}", edit.subject) for text in one}
        )
        assert {edit.prompt, *edit.paraphrases} == {text.replace("{}", edit.subject) for text in relation}
        assert edit.answer in WORDS["word"]


def test_a_family_has_no_more_members_than_it_has() -> None:
    assert len(members(PEOPLE, WORDS, random.Random(0), 100)) == 12


def test_unrelated_questions_are_of_siblings_and_of_other_relations() -> None:
    for edit in members(PEOPLE, WORDS, random.Random(0), 12):
        own = {text.replace("{}", edit.subject) for relation in PEOPLE.relations for text in relation}
        asked = [question.text for question in edit.unrelated]
        assert not {edit.prompt, *edit.paraphrases} & set(asked)
        assert sum(text in own for text in asked) == 1
        for text in set(asked) - own:
            first, last = edit.subject.split()
            assert (first in text) != (last in text)


@pytest.mark.parametrize(
    "pattern", ["{number}", "{code}-{number}", "{day} {month} {year}", "{digit}.{digit}", "{year}-{twodigit}"]
)
def test_siblings_differ_in_one_number_code_or_date(pattern: str) -> None:
    family = Family(pattern, (("Who has {}?",),))
    for edit in members(family, WORDS, random.Random(0), 10):
        assert edit.unrelated
        for question in edit.unrelated:
            parts = re.split("[-. ]", question.text.removeprefix("Who has ").removesuffix("?"))
            assert sum(a != b for a, b in zip(parts, re.split("[-. ]", edit.subject), strict=True)) == 1


def test_families_to_train_on_are_always_the_same_and_take_names_out_of_the_data() -> None:
    facts = family_facts(TRAINED_ON)
    assert facts == family_facts(TRAINED_ON)
    assert len(facts) > 40 * MEMBERS
    text = " ".join(edit.prompt for edit in facts)
    assert "Ada " in text
    assert " Lovelace" in text
    assert "Paris" in text


def test_nothing_of_the_held_out_families_is_trained_on() -> None:
    facts = family_facts(TRAINED_ON)
    words = {word for edit in facts for word in re.findall(r"\w+", f"{edit.prompt} {edit.answer}")}
    assert not words & {word for slot in held_out_words().values() for word in slot}
    held_out = {
        edit.prompt
        for family in held_out_families().values()
        for edit in members(family, held_out_words(), random.Random(0), 200)
    }
    assert not held_out & {text for edit in facts for text in (edit.prompt, *edit.paraphrases)}
    asked = {text for family in held_out_families().values() for relation in family.relations for text in relation}
    assert not asked & {text.replace(edit.subject, "{}") for edit in facts for text in (edit.prompt, *edit.paraphrases)}
