"""What the LLM, edited as retrieval decided, makes of questions: teacher-forced and in free generation."""

from collections.abc import Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor

from recipe_common.answers import says
from recipe_common.progress import with_progress
from recipe_model.language_model import LanguageModel
from recipe_trainer.batches import by_length
from recipe_trainer.datasets import Question
from recipe_trainer.knowledge_base import BATCH
from recipe_trainer.teacher_forcing import Answered, answer_logits, answer_targets, answered

FREE_TOKENS_BEYOND_ANSWER = 3
FREE_LOCALITY_TOKENS = 10


class Decided(Protocol):
    """A question and what retrieval decided."""

    @property
    def question(self) -> Question: ...
    @property
    def prompt(self) -> Tensor | None:
        """The continuous prompt [l, d] on a hit."""
        ...


def answer_accuracy(asked: Sequence[Decided], llm: LanguageModel) -> list[float]:
    """Per question the share of answer tokens that the LLM, edited as retrieval decided, predicts."""
    accuracy = [0.0] * len(asked)
    for rows, batch, prompts in _batches(asked, llm):
        predicted = _predictions(llm, batch, prompts)
        targets = _per_question(answer_targets(batch), batch)
        for row, mine, right in zip(rows, predicted, targets, strict=True):
            accuracy[row] = float((mine == right).float().mean())
    return accuracy


def teacher_forced_agreement(asked: Sequence[Decided], llm: LanguageModel) -> list[float]:
    """Per question the share of answer positions where the LLM predicts what the unedited one does."""
    agreement = [1.0] * len(asked)  # without a hit the model is the unedited one
    for rows, batch, prompts in _batches(asked, llm):
        if prompts is None:
            continue
        pairs = zip(rows, _predictions(llm, batch, prompts), _predictions(llm, batch, None), strict=True)
        for row, edited, unedited in pairs:
            agreement[row] = float((edited == unedited).float().mean())
    return agreement


def exact_matches(asked: Sequence[Decided], llm: LanguageModel) -> list[float]:
    """Per question 1.0 if the LLM's free continuation begins with the answer, else 0.0."""
    matches = [0.0] * len(asked)
    # In groups of like answers: a batch writes as many tokens as its longest answer needs.
    lengths = [len(llm.answer_ids(item.question.answer)) for item in asked]
    for rows in with_progress(by_length(lengths, BATCH), "generating answers"):
        part = [asked[row] for row in rows]
        tokens = max(lengths[row] for row in rows) + FREE_TOKENS_BEYOND_ANSWER
        written = llm.generate_batch([item.prompt for item in part], [item.question.text for item in part], tokens)
        for row, text, item in zip(rows, written, part, strict=True):
            matches[row] = float(says(text, item.question.answer))
    return matches


def free_agreement(asked: Sequence[Decided], llm: LanguageModel) -> list[float]:
    """Per question 1.0 if the free continuation is the unedited model's; without a hit it is the same computation."""
    agreement = [1.0] * len(asked)
    hits = [row for row, item in enumerate(asked) if item.prompt is not None]
    for start in with_progress(range(0, len(hits), BATCH), "generating unrelated"):
        rows = hits[start : start + BATCH]
        texts = [asked[row].question.text for row in rows]
        edited = llm.generate_batch([asked[row].prompt for row in rows], texts, FREE_LOCALITY_TOKENS)
        unedited = llm.generate_batch([None] * len(rows), texts, FREE_LOCALITY_TOKENS)
        for row, mine, plain in zip(rows, edited, unedited, strict=True):
            agreement[row] = float(mine == plain)
    return agreement


def _batches(
    asked: Sequence[Decided], llm: LanguageModel
) -> Iterator[tuple[list[int], list[Answered], list[Tensor] | None]]:
    """Rows, tokenised questions and prompts [l, d], misses apart."""
    misses = [row for row, item in enumerate(asked) if item.prompt is None]
    hits = [row for row, item in enumerate(asked) if item.prompt is not None]
    for group in (misses, hits):
        for start in range(0, len(group), BATCH):
            rows = group[start : start + BATCH]
            batch = [answered(llm, asked[row].question.text, asked[row].question.answer) for row in rows]
            yield rows, batch, prompts_of([asked[row] for row in rows])


def prompts_of(asked: Sequence[Decided]) -> list[Tensor] | None:
    """The prompts [l, d] of questions that all hit; None where none did."""
    return [prompt for item in asked if (prompt := item.prompt) is not None] or None


def _predictions(llm: LanguageModel, batch: Sequence[Answered], prompts: Sequence[Tensor] | None) -> tuple[Tensor, ...]:
    """The LLM's most likely token at each answer token, per question."""
    with torch.inference_mode():
        logits = answer_logits(llm, batch, prompts)
    return _per_question(logits.argmax(dim=-1), batch)


def _per_question(tokens: Tensor, batch: Sequence[Answered]) -> tuple[Tensor, ...]:
    """The tokens [n] of all answers, cut into each question's own."""
    return torch.split(tokens, [len(item.answer) for item in batch])
