"""An editor without networks: a table says which fact a question hits."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from recipe_common.knowledge_text import question_part
from recipe_common.token_states import TokenStates
from recipe_model.decision import Decider
from recipe_model.encoded import EncodedFact, EncodedQuery
from tiny_models import LLM_HIDDEN

SIZE = 64  # facts at most, with one direction each
NOWHERE = SIZE - 1  # the direction of questions that hit nothing
SURE = 4.0  # the margin of a fact that is hit; of all others it is the negative of it


class TableVerifier:
    """A question and the fact that it hits hold the same token."""

    def margins(self, query: TokenStates, facts: Sequence[TokenStates]) -> NDArray[np.float32]:
        return np.array([SURE if fact.ids[0] == query.ids[0] else -SURE for fact in facts], np.float32)


class TableEditor:
    """`hits` names questions, and the fact that each hits: by its prompt, or by its number as facts came.

    It keeps what it was asked to encode. What it cannot read is what is longer than `longest` characters.
    """

    model_version = "recipe-table"
    vector_size = SIZE
    prompt_width = LLM_HIDDEN

    def __init__(self, hits: Mapping[str, int | str], longest: int = 80) -> None:
        self.hits = hits
        self.decider = Decider(TableVerifier())
        self.longest = longest
        self.statements: list[str] = []
        self.questions: list[str] = []
        self._rows: dict[str, int] = {}  # of facts by their prompts

    def encode(self, texts: Sequence[str]) -> list[EncodedFact]:
        self.statements += texts
        rows = [self._rows.setdefault(question_part(text), len(self._rows)) for text in texts]
        return [EncodedFact(_direction(row), _tokens(row), self.prompt(row)) for row in rows]

    def prompt(self, row: int) -> NDArray[np.float16]:
        return np.random.default_rng(row).normal(size=(2, self.prompt_width)).astype(np.float16)

    def reads(self, text: str) -> bool:
        return len(text) <= self.longest

    def query(self, questions: Sequence[str]) -> list[EncodedQuery]:
        self.questions += questions
        found = [self.hits.get(text, NOWHERE) for text in questions]
        rows = [self._rows.get(fact, NOWHERE) if isinstance(fact, str) else fact for fact in found]
        return [EncodedQuery(_direction(row), _tokens(row)) for row in rows]


def _direction(row: int) -> NDArray[np.float32]:
    """Directions that are all a little alike, as those of texts are."""
    vector = np.full(SIZE, 0.1, np.float32)
    vector[row] = 1.0
    return vector / np.linalg.norm(vector)


def _tokens(row: int) -> TokenStates:
    return TokenStates(np.array([row], np.int32), np.zeros(1, np.uint8), np.zeros((1, SIZE), np.float16))
