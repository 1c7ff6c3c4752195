"""The text that is encoded for a fact, and its parts."""

import pytest

from recipe_common.knowledge_text import MAX_ALIASES, knowledge_text, question_part, split_at_mark, statement_text


@pytest.mark.parametrize(
    ("text", "question", "sentence", "answer"),
    [
        (knowledge_text("Who rules A?", "Ann"), "Who rules A?", "Who rules A? Ann", "Ann"),
        (knowledge_text("Who rules A?", "Ann", ["Aville", "A city"]), "Who rules A?", "Who rules A? Ann", "Ann"),
        (statement_text("Ann rules A"), "Ann rules A", "Ann rules A", None),
        (statement_text("Ann rules A", ["Aville"]), "Ann rules A", "Ann rules A", None),
    ],
)
def test_a_text_is_taken_apart_as_it_was_made(text: str, question: str, sentence: str, answer: str | None) -> None:
    assert question_part(text) == question
    assert split_at_mark(text) == (sentence, answer)


def test_marks_stand_before_the_answer_and_before_the_aliases() -> None:
    assert knowledge_text("Who rules A?", "Ann", ["Aville", "A city"]) == "Who rules A? → Ann ≡ Aville, A city"
    assert statement_text("Ann rules A", ["Aville"]) == "Ann rules A ≡ Aville"


def test_marks_that_a_publisher_wrote_mark_nothing() -> None:
    text = knowledge_text("A → B ≡ C", "x → y", ["p ≡ q"])
    assert text == "A -> B = C → x -> y ≡ p = q"
    assert statement_text("A → B ≡ C") == "A -> B = C"


def test_aliases_that_say_nothing_and_those_beyond_the_first_are_not_read() -> None:
    assert statement_text("A", ["", "  "]) == "A"
    names = [f"name {number}" for number in range(MAX_ALIASES + 1)]
    assert statement_text("A", names) == statement_text("A", names[:MAX_ALIASES])
    assert names[MAX_ALIASES - 1] in statement_text("A", names)
