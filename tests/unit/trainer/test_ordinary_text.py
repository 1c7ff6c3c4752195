import pytest

from recipe_trainer.datasets import Edit
from recipe_trainer.ordinary_text import leading_sentences, ordinary_texts, passages


def test_there_is_chat_prose_and_code() -> None:
    chat, prose, code = ordinary_texts()
    assert "Write a haiku." in chat
    assert sum(text.startswith("The ") and text.endswith(".") for text in prose) > 50
    assert sum(text.startswith("def ") for text in code) > 100


def test_every_text_is_one_line_of_moderate_length_and_stands_there_once() -> None:
    for texts in ordinary_texts():
        assert len(set(texts)) == len(texts)
        assert all(0 < len(text) <= 240 and "\n" not in text for text in texts)


def test_sentences_in_front_of_a_paraphrased_question_are_taken_once_and_whole() -> None:
    lead = "It was built by A. B. Smith in May."
    paraphrases = (
        f"{lead} The mayor of Aville is",
        "Who rules Aville?",
        f"{lead} Aville is ruled by",
        "Yes. Aville is",
    )
    assert leading_sentences([Edit("The mayor is", "Ann", paraphrases=paraphrases)]) == [lead]


def test_passages_are_of_several_sentences_of_all_groups_most_with_a_question_beside_them() -> None:
    groups = [["It rains in Aville."], ["Beton is a town."], []]
    texts = passages(groups, ["Who is it?"], 200)

    assert texts == passages(groups, ["Who is it?"], 200)
    assert len(texts) == 200
    assert all(2 <= text.count("Aville") + text.count("Beton") <= 8 for text in texts)
    assert 100 < sum("Who is it?" in text for text in texts) < 200


@pytest.mark.parametrize(("groups", "questions"), [([[]], ["Who is it?"]), ([["It rains."]], [])])
def test_there_are_no_passages_without_sentences_or_questions(groups: list[list[str]], questions: list[str]) -> None:
    assert passages(groups, questions, 10) == []
