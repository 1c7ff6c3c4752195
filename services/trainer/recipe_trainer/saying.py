"""Whether the texts behind hits say what was published, as the generator writes them by default.

A text that does not state its fact's answer is written again behind the fact in words; the first is kept if neither
states it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from torch import Tensor

from recipe_common.answers import states
from recipe_common.knowledge_text import sentence
from recipe_common.progress import with_progress
from recipe_model.language_model import LanguageModel
from recipe_trainer.evaluation import mean_percent
from recipe_trainer.knowledge_base import Asked, told

BATCH: Final = 16
TOKENS_BEYOND_ANSWER: Final = 32


@dataclass(frozen=True, slots=True)
class Said:
    """The text behind one hit."""

    form: str
    text: str
    stated: bool
    as_text: bool  # written behind the fact in words


@dataclass(frozen=True, slots=True)
class AllSaid:
    """The texts behind hits: of texts to continue, and of conversations."""

    plain: Sequence[Said]
    chat: Sequence[Said]

    def figures(self) -> dict[str, Any]:
        """Shares in percent that state the answer, by form; that are empty; that were written again (`as_text`)."""
        both = [*self.plain, *self.chat]
        return {
            "said": _by_form(self.plain),
            "said_in_chat": _by_form(self.chat),
            "empty": mean_percent([not each.text.strip() for each in both]),
            "as_text": mean_percent([each.as_text for each in both]),
        }


def pool_said(parts: Sequence[AllSaid]) -> AllSaid:
    """All texts together."""
    return AllSaid([each for part in parts for each in part.plain], [each for part in parts for each in part.chat])


def say(asked: Sequence[Asked], chat_forms: Sequence[str], llm: LanguageModel) -> AllSaid:
    """Answer all questions whose own fact was hit; `chat_forms` in a conversation too, if the LLM has a template."""
    hits = [item for item in asked if item.right and item.question.answer]
    in_chat = [item for item in hits if llm.chats and item.question.criterion in chat_forms]
    return AllSaid(write_answers(hits, llm, chat=False), write_answers(in_chat, llm, chat=True))


def write_answers(asked: Sequence[Asked], llm: LanguageModel, *, chat: bool) -> list[Said]:
    """The text behind each hit; all have a prompt and an answer."""
    asked, found = told(asked, llm), dict[int, Said]()
    for start in with_progress(range(0, len(asked), BATCH), "writing in chat" if chat else "writing"):
        rows = range(start, min(start + BATCH, len(asked)))
        first = _write([asked[row] for row in rows], llm, chat=chat, as_text=False)
        again = [row for row, text in zip(rows, first, strict=True) if not _stated(text, asked[row])]
        second = dict(zip(again, _write([asked[row] for row in again], llm, chat=chat, as_text=True), strict=True))
        for row, text in zip(rows, first, strict=True):
            better = row in second and (_stated(second[row], asked[row]) or not text.strip())
            kept = second[row] if better else text
            found[row] = Said(asked[row].question.criterion, kept, _stated(kept, asked[row]), better)
    return [found[row] for row in range(len(asked))]


def _write(asked: Sequence[Asked], llm: LanguageModel, *, chat: bool, as_text: bool) -> list[str]:
    if not asked:
        return []
    ids = [_ids(item, llm, chat=chat, as_text=as_text) for item in asked]
    copying = [llm.copying(item.candidates[0].statement, item.question.answer, llm.end_ids) for item in asked]
    tokens = max(len(llm.answer_ids(item.question.answer)) for item in asked) + TOKENS_BEYOND_ANSWER
    prompts: list[Tensor | None] = [None if as_text else item.prompt for item in asked]
    return llm.generate_rows(prompts, ids, tokens, copying)


def _ids(item: Asked, llm: LanguageModel, *, chat: bool, as_text: bool) -> list[int]:
    question, told = item.question.text, sentence(item.candidates[0].statement)
    if not chat:
        return llm.token_ids(f"{told}\n{question}" if as_text else question)
    user = {"role": "user", "content": question}
    return llm.chat_ids([{"role": "system", "content": told}, user] if as_text else [user])


def _stated(text: str, item: Asked) -> bool:
    return states(text, item.question.answer)


def _by_form(said: Sequence[Said]) -> Mapping[str, float | None]:
    forms = dict.fromkeys(each.form for each in said)
    return {form: mean_percent([each.stated for each in said if each.form == form]) for form in forms}
