"""A knowledge base for one evaluation: all facts are stored first, then everything is asked.

Store and decision are those that serve. They see the bare question only, never the answer.
"""

import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from recipe_common.knowledge_text import statement_text
from recipe_common.progress import with_progress
from recipe_model.decision import Judged
from recipe_model.editor import RecipeEditor
from recipe_model.encoded import EncodedFact, EncodedQuery
from recipe_model.language_model import LanguageModel
from recipe_store.edge_store import open_edge_store
from recipe_store.facts import Fact, FactWrite, LogPosition, Match
from recipe_store.store import KnowledgeStore
from recipe_trainer.datasets import Edit, Question

NAMESPACE = "evaluation"
BATCH = 32
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A fact that the first step found, and what the second made of it."""

    record: int  # which edit it is
    statement: str
    answer: str
    similarity: float  # of the first step
    margin: float  # of the second, s(q, k) - s(q, Theta)
    confidence: float  # that it answers, 0 to 1


@dataclass(frozen=True, slots=True)
class Asked:
    """One question with what was decided about it."""

    question: Question
    record: int  # which edit the question belongs to
    candidates: tuple[Candidate, ...] = ()  # best confidence first
    applies: bool = False  # the first of them
    prompt: Tensor | None = None  # what stands in front of the text [l, d], on a hit, if prompts were wanted

    @property
    def hit(self) -> Candidate | None:
        """The fact that applies."""
        return self.candidates[0] if self.applies else None

    @property
    def right(self) -> bool:
        """Whether it hit its own record's fact."""
        return self.hit is not None and self.hit.record == self.record

    @property
    def among_candidates(self) -> bool:
        """Whether its own record's fact was found by the first step."""
        return any(candidate.record == self.record for candidate in self.candidates)

    @property
    def nearest(self) -> bool:
        """Whether its own record's fact is the nearest one by the first step."""
        best = max(self.candidates, key=lambda candidate: candidate.similarity, default=None)
        return best is not None and best.record == self.record


class KnowledgeBase:
    """Edits in a store, numbered by their place in the list that was stored."""

    def __init__(self, editor: RecipeEditor, store: KnowledgeStore) -> None:
        self._editor = editor
        self._store = store
        self._stored = 0
        self._asked = 0
        self._store_seconds = 0.0
        self._ask_seconds = 0.0

    @property
    def seconds_per_edit(self) -> float:
        """Mean time to encode and store one edit, in batches of BATCH."""
        return self._store_seconds / self._stored if self._stored else 0.0

    @property
    def seconds_per_query(self) -> float:
        """Mean time to decide about one question, encoded in batches of BATCH."""
        return self._ask_seconds / self._asked if self._asked else 0.0

    def store(self, edits: Sequence[Edit], *, bare_statements: bool = False) -> None:
        """Store edits behind those that are stored already."""
        started, first = time.monotonic(), self._stored
        for start in with_progress(range(0, len(edits), BATCH), "storing facts"):
            part = edits[start : start + BATCH]
            texts = [statement_text(edit.statement) if bare_statements else edit.knowledge for edit in part]
            encoded = zip(part, self._editor.encode(texts), strict=True)
            self._store.write(
                [
                    _write(first + start + row, edit, fact, "" if bare_statements else edit.answer)
                    for row, (edit, fact) in enumerate(encoded)
                ]
            )
        self._stored += len(edits)
        self._store_seconds += time.monotonic() - started

    def ask(self, questions: Sequence[tuple[int, Question]], *, prompts: bool = True) -> list[Asked]:
        """Decide about questions, each given with the number of the edit it belongs to; read prompts of hits."""
        started = time.monotonic()
        # In groups of like lengths: padding would be most of the work otherwise.
        order = sorted(range(len(questions)), key=lambda row: len(questions[row][1].text))
        asked: dict[int, Asked] = {}
        for start in with_progress(range(0, len(order), BATCH), "asking"):
            rows = order[start : start + BATCH]
            queries = self._editor.query([questions[row][1].text for row in rows])
            for row, query in zip(rows, queries, strict=True):
                record, question = questions[row]
                asked[row] = self._decided(record, question, query, prompts=prompts)
        self._asked += len(asked)
        self._ask_seconds += time.monotonic() - started
        return [asked[row] for row in range(len(questions))]

    def _decided(self, record: int, question: Question, query: EncodedQuery, *, prompts: bool) -> Asked:
        decider = self._editor.decider
        matches = self._store.search(
            query.vector,
            namespace=NAMESPACE,
            as_of=_EPOCH,
            limit=decider.candidates,
            min_similarity=decider.min_similarity,
        )
        judged = decider.judge(query, matches)
        hit = decider.hit(judged)
        prompt = self._store.prompt(hit.candidate) if hit and prompts else None
        as_tensor = None if prompt is None else torch.from_numpy(prompt.astype(np.float32))
        return Asked(question, record, tuple(map(_candidate, judged)), hit is not None, as_tensor)


@contextmanager
def temporary_knowledge_base(editor: RecipeEditor) -> Iterator[KnowledgeBase]:
    """An empty knowledge base in the embedded store that is deleted afterwards."""
    with tempfile.TemporaryDirectory(prefix="recipe-eval-") as folder:
        store = open_edge_store(Path(folder), editor.model_version, editor.vector_size, editor.prompt_width)
        try:
            yield KnowledgeBase(editor, store)
        finally:
            store.close()


def told(asked: Sequence[Asked], llm: LanguageModel) -> list[Asked]:
    """The same with what a generator puts in front of the text for each prompt: it, then the words of its fact."""
    return [
        item
        if item.prompt is None
        else replace(item, prompt=llm.told(item.candidates[0].statement, item.prompt).float())
        for item in asked
    ]


def _candidate(judged: Judged[Match]) -> Candidate:
    match = judged.candidate
    fact = match.fact
    return Candidate(int(fact.fact_id), fact.statement, fact.answer, match.similarity, judged.margin, judged.confidence)


def _write(number: int, edit: Edit, encoded: EncodedFact, answer: str) -> FactWrite:
    fact = Fact(
        namespace=NAMESPACE,
        fact_id=str(number),
        revision=0,
        statement=edit.statement,
        subject=edit.subject,
        aliases=edit.aliases,
        valid_from=None,
        valid_until=None,
        labels={},
        event_id=str(number),
        event_time=_EPOCH,
        publisher="recipe eval",
        uri="",
        position=LogPosition("evaluation", 0, number),
        answer=answer,
    )
    return FactWrite(fact, encoded.vector, encoded.tokens, encoded.prompt)
