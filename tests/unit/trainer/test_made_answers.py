import random

import pytest

from recipe_trainer.made_answers import EACH, FORMS, KINDS, _facts


@pytest.mark.parametrize("kind", KINDS)
def test_facts_of_a_kind_are_about_different_subjects_and_asked_for_in_every_form(kind: str) -> None:
    facts = list(_facts(random.Random(0), kind))
    assert len({fact.subject for fact in facts}) == len(facts) == EACH
    for fact in facts:
        assert len(fact.paraphrases) == len(FORMS) and fact.paraphrases[0] == fact.prompt
        assert all(fact.subject in text and fact.answer not in text for text in fact.paraphrases)
    assert len({fact.answer for fact in facts}) > EACH / 3


def test_the_same_seed_makes_the_same_facts() -> None:
    first, second = (list(_facts(random.Random(3), "iban")) for _ in range(2))
    assert first == second
