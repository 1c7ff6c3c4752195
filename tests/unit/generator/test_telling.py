from recipe_generator.engine import Turn
from recipe_generator.telling import told_first


def test_a_fact_in_words_stands_in_front_of_a_text_and_in_a_conversations_system_message() -> None:
    assert told_first("The port is 8443", "Which port?") == "The port is 8443.\nWhich port?"
    assert told_first("So it is!", "Is it?") == "So it is!\nIs it?"
    asked, told = Turn("user", "Which port?"), Turn("system", "The port is 8443.")
    assert told_first("The port is 8443", (asked,)) == (told, asked)
    kind = Turn("system", "Be kind.")
    assert told_first("The port is 8443", (kind, asked)) == (Turn("system", "Be kind.\nThe port is 8443."), asked)
