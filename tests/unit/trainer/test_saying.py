"""What is said behind hits, by an LLM that writes what it is told to."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor

from recipe_model.copying import Copying
from recipe_model.language_model import LanguageModel
from recipe_trainer.datasets import Question
from recipe_trainer.knowledge_base import Asked, Candidate
from recipe_trainer.saying import say, write_answers

PROMPT = torch.zeros(4, 8)
STATEMENT = "The port of Aville is 8443"


class ScriptedLlm:
    """Writes the text that stands for what it is asked; its token ids are the characters' codes."""

    end_ids = (0,)
    chats = True

    def __init__(self, texts: Mapping[str, str]) -> None:
        self._texts = texts
        self.asked: list[tuple[str, bool]] = []  # and whether behind a continuous prompt

    def token_ids(self, text: str) -> list[int]:
        return [ord(character) for character in text]

    answer_ids = token_ids

    def told(self, statement: str, prompt: Tensor) -> Tensor:
        return torch.cat([prompt, torch.zeros(len(statement), prompt.shape[1])])

    def chat_ids(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        return self.token_ids("".join(f"[{each['role']}]{each['content']}" for each in messages))

    def copying(self, _statement: str, _answer: str, _end_ids: Sequence[int]) -> Copying:
        return Copying()

    def generate_rows(
        self, prompts: Sequence[Tensor | None], ids: Sequence[Sequence[int]], _tokens: int, _copying: Sequence[Any]
    ) -> list[str]:
        texts = ["".join(map(chr, each)) for each in ids]
        self.asked += zip(texts, (prompt is not None for prompt in prompts), strict=True)
        return [self._texts.get(text, "") for text in texts]


def hit(text: str, form: str = "question", record: int = 0) -> Asked:
    candidate = Candidate(0, STATEMENT, "8443", 1.0, 3.0, 0.9)
    return Asked(Question(text, "8443", criterion=form), record, (candidate,), applies=True, prompt=PROMPT)


def script(texts: Mapping[str, str]) -> tuple[ScriptedLlm, LanguageModel]:
    llm = ScriptedLlm(texts)
    return llm, cast("LanguageModel", llm)


def test_a_text_that_states_the_answer_is_kept() -> None:
    scripted, llm = script({"Which port?": "It is 8443."})
    (said,) = write_answers([hit("Which port?")], llm, chat=False)
    assert (said.text, said.stated, said.as_text) == ("It is 8443.", True, False)
    assert scripted.asked == [("Which port?", True)]


def test_another_is_written_again_behind_the_fact_in_words() -> None:
    scripted, llm = script({"Which port?": "84", f"{STATEMENT}.\nWhich port?": "8443"})
    (said,) = write_answers([hit("Which port?")], llm, chat=False)
    assert (said.text, said.stated, said.as_text) == ("8443", True, True)
    assert scripted.asked == [("Which port?", True), (f"{STATEMENT}.\nWhich port?", False)]


def test_in_a_conversation_the_words_are_the_systems() -> None:
    asked, told = "[user]Which port?", f"[system]{STATEMENT}.[user]Which port?"
    scripted, llm = script({asked: "No idea.", told: "Sorry."})
    (said,) = write_answers([hit("Which port?")], llm, chat=True)
    assert (said.text, said.stated, said.as_text) == ("No idea.", False, False)
    assert scripted.asked == [(asked, True), (told, False)]


def test_a_text_is_better_than_none() -> None:
    _, llm = script({f"{STATEMENT}.\nWhich port?": "84"})
    (said,) = write_answers([hit("Which port?")], llm, chat=False)
    assert (said.text, said.stated, said.as_text) == ("84", False, True)


def test_what_hit_its_own_fact_is_scored_by_form_in_percent() -> None:
    texts = {"Which port?": "8443", "port?": "8442", "[user]Which port?": "", "What?": "8443", "Huh?": "8443"}
    asked = [
        hit("Which port?"),
        hit("Huh?"),
        hit("port?", form="keywords"),
        hit("What?", record=1),  # another's fact
        Asked(Question("Why?", "8443", criterion="question"), 0),  # a miss
    ]
    _, llm = script(texts | {"[user]Huh?": "8443"})
    assert say(asked, ("question",), llm).figures() == {
        "said": {"question": 100.0, "keywords": 0.0},
        "said_in_chat": {"question": 50.0},
        "empty": 20.0,
        "as_text": 20.0,
    }
