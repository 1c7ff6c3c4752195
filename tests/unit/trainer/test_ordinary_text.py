from recipe_trainer.ordinary_text import ordinary_texts


def test_there_is_chat_prose_and_code() -> None:
    chat, prose, code = ordinary_texts()
    assert "Write a haiku." in chat
    assert sum(text.startswith("The ") and text.endswith(".") for text in prose) > 50
    assert sum(text.startswith("def ") for text in code) > 100


def test_every_text_is_one_line_of_moderate_length_and_stands_there_once() -> None:
    for texts in ordinary_texts():
        assert len(set(texts)) == len(texts)
        assert all(0 < len(text) <= 240 and "\n" not in text for text in texts)
