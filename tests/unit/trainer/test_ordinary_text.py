from recipe_trainer.datasets import Edit
from recipe_trainer.ordinary_text import leading_sentences, ordinary_texts


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
