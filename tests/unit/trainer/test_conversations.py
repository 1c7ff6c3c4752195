import random
from collections import Counter

from recipe_trainer.conversations import earlier_turns, reply
from recipe_trainer.datasets import Edit, Question

EDIT = Edit("the mayor of Aville is", "Ann", "Aville")


def test_an_assistant_says_the_statement_as_a_sentence_and_to_a_stored_question_its_answer() -> None:
    assert reply(EDIT) == "The mayor of Aville is Ann."
    assert reply(Edit("Who is the mayor of Aville?", "Ann")) == "Ann"
    assert reply(Edit("the mayor is", "Ann", sentence="Ann rules Aville!")) == "Ann rules Aville!"


def test_conversations_begin_in_several_ways_and_end_with_the_assistants_turn() -> None:
    random_ = random.Random(0)
    asked, unrelated = "Who rules Aville?", Question("What is the river?", "Red")
    drawn = [earlier_turns(random_, EDIT, asked, "Bob", unrelated) for _ in range(1000)]
    assert all(not turns or turns[-1]["role"] in ("system", "assistant") for turns in drawn)
    begun = Counter(turns[0]["role"] if turns else "" for turns in drawn)
    assert 250 < begun["system"] < 350
    assert begun[""] > 300
    said = Counter(turns[-1]["content"] for turns in drawn if turns and turns[-1]["role"] == "assistant")
    assert 150 < said["Bob."] < 250  # the like, with an answer of before
    assert said["Red."] > 150


def test_without_an_unrelated_question_they_talk_of_nothing() -> None:
    random_ = random.Random(0)
    drawn = [earlier_turns(random_, EDIT, "Who?", "Bob", None) for _ in range(200)]
    talks = {turns[-1]["content"] for turns in drawn if turns and turns[-1]["role"] == "assistant"} - {"Bob."}
    assert len(talks) == 4
