"""Conversations that end with a question about an edit, for prompts to be trained on."""

import random
from collections.abc import Mapping
from typing import Final, TypeAlias

from recipe_common.knowledge_text import sentence
from recipe_trainer.datasets import Edit, Question

Message: TypeAlias = Mapping[str, str]  # a role and a content

_SYSTEM: Final = (
    "You are a helpful assistant.",
    "You answer questions of our customers. Be brief and friendly.",
    "Answer in one sentence.",
    "You are the help desk of a company. If you do not know something, say so.",
    "You are an expert who is asked by colleagues.",
)
_SMALL_TALK: Final = (
    ("Hello!", "Hello! How can I help you today?"),
    ("Hi, are you there?", "Yes, I am here. What would you like to know?"),
    ("Good morning, I have a question.", "Good morning! Please ask."),
    ("Thanks for your help so far.", "You are welcome! Is there anything else?"),
)
_SHARE_WITH_SYSTEM, _SHARE_OUTDATED, _SHARE_BEFORE = 0.3, 0.2, 0.45


def reply(edit: Edit) -> str:
    """What an assistant says: the whole statement as a sentence, of a fact that is stored as a question its answer."""
    if edit.prompt.endswith("?"):
        return edit.answer
    told = sentence(edit.statement)
    return told[0].upper() + told[1:]


def earlier_turns(
    random_: random.Random, edit: Edit, question: str, outdated: str, unrelated: Question | None
) -> tuple[Message, ...]:
    """What was said before the question: at times the like with an `outdated` answer, something else, or nothing."""
    turns: list[Message] = []
    if random_.random() < _SHARE_WITH_SYSTEM:
        turns.append({"role": "system", "content": random_.choice(_SYSTEM)})
    before = random_.random()
    if before < _SHARE_OUTDATED:
        turns += _exchange(random_.choice([question, edit.prompt]), f"{outdated}.")
    elif before < _SHARE_BEFORE:
        talk = random_.choice(_SMALL_TALK)
        turns += _exchange(*((unrelated.text, f"{unrelated.answer}.") if unrelated else talk))
    return tuple(turns)


def _exchange(asked: str, answered: str) -> list[Message]:
    return [{"role": "user", "content": asked}, {"role": "assistant", "content": answered}]
