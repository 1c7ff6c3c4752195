"""What each part of the method is worth (arXiv 2405.03279, table 4): the same questions, decided or answered otherwise.

What is left out: continuous prompts (the fact stands as text in front of the question instead), the knowledge sentinel
(one static cosine decides, the best one on training data), the verifier (the nearest fact hits), and the whole decision
(the paper's own: one vector, its inner product and a learnt sentinel, over the same frozen encoder).
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recipe_common.errors import FieldViolation, InvalidArgumentError
from recipe_common.progress import with_progress
from recipe_model.editor import RecipeEditor
from recipe_model.language_model import LanguageModel
from recipe_trainer.datasets import Edit, Question
from recipe_trainer.evaluation import RetrievalRates, numbered_questions
from recipe_trainer.in_context import stated
from recipe_trainer.knowledge_base import BATCH, Asked, temporary_knowledge_base
from recipe_trainer.paper_form import Features, train_paper_form
from recipe_trainer.scoring import answer_accuracy, teacher_forced_agreement

Rows = NDArray[np.int64]  # [n] the edit that each question hits, -1 for none


@dataclass(frozen=True, slots=True)
class PaperFormOptions:
    """How the paper's decision is trained."""

    representation: int
    steps: int
    seed: int


@dataclass(frozen=True, slots=True)
class VariantScores:
    """One variant, in percent; scores are teacher-forced."""

    variant: str
    tokens_in_front: float  # mean over all facts
    reliability: float
    generality: float
    locality: float
    rates: RetrievalRates


@dataclass(frozen=True, slots=True)
class Decided:
    """A question and the prompt [l, d] that stands in front of it, None without a hit."""

    question: Question
    prompt: Tensor | None


@dataclass(frozen=True, slots=True)
class Asking:
    """All questions about edits: their own prompts, paraphrases and unrelated ones, asked once."""

    own: Sequence[Asked]
    rephrased: Sequence[Asked]
    unrelated: Sequence[Asked]

    @property
    def groups(self) -> tuple[Sequence[Asked], Sequence[Asked], Sequence[Asked]]:
        return self.own, self.rephrased, self.unrelated


def ask(edits: Sequence[Edit], editor: RecipeEditor) -> Asking:
    """Store edits and ask all questions about them, as serving does."""
    with temporary_knowledge_base(editor) as base:
        base.store(edits)
        return Asking(*(base.ask(group) for group in numbered_questions(edits)[:3]))


def by_sentinel(asked: Sequence[Asked]) -> Rows:
    """What the method hits."""
    return np.array([-1 if item.hit is None else item.hit.record for item in asked])


def by_cosine(asked: Sequence[Asked], threshold: float) -> Rows:
    """What is hit where the nearest fact applies from one static cosine on."""
    nearest = [max(item.candidates, key=lambda each: each.similarity, default=None) for item in asked]
    return np.array([each.record if each and each.similarity > threshold else -1 for each in nearest])


def best_static_threshold(asking: Asking) -> float:
    """The cosine that best tells right hits from false ones: the mean of both error rates is least."""
    inside = [*asking.own, *asking.rephrased]
    right = np.sort([_best(item) for item in inside if item.nearest])
    outside = np.sort([_best(item) for item in asking.unrelated])
    candidates = np.concatenate([right, outside])
    missed = np.searchsorted(right, candidates, side="right") / len(inside)
    false = 1 - np.searchsorted(outside, candidates, side="right") / len(outside)
    return float(candidates[np.argmin(missed + false)])


def evaluate_variants(
    edits: Sequence[Edit],
    training_edits: Sequence[Edit],
    editor: RecipeEditor,
    llm: LanguageModel,
    features: Features,
    paper_form: PaperFormOptions,
) -> tuple[list[VariantScores], float]:
    """All variants on `edits`, and the static cosine, which is chosen on `training_edits`.

    Raises InvalidArgumentError where either has no edit with a paraphrase and an unrelated question to ask.
    """
    for field, given in (("dev", edits), ("data", training_edits)):
        if not _whole(given):
            lacking = "needs edits with paraphrases and with unrelated questions, as CounterFact's are"
            raise InvalidArgumentError([FieldViolation(field, lacking)])
    static = best_static_threshold(ask(_sample(training_edits, len(edits)), editor))
    asking = ask(edits, editor)
    method = [by_sentinel(group) for group in asking.groups]
    prompts, texts = _prompts(edits, editor, llm), [_words(stated(edit.statement), llm) for edit in edits]
    variants = {
        "full method": (method, prompts),
        "without continuous prompts": (method, texts),
        "without sentinel: a static cosine": ([by_cosine(group, static) for group in asking.groups], prompts),
        "without verifier: the nearest": ([by_cosine(group, -np.inf) for group in asking.groups], prompts),
        "the paper's decision": (_by_paper(edits, asking, training_edits, features, paper_form), prompts),
    }
    return [_score(name, asking, rows, front, llm) for name, (rows, front) in variants.items()], static


def _by_paper(
    edits: Sequence[Edit],
    asking: Asking,
    training_edits: Sequence[Edit],
    features: Features,
    options: PaperFormOptions,
) -> list[Rows]:
    form = train_paper_form(_whole(training_edits), features, options.representation, options.steps, options.seed)
    keys = features([edit.knowledge for edit in edits])
    return [form.decide(features([item.question.text for item in group]), keys).numpy() for group in asking.groups]


def _whole(edits: Sequence[Edit]) -> list[Edit]:
    return [edit for edit in edits if edit.paraphrases and edit.unrelated]


def _sample(edits: Sequence[Edit], count: int) -> list[Edit]:
    whole = _whole(edits)
    return random.Random(0).sample(whole, min(count, len(whole)))  # noqa: S311 (no secret)


def _prompts(edits: Sequence[Edit], editor: RecipeEditor, llm: LanguageModel) -> list[Tensor]:
    parts = [edits[start : start + BATCH] for start in range(0, len(edits), BATCH)]
    encoded = (editor.encode([edit.knowledge for edit in part]) for part in with_progress(parts, "encoding facts"))
    prompts = (torch.from_numpy(fact.prompt.astype(np.float32)) for group in encoded for fact in group)
    return [llm.told(edit.statement, prompt).float() for edit, prompt in zip(edits, prompts, strict=True)]


def _words(text: str, llm: LanguageModel) -> Tensor:
    """Word embeddings [t, d] of a text."""
    ids = llm.tokenizer(text, add_special_tokens=False)["input_ids"]
    return llm.embed(torch.tensor(ids))


def _best(item: Asked) -> float:
    return max((candidate.similarity for candidate in item.candidates), default=-1.0)


def _score(
    name: str, asking: Asking, rows: Sequence[Rows], in_front: Sequence[Tensor], llm: LanguageModel
) -> VariantScores:
    decided = [
        [Decided(item.question, in_front[row] if row >= 0 else None) for item, row in zip(group, hit, strict=True)]
        for group, hit in zip(asking.groups, rows, strict=True)
    ]
    right = [
        [row == item.record for item, row in zip(group, hit, strict=True)]
        for group, hit in zip(asking.groups, rows, strict=True)
    ]
    return VariantScores(
        variant=name,
        tokens_in_front=float(np.mean([len(prompt) for prompt in in_front])),
        reliability=100 * float(np.mean(answer_accuracy(decided[0], llm))),
        generality=100 * float(np.mean(answer_accuracy(decided[1], llm))),
        locality=100 * float(np.mean(teacher_forced_agreement(decided[2], llm))),
        rates=RetrievalRates(
            right_hit=100 * float(np.mean(right[0])),
            paraphrase_right_hit=100 * float(np.mean(right[1])),
            false_hit=100 * float(np.mean(rows[2] >= 0)),
        ),
    )
