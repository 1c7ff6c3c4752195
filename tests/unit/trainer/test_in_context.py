from recipe_trainer.datasets import Edit
from recipe_trainer.in_context import demonstrated, stated

EXAMPLES = [
    Edit("The mayor of Aville is", "Ann", paraphrases=("Who rules Aville?",)),
    Edit("The mayor of Beton is", "Bob", paraphrases=("Who rules Beton?", "Beton is ruled by")),
    Edit("The mayor of Cford is", "Cy", paraphrases=("Who rules Cford?",)),
    Edit("The mayor of Dorf is", "Di"),
]


def test_a_stated_fact_is_a_line() -> None:
    assert stated("The mayor of Eton is Ed") == "The mayor of Eton is Ed.\n"


def test_demonstrations_ask_for_their_facts_in_turn_by_own_question_and_paraphrase() -> None:
    assert demonstrated("The mayor of Eton is Ed", EXAMPLES) == (
        "New fact: The mayor of Aville is Ann.\nThe mayor of Aville is Ann.\n\n"
        "New fact: The mayor of Beton is Bob.\nWho rules Beton? Bob.\n\n"
        "New fact: The mayor of Cford is Cy.\nThe mayor of Cford is Cy.\n\n"
        "New fact: The mayor of Dorf is Di.\nThe mayor of Dorf is Di.\n\n"
        "New fact: The mayor of Eton is Ed.\n"
    )
