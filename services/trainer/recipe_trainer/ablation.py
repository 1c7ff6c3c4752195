"""The ablations of RECIPE (arXiv 2405.03279, table 4) and how stable its sentinel is over sizes of training.

What is left out: continuous prompt tuning (the fact stands as text in front of the question instead, alone or behind
demonstrations), the sentinel (one static similarity decides instead, the best one on training data), or both. Retrieval
is exact and in memory, so that a variant is a change of two lines; a test shows that the store decides the same.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recipe_common.errors import FieldViolation, InvalidArgumentError
from recipe_common.progress import with_progress
from recipe_model.editor import Float32, QueryVector, RecipeEditor
from recipe_model.language_model import LanguageModel
from recipe_store.crowd import CROWD_FACTS, crowd_rise
from recipe_trainer.datasets import Edit, Question
from recipe_trainer.evaluation import RetrievalRates
from recipe_trainer.in_context import DEMONSTRATIONS, demonstrated, stated
from recipe_trainer.knowledge_base import BATCH
from recipe_trainer.scoring import answer_accuracy, teacher_forced_agreement

Decisions = NDArray[np.bool_]


class InFront(Enum):
    """What stands in front of a question that hits a fact."""

    PROMPT = "its continuous prompt"
    TEXT = "its statement"
    DEMONSTRATED = "its statement, behind the most similar training edits as demonstrations"


@dataclass(frozen=True, slots=True)
class Variant:
    """Which of the method's two parts are there."""

    name: str
    in_front: InFront
    sentinel: bool


VARIANTS = (
    Variant("full method", InFront.PROMPT, sentinel=True),
    Variant("without continuous prompts", InFront.TEXT, sentinel=True),
    Variant(f"the same, {DEMONSTRATIONS} demonstrations", InFront.DEMONSTRATED, sentinel=True),
    Variant("without sentinel", InFront.PROMPT, sentinel=False),
    Variant("without both", InFront.TEXT, sentinel=False),
)


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
class _Asked:
    """Questions against all keys at once."""

    questions: list[Question]
    records: Float32  # [n] the record each belongs to
    best: Float32  # [n] row of the most similar key
    similarity: Float32  # [n] its inner product
    needed: Float32  # [n] what it must exceed under the sentinel, in the crowd of its neighbours

    def hits(self, threshold: float | None) -> Decisions:
        """[n] whether each hits, by the sentinel or by one static threshold."""
        return np.greater(self.similarity, self.needed if threshold is None else threshold)

    def right(self, threshold: float | None) -> Decisions:
        """[n] whether each hits its own record's key."""
        found: Decisions = np.logical_and(self.hits(threshold), self.best == self.records)
        return found


class Base:
    """Edits in memory with all questions about them asked once; variants differ in what they make of the answers."""

    def __init__(self, edits: Sequence[Edit], editor: RecipeEditor) -> None:
        self.edits = edits
        keys, prompts = [], []
        for start in with_progress(range(0, len(edits), BATCH), "encoding facts"):
            found = editor.encode([edit.knowledge for edit in edits[start : start + BATCH]])
            keys.append(found[0])
            prompts.append(found[1])
        self.prompts = torch.from_numpy(np.concatenate(prompts).astype(np.float32))
        self._keys = np.concatenate(keys)
        self._editor = editor
        numbered = list(enumerate(edits))
        self.own = self._ask([(row, Question(edit.prompt, edit.answer)) for row, edit in numbered])
        self.rephrased = self._ask(
            [(row, Question(text, edit.answer)) for row, edit in numbered for text in edit.paraphrases]
        )
        self.unrelated = self._ask([(row, question) for row, edit in numbered for question in edit.unrelated])

    def rates(self, threshold: float | None) -> RetrievalRates:
        """Hits under the sentinel (None) or a static threshold."""
        return RetrievalRates(
            right_hit=100 * float(self.own.right(threshold).mean()),
            paraphrase_right_hit=100 * float(self.rephrased.right(threshold).mean()),
            false_hit=100 * float(self.unrelated.hits(threshold).mean()),
        )

    def best_static_threshold(self) -> float:
        """The similarity that best tells right hits from false ones: the mean of both error rates is least."""
        inside = np.concatenate([self.own.similarity, self.rephrased.similarity])
        found = np.concatenate([part.best == part.records for part in (self.own, self.rephrased)])
        right, outside = np.sort(inside[found]), np.sort(self.unrelated.similarity)
        candidates = np.concatenate([right, outside])
        missed = np.searchsorted(right, candidates, side="right") / len(inside)
        false = 1 - np.searchsorted(outside, candidates, side="right") / len(outside)
        return float(candidates[np.argmin(missed + false)])

    def most_similar(self, others: "Base", count: int) -> list[list[Edit]]:
        """For each edit of another base the edits of this one with the most similar keys, the most similar one last."""
        centre = self._keys.mean(axis=0)
        mine, theirs = self._keys - centre, others._keys - centre
        cosines = (theirs @ mine.T) / np.linalg.norm(mine, axis=1)
        return [[self.edits[row] for row in rows] for rows in np.argsort(cosines, axis=1)[:, -count:]]

    def _ask(self, questions: Sequence[tuple[int, Question]]) -> _Asked:
        best, similarity, needed = [], [], []
        for start in with_progress(range(0, len(questions), BATCH), "asking"):
            part = self._editor.query([question.text for _, question in questions[start : start + BATCH]])
            scores = np.stack([query.vector for query in part]) @ self._keys.T
            best.append(scores.argmax(axis=1))
            similarity.append(scores.max(axis=1))
            needed.append(np.array([self._needed(query, row) for query, row in zip(part, scores, strict=True)]))
        return _Asked(
            [question for _, question in questions],
            np.array([record for record, _ in questions]),
            np.concatenate(best),
            np.concatenate(similarity),
            np.concatenate(needed),
        )

    def _needed(self, query: QueryVector, scores: Float32) -> float:
        """The similarity that the best of all keys, of these scores [m], must exceed."""
        best, *others = np.argsort(-scores, kind="stable")[:CROWD_FACTS]
        rivals = [row for row in others if self.edits[row].statement != self.edits[best].statement]
        rise = crowd_rise(scores[[best, *rivals]].tolist(), query.sentinel_crowd, len(query.vector))
        return query.threshold(len(self.edits)) + rise


def evaluate_variants(
    edits: Sequence[Edit], training_edits: Sequence[Edit], editor: RecipeEditor, llm: LanguageModel
) -> tuple[list[VariantScores], float]:
    """All variants on `edits`, and the static threshold, which is chosen on `training_edits`.

    Raises InvalidArgumentError where either has no paraphrase or no unrelated question to ask.
    """
    for field, given in (("dev", edits), ("data", training_edits)):
        if not any(edit.paraphrases for edit in given) or not any(edit.unrelated for edit in given):
            lacking = "needs edits with paraphrases and with unrelated questions, as CounterFact's are"
            raise InvalidArgumentError([FieldViolation(field, lacking)])
    training, base = Base(training_edits, editor), Base(edits, editor)
    static = training.best_static_threshold()
    in_front = {
        InFront.PROMPT: list(base.prompts),
        InFront.TEXT: [_words(stated(edit.statement), llm) for edit in edits],
        InFront.DEMONSTRATED: [
            _words(demonstrated(edit.statement, examples), llm)
            for edit, examples in zip(edits, training.most_similar(base, DEMONSTRATIONS), strict=True)
        ],
    }
    return [_score(variant, base, in_front[variant.in_front], static, llm) for variant in VARIANTS], static


def _words(text: str, llm: LanguageModel) -> Tensor:
    """Word embeddings [t, d] of a text."""
    ids = llm.tokenizer(text, add_special_tokens=False)["input_ids"]
    return llm.embed(torch.tensor(ids))


def _score(variant: Variant, base: Base, prompts: Sequence[Tensor], static: float, llm: LanguageModel) -> VariantScores:
    threshold = None if variant.sentinel else static

    def decided(asked: _Asked) -> list[Decided]:
        rows = zip(asked.questions, asked.hits(threshold), asked.best, strict=True)
        return [Decided(question, prompts[best] if hit else None) for question, hit, best in rows]

    return VariantScores(
        variant=variant.name,
        tokens_in_front=float(np.mean([len(prompt) for prompt in prompts])),
        reliability=100 * float(np.mean(answer_accuracy(decided(base.own), llm))),
        generality=100 * float(np.mean(answer_accuracy(decided(base.rephrased), llm))),
        locality=100 * float(np.mean(teacher_forced_agreement(decided(base.unrelated), llm))),
        rates=base.rates(threshold),
    )
