"""A knowledge base for one evaluation: all facts are stored first, then everything is asked.

Store and retriever are those that serve. Retrieval sees the bare question only, never the answer.
"""

import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
from prometheus_client import CollectorRegistry
from torch import Tensor

from recipe_common.progress import with_progress
from recipe_model.editor import RecipeEditor
from recipe_retriever.metrics import RetrieverMetrics
from recipe_retriever.retrieval import Retrieval, Retriever
from recipe_store.edge_store import open_edge_store
from recipe_store.facts import Fact, FactWrite, LogPosition, Match
from recipe_store.store import KnowledgeStore
from recipe_trainer.datasets import Edit, Question

NAMESPACE = "evaluation"
BATCH = 32
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Asked:
    """One question with what retrieval decided about it."""

    question: Question
    record: int  # which edit the question belongs to
    retrieval: Retrieval | None  # None if it was not asked

    @property
    def match(self) -> Match | None:
        """What it hit."""
        return None if self.retrieval is None else self.retrieval.match

    @property
    def right(self) -> bool:
        """Whether it hit its own record's fact."""
        return self.match is not None and self.match.fact.fact_id == str(self.record)

    @property
    def prompt(self) -> Tensor | None:
        """The continuous prompt [l, d] on a hit."""
        prompt = None if self.retrieval is None else self.retrieval.prompt
        return None if prompt is None else torch.from_numpy(prompt.astype(np.float32))


class KnowledgeBase:
    """Edits in a store, numbered by their place in the list that was stored."""

    def __init__(self, editor: RecipeEditor, store: KnowledgeStore) -> None:
        self._editor = editor
        self._store = store
        # Counted for each question, as the same base is asked while it grows.
        self._retriever = Retriever(editor, store, RetrieverMetrics(CollectorRegistry()), count_seconds=0)
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
        """Mean time to retrieve for one question, one after the other."""
        return self._ask_seconds / self._asked if self._asked else 0.0

    def store(self, edits: Sequence[Edit], *, bare_statements: bool = False) -> None:
        """Store edits behind those that are stored already."""
        started, first = time.monotonic(), self._stored
        for start in with_progress(range(0, len(edits), BATCH), "storing facts"):
            part = edits[start : start + BATCH]
            keys, prompts = self._editor.encode(
                [edit.statement if bare_statements else edit.knowledge for edit in part]
            )
            writes = [_write(first + start + row, edit, keys[row], prompts[row]) for row, edit in enumerate(part)]
            self._store.write(writes)
        self._stored += len(edits)
        self._store_seconds += time.monotonic() - started

    def ask(self, questions: Sequence[tuple[int, Question]]) -> list[Asked]:
        """Retrieve for questions, each given with the number of the edit it belongs to."""
        started = time.monotonic()
        asked = [
            Asked(question, record, self._retriever.retrieve(NAMESPACE, question.text, _EPOCH))
            for record, question in with_progress(questions, "retrieving")
        ]
        self._asked += len(asked)
        self._ask_seconds += time.monotonic() - started
        return asked


@contextmanager
def temporary_knowledge_base(editor: RecipeEditor) -> Iterator[KnowledgeBase]:
    """An empty knowledge base in the embedded store that is deleted afterwards."""
    with tempfile.TemporaryDirectory(prefix="recipe-eval-") as folder:
        store = open_edge_store(Path(folder), editor.model_version, editor.key_size, editor.prompt_shape)
        try:
            yield KnowledgeBase(editor, store)
        finally:
            store.close()


def _write(number: int, edit: Edit, key: np.ndarray, prompt: np.ndarray) -> FactWrite:
    fact = Fact(
        namespace=NAMESPACE,
        fact_id=str(number),
        revision=0,
        statement=edit.statement,
        subject=edit.subject,
        aliases=(),
        valid_from=None,
        valid_until=None,
        labels={},
        event_id=str(number),
        event_time=_EPOCH,
        publisher="recipe eval",
        uri="",
        position=LogPosition("evaluation", 0, number),
    )
    return FactWrite(fact, key, prompt)
