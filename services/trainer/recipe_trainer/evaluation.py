"""Evaluation: all edits are stored first, then every record is asked.

Every figure is a percentage, but for seconds; None where the data has no question of that kind.
"""

import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np

from recipe_model.editor import RecipeEditor
from recipe_model.language_model import LanguageModel
from recipe_trainer.datasets import Edit, Question
from recipe_trainer.families import Family, held_out_families, held_out_words, members
from recipe_trainer.hard_cases import with_slip
from recipe_trainer.knowledge_base import Asked, temporary_knowledge_base, told
from recipe_trainer.scoring import answer_accuracy, exact_matches, free_agreement, teacher_forced_agreement

EXAMPLES = 20  # of false hits that a report shows
Numbered = list[tuple[int, Question]]


@dataclass(frozen=True, slots=True)
class Conditions:
    """What makes the task harder than asking the records as they are."""

    distractors: Sequence[Edit] = ()  # facts that are stored and that nobody asks for
    typos: float = 0.0  # share of questions with one slip of the keyboard
    seed: int = 0  # of the typos
    bare_statements: bool = False  # facts are published as statements, not as prompt and answer


@dataclass(frozen=True, slots=True)
class Scores:
    """Reliability, generality and locality, in percent."""

    reliability: float | None
    generality: float | None
    locality: float | None


@dataclass(frozen=True, slots=True)
class RetrievalRates:
    """How often retrieval did right, in percent."""

    right_hit: float | None  # edits' own prompts that hit their own fact
    paraphrase_right_hit: float | None  # paraphrases that did
    false_hit: float | None  # unrelated questions that hit anything


@dataclass(frozen=True, slots=True)
class CriterionScores:
    """One criterion of a data set by itself.

    For questions that an edit must answer the scores are accuracies and `hit` counts hits of the record's own
    fact; for questions it must leave alone they are agreement with the unedited model and `hit` counts any hit.
    """

    questions: int
    must_answer: bool
    teacher_forced: float | None
    free_generation: float | None
    hit: float | None


@dataclass(frozen=True, slots=True)
class Evaluation:
    """All figures of one evaluation, with the keys that its JSON has."""

    edits: int
    distractors: int
    typos: float  # share of questions with a slip, from 0 to 1
    bare_statements: bool
    model_version: str
    teacher_forced: Scores
    free_generation: Scores
    retrieval: RetrievalRates
    criteria: dict[str, CriterionScores]
    seconds_per_edit: float
    seconds_per_query: float


@dataclass(frozen=True, slots=True)
class FalseHit:
    """An ordinary text that hit a fact."""

    text: str
    statement: str
    confidence: float


@dataclass(frozen=True, slots=True)
class TextEvaluation:
    """How often ordinary text hits a stored fact, with the keys that its JSON has."""

    edits: int
    texts: int  # that were asked
    too_long: int  # that were not, because the encoder does not read so many tokens
    model_version: str
    false_hit: float
    examples: list[FalseHit]


@dataclass(frozen=True, slots=True)
class FamilyEvaluation:
    """Retrieval in one family of facts that differ in a name, number or date, rates in percent."""

    stored: int  # members
    asked: int  # of them, each by its own prompt and by another wording
    absent: int  # members that are not stored and were asked for
    right_hit: float | None
    paraphrase_right_hit: float | None
    false_hit: float | None  # of the absent ones, on any stored member


@dataclass(frozen=True, slots=True)
class FamiliesEvaluation:
    """Every held-out family, with the keys that its JSON has."""

    seed: int
    model_version: str
    families: dict[str, FamilyEvaluation]


@dataclass(frozen=True, slots=True)
class _Scored:
    """Scores of questions, one by one, each from 0 to 1."""

    teacher_forced: list[float]
    free_generation: list[float]


def evaluate(
    edits: Sequence[Edit], editor: RecipeEditor, llm: LanguageModel, conditions: Conditions | None = None
) -> Evaluation:
    """Store all edits and distractors, ask everything, and score teacher-forced and in free generation."""
    conditions = conditions or Conditions()
    slips = random.Random(conditions.seed)  # noqa: S311 (no secret)
    with temporary_knowledge_base(editor) as base:
        for group in (edits, conditions.distractors):
            base.store(group, bare_statements=conditions.bare_statements)
        own, rephrased, unrelated, follow_up = (
            told(base.ask(_slipped(group, slips, conditions.typos)), llm) for group in numbered_questions(edits)
        )
    reliability = _Scored(answer_accuracy(own, llm), exact_matches(own, llm))
    generality = _Scored(answer_accuracy(rephrased, llm), exact_matches(rephrased, llm))
    locality = _Scored(teacher_forced_agreement(unrelated, llm), free_agreement(unrelated, llm))
    parts = (reliability, generality, locality)
    return Evaluation(
        edits=len(edits),
        distractors=len(conditions.distractors),
        typos=conditions.typos,
        bare_statements=conditions.bare_statements,
        model_version=editor.model_version,
        teacher_forced=Scores(*(mean_percent(part.teacher_forced) for part in parts)),
        free_generation=Scores(*(mean_percent(part.free_generation) for part in parts)),
        retrieval=_retrieval_rates(own, rephrased, unrelated),
        criteria=_criteria(follow_up, llm) | _criteria(unrelated, llm, locality),
        seconds_per_edit=base.seconds_per_edit,
        seconds_per_query=base.seconds_per_query,
    )


def evaluate_text(edits: Sequence[Edit], texts: Sequence[str], editor: RecipeEditor) -> TextEvaluation:
    """Store all edits, then ask texts that none of them answers."""
    readable = [text for text in texts if editor.reads(text)]
    with temporary_knowledge_base(editor) as base:
        base.store(edits)
        asked = base.ask([(-1, Question(text)) for text in readable], prompts=False)
    hits = [
        FalseHit(item.question.text, item.hit.statement, item.hit.confidence) for item in asked if item.hit is not None
    ]
    return TextEvaluation(
        edits=len(edits),
        texts=len(readable),
        too_long=len(texts) - len(readable),
        model_version=editor.model_version,
        false_hit=mean_percent([item.hit is not None for item in asked]) or 0.0,
        examples=hits[:EXAMPLES],
    )


def evaluate_families(stored: int, asked: int, seed: int, editor: RecipeEditor) -> FamiliesEvaluation:
    """For each held-out family by itself: store members, then ask about some of them and about as many others.

    Of a family that has not that many members half are stored.
    """
    return FamiliesEvaluation(
        seed=seed,
        model_version=editor.model_version,
        families={
            name: _evaluate_family(family, stored, asked, random.Random(seed), editor)  # noqa: S311 (no secret)
            for name, family in held_out_families().items()
        },
    )


def _evaluate_family(
    family: Family, stored: int, asked: int, random_: random.Random, editor: RecipeEditor
) -> FamilyEvaluation:
    known = members(family, held_out_words(), random_, stored + asked)
    if len(known) < stored + asked:
        stored = len(known) // 2
    present, absent = known[:stored], known[stored:][:asked]
    probed = present[:asked]
    with temporary_knowledge_base(editor) as base:
        base.store(present)
        own = base.ask([(number, Question(edit.prompt)) for number, edit in enumerate(probed)], prompts=False)
        rephrased = base.ask(
            [(number, Question(edit.paraphrases[0])) for number, edit in enumerate(probed)], prompts=False
        )
        others = base.ask([(-1, Question(edit.prompt)) for edit in absent], prompts=False)
    return FamilyEvaluation(len(present), len(probed), len(absent), **asdict(_retrieval_rates(own, rephrased, others)))


def numbered_questions(edits: Sequence[Edit]) -> tuple[Numbered, Numbered, Numbered, Numbered]:
    """Own prompts, paraphrases, unrelated and follow-up questions, each with the number of its record."""
    numbered = list(enumerate(edits))
    own = [(number, Question(edit.prompt, edit.answer)) for number, edit in numbered]
    rephrased = [(number, Question(text, edit.answer)) for number, edit in numbered for text in edit.paraphrases]
    unrelated = [(number, question) for number, edit in numbered for question in edit.unrelated]
    # A question whose answer the data does not know cannot be scored.
    follow_up = [(number, question) for number, edit in numbered for question in edit.portability if question.answer]
    return own, rephrased, unrelated, follow_up


def _slipped(questions: Numbered, slips: random.Random, rate: float) -> Numbered:
    """The questions, a share of them with one slip of the keyboard."""
    return [
        (number, replace(question, text=with_slip(slips, question.text)) if slips.random() < rate else question)
        for number, question in questions
    ]


def _retrieval_rates(own: Sequence[Asked], rephrased: Sequence[Asked], unrelated: Sequence[Asked]) -> RetrievalRates:
    return RetrievalRates(
        right_hit=mean_percent([item.right for item in own]),
        paraphrase_right_hit=mean_percent([item.right for item in rephrased]),
        false_hit=mean_percent([item.hit is not None for item in unrelated]),
    )


def _criteria(
    asked: Sequence[Asked], llm: LanguageModel, locality: _Scored | None = None
) -> dict[str, CriterionScores]:
    """Each named criterion of the questions: must be answered or, given their locality, left alone."""
    scored = locality or _Scored(answer_accuracy(asked, llm), exact_matches(asked, llm))
    hits = [item.right if locality is None else item.hit is not None for item in asked]
    return {
        name: CriterionScores(
            questions=len(rows),
            must_answer=locality is None,
            teacher_forced=mean_percent([scored.teacher_forced[row] for row in rows]),
            free_generation=mean_percent([scored.free_generation[row] for row in rows]),
            hit=mean_percent([hits[row] for row in rows]),
        )
        for name, rows in _rows_by_criterion(asked).items()
    }


def _rows_by_criterion(asked: Sequence[Asked]) -> dict[str, list[int]]:
    rows: dict[str, list[int]] = {}
    for row, item in enumerate(asked):
        if item.question.criterion:
            rows.setdefault(item.question.criterion, []).append(row)
    return rows


def mean_percent(values: Sequence[float]) -> float | None:
    """The mean of values from 0 to 1 as a percentage, None of none."""
    return 100.0 * float(np.mean(values)) if values else None
