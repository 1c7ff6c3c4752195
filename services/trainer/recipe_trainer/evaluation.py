"""Evaluation: all edits are stored first, then every record is asked.

Store and retriever are those that serve. Retrieval sees the bare question only, never the answer. Every
figure is a percentage.
"""

import re
import string
import tempfile
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
from prometheus_client import CollectorRegistry
from rich.progress import track
from torch import Tensor

from recipe_model.editor import RecipeEditor
from recipe_model.language_model import LanguageModel
from recipe_retriever.metrics import RetrieverMetrics
from recipe_retriever.retrieval import Retriever
from recipe_store.edge_store import open_edge_store
from recipe_store.facts import Fact, FactWrite, LogPosition
from recipe_store.store import KnowledgeStore
from recipe_trainer.datasets import Edit, Question
from recipe_trainer.teacher_forcing import Answered, answer_logits, answer_targets, answered

NAMESPACE = "evaluation"
BATCH = 32
FREE_TOKENS_BEYOND_ANSWER = 3
FREE_LOCALITY_TOKENS = 10
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_ARTICLES = re.compile(r"\b(a|an|the)\b")


@dataclass(frozen=True, slots=True)
class Asked:
    """One question with what retrieval decided about it."""

    question: Question
    right: bool | None  # on a hit: whether it is the record's own fact
    prompt: Tensor | None  # [l, d] on a hit


@dataclass(frozen=True, slots=True)
class Scores:
    """Reliability, generality and locality, in percent."""

    reliability: float
    generality: float
    locality: float


@dataclass(frozen=True, slots=True)
class RetrievalRates:
    """How often retrieval did right, in percent."""

    right_hit: float  # edits' own prompts that hit their own fact
    paraphrase_right_hit: float  # paraphrases that did
    false_hit: float  # unrelated questions that hit anything


@dataclass(frozen=True, slots=True)
class Evaluation:
    """All figures of one evaluation, with the keys that its JSON has."""

    edits: int
    model_version: str
    teacher_forced: Scores
    free_generation: Scores
    retrieval: RetrievalRates


def evaluate(edits: Sequence[Edit], editor: RecipeEditor, llm: LanguageModel) -> Evaluation:
    """Store all edits, ask everything, and score teacher-forced and in free generation."""
    with _temporary_store(editor) as store:
        _store_edits(edits, editor, store)
        retriever = Retriever(editor, store, RetrieverMetrics(CollectorRegistry()))
        own, rephrased, unrelated = (list(_ask(group, retriever)) for group in _questions(edits))
    return Evaluation(
        edits=len(edits),
        model_version=editor.model_version,
        teacher_forced=Scores(
            reliability=_mean(_answer_accuracy(own, llm)),
            generality=_mean(_answer_accuracy(rephrased, llm)),
            locality=_mean(_teacher_forced_agreement(unrelated, llm)),
        ),
        free_generation=Scores(
            reliability=_mean(_exact_matches(own, llm)),
            generality=_mean(_exact_matches(rephrased, llm)),
            locality=_mean(_free_agreement(unrelated, llm)),
        ),
        retrieval=RetrievalRates(
            right_hit=_mean([bool(asked.right) for asked in own]),
            paraphrase_right_hit=_mean([bool(asked.right) for asked in rephrased]),
            false_hit=_mean([asked.prompt is not None for asked in unrelated]),
        ),
    )


def normalise(text: str) -> str:
    """Compare answers as SQuAD does: no case, punctuation, articles or repeated spaces."""
    text = unicodedata.normalize("NFKC", text).casefold()
    text = "".join(" " if character in string.punctuation else character for character in text)
    return " ".join(_ARTICLES.sub(" ", text).split())


def says(text: str, answer: str) -> bool:
    """Whether a free continuation begins with the answer, as whole words."""
    said, wanted = normalise(text).split(), normalise(answer).split()
    return said[: len(wanted)] == wanted


@contextmanager
def _temporary_store(editor: RecipeEditor) -> Iterator[KnowledgeStore]:
    with tempfile.TemporaryDirectory(prefix="recipe-eval-") as folder:
        store = open_edge_store(Path(folder), editor.model_version, editor.key_size, editor.prompt_shape)
        try:
            yield store
        finally:
            store.close()


def _store_edits(edits: Sequence[Edit], editor: RecipeEditor, store: KnowledgeStore) -> None:
    for start in track(range(0, len(edits), BATCH), "storing edits"):
        part = edits[start : start + BATCH]
        keys, prompts = editor.encode([edit.statement for edit in part])
        store.write([_write(start + row, edit, keys[row], prompts[row]) for row, edit in enumerate(part)])


def _write(index: int, edit: Edit, key: np.ndarray, prompt: np.ndarray) -> FactWrite:
    fact = Fact(
        namespace=NAMESPACE,
        fact_id=str(index),
        revision=0,
        statement=edit.statement,
        subject=edit.subject,
        aliases=(),
        valid_from=None,
        valid_until=None,
        labels={},
        event_id=str(index),
        event_time=_EPOCH,
        publisher="recipe eval",
        uri="",
        position=LogPosition("evaluation", 0, index),
    )
    return FactWrite(fact, key, prompt)


def _questions(edits: Sequence[Edit]) -> tuple[list[tuple[int, Question]], ...]:
    """Own prompts, paraphrases and unrelated questions, each with the index of its record."""
    own = [(index, Question(edit.prompt, edit.answer)) for index, edit in enumerate(edits)]
    rephrased = [(index, Question(text, edit.answer)) for index, edit in enumerate(edits) for text in edit.paraphrases]
    unrelated = [(index, question) for index, edit in enumerate(edits) for question in edit.unrelated]
    return own, rephrased, unrelated


def _ask(questions: Sequence[tuple[int, Question]], retriever: Retriever) -> Iterator[Asked]:
    for index, question in track(questions, "retrieving"):
        match = retriever.retrieve(NAMESPACE, question.text, _EPOCH).match
        if match is None:
            yield Asked(question, None, None)
        else:
            yield Asked(question, match.fact.fact_id == str(index), torch.from_numpy(match.prompt.astype(np.float32)))


def _answer_accuracy(asked: Sequence[Asked], llm: LanguageModel) -> list[float]:
    """Per question the share of answer tokens that the LLM, edited as retrieval decided, predicts."""
    accuracy = [0.0] * len(asked)
    for rows, batch, prompts in _batches(asked, llm):
        predicted = _predictions(llm, batch, prompts)
        targets = _per_question(answer_targets(batch), batch)
        for row, mine, right in zip(rows, predicted, targets, strict=True):
            accuracy[row] = float((mine == right).float().mean())
    return accuracy


def _teacher_forced_agreement(asked: Sequence[Asked], llm: LanguageModel) -> list[float]:
    """Per question the share of answer positions where the LLM predicts what the unedited one does."""
    agreement = [1.0] * len(asked)  # without a hit the model is the unedited one
    for rows, batch, prompts in _batches(asked, llm):
        if prompts is None:
            continue
        pairs = zip(rows, _predictions(llm, batch, prompts), _predictions(llm, batch, None), strict=True)
        for row, edited, unedited in pairs:
            agreement[row] = float((edited == unedited).float().mean())
    return agreement


def _exact_matches(asked: Sequence[Asked], llm: LanguageModel) -> list[bool]:
    matches = []
    for start in track(range(0, len(asked), BATCH), "generating answers"):
        part = asked[start : start + BATCH]
        longest = max(len(llm.answer_ids(item.question.answer)) for item in part)
        texts = [item.question.text for item in part]
        written = llm.generate_batch([item.prompt for item in part], texts, longest + FREE_TOKENS_BEYOND_ANSWER)
        matches += [says(text, item.question.answer) for text, item in zip(written, part, strict=True)]
    return matches


def _free_agreement(asked: Sequence[Asked], llm: LanguageModel) -> list[bool]:
    """Whether each free continuation is the unedited model's; without a hit it is the same computation."""
    agreement = [True] * len(asked)
    hits = [row for row, item in enumerate(asked) if item.prompt is not None]
    for start in track(range(0, len(hits), BATCH), "generating unrelated"):
        rows = hits[start : start + BATCH]
        texts = [asked[row].question.text for row in rows]
        edited = llm.generate_batch([asked[row].prompt for row in rows], texts, FREE_LOCALITY_TOKENS)
        unedited = llm.generate_batch([None] * len(rows), texts, FREE_LOCALITY_TOKENS)
        for row, mine, plain in zip(rows, edited, unedited, strict=True):
            agreement[row] = mine == plain
    return agreement


def _batches(asked: Sequence[Asked], llm: LanguageModel) -> Iterator[tuple[list[int], list[Answered], Tensor | None]]:
    """Rows, tokenised questions and prompts [b, l, d], hits and misses apart."""
    hits = [row for row, item in enumerate(asked) if item.prompt is not None]
    misses = [row for row, item in enumerate(asked) if item.prompt is None]
    for group in (hits, misses):
        for start in range(0, len(group), BATCH):
            rows = group[start : start + BATCH]
            batch = [answered(llm, asked[row].question.text, asked[row].question.answer) for row in rows]
            prompts = [prompt for row in rows if (prompt := asked[row].prompt) is not None]
            yield rows, batch, torch.stack(prompts) if prompts else None


def _predictions(llm: LanguageModel, batch: Sequence[Answered], prompts: Tensor | None) -> tuple[Tensor, ...]:
    """The LLM's most likely token at each answer token, per question."""
    with torch.inference_mode():
        logits = answer_logits(llm, batch, prompts)
    return _per_question(logits.argmax(dim=-1), batch)


def _per_question(tokens: Tensor, batch: Sequence[Answered]) -> tuple[Tensor, ...]:
    """The tokens [n] of all answers, cut into each question's own."""
    return torch.split(tokens, [len(item.answer) for item in batch])


def _mean(values: Sequence[float]) -> float:
    return 100.0 * float(np.mean(values)) if values else float("nan")
