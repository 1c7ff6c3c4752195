import random

from recipe_trainer.datasets import Edit
from recipe_trainer.training_answers import LONGEST_SENTENCE, TrainingAnswers

EDITS = [
    Edit("The mayor of Aville is", "Ann"),
    Edit("The river of Aville is", "Red"),
    Edit("What is long?", "a " * LONGEST_SENTENCE),
    Edit("It is", "so " * LONGEST_SENTENCE),
]


def drawn(edits: list[Edit]) -> list[str]:
    answers, random_ = TrainingAnswers(edits), random.Random(0)
    return [answers.draw(random_) for _ in range(3000)]


def test_answers_are_of_many_kinds_and_never_empty() -> None:
    made = drawn([])
    assert all(text.strip() == text and text for text in made)
    assert len(set(made)) > 2500
    for sign in "@:/+-.,€č":
        assert any(sign in text for text in made), sign


def test_lists_and_sentences_are_made_of_what_the_data_hold() -> None:
    made = set(drawn(EDITS)) - set(drawn([]))
    assert {"Ann and Red", "Red, Ann", "The mayor of Aville is Ann"} <= made
    assert all(len(text.split()) <= LONGEST_SENTENCE for text in made)


def test_the_same_seed_draws_the_same() -> None:
    assert drawn(EDITS) == drawn(EDITS)
