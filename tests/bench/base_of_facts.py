"""Bases of facts for benchmarks: some statements that are encoded, and vectors made of theirs."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice, product
from typing import Final

import numpy as np
from numpy.typing import NDArray

from recipe_common.knowledge_text import knowledge_text
from recipe_model.editor import RecipeEditor
from recipe_model.encoded import EncodedFact
from recipe_store import Fact, FactWrite, KnowledgeStore, LogPosition

NAMESPACE: Final = "bench"
NOW: Final = datetime(2026, 1, 1, tzinfo=UTC)
MIXED: Final = (
    "Beyond those that were encoded, a vector is the mean of the encoded ones, plus two of their deviations from it "
    "times the root of 0.4 each, plus a random combination of eight deviations times the root of 0.2, made as long as "
    "the others: about the same mean and covariance, but no statement of its own. Token states and prompts are those "
    "of encoded facts."
)
_NAMES: Final = (
    "Aldous Ferrant",
    "Brita Holm",
    "Caspian Rowe",
    "Dorothea Lind",
    "Emeka Odili",
    "Fiona Strand",
    "Goran Petrov",
    "Hana Mori",
    "Ines Cabral",
    "Jonas Weidt",
    "Kaveh Rahimi",
    "Leonie Brandt",
)
_PLACES: Final = (
    "Northgate",
    "Port Elsing",
    "Valdoria",
    "Lower Marren",
    "Quillhaven",
    "Sankt Orval",
    "Tarnfield",
    "Ulverby",
    "West Aldery",
    "Ystmoor",
)
_QUESTIONS: Final = (
    "The mother tongue of {0} from {1} is",
    "{0} of {1} works as a",
    "Which instrument does {0} of {1} play?",
    "The mayor of {1} before {0} was",
    "In which city did {0} open the {1} gallery?",
    "Since leaving {1}, {0} plays for the football club of",
    "The company that {0} founded in {1} makes",
    "Who taught {0} at the school of {1}?",
    "The favourite dish of {0} from {1} is",
    "The {1} museum shows a painting of {0} by",
)
_ANSWERS: Final = ("Catalan", "Lisbon", "a baker", "the oboe", "Nora Vance", "paper boats", "Turin", "lentil soup")
MISSES: Final = tuple(
    f"{question} {thing}?"
    for question in ("What is the boiling point of", "How do you spell", "Who first described", "Why do people collect")
    for thing in ("mercury", "rhythm", "photosynthesis", "stamps", "granite", "lullabies", "magnetism", "umbrellas")
)


@dataclass(frozen=True, slots=True)
class Statement:
    """A question and its answer."""

    prompt: str
    answer: str


def statements() -> Iterator[Statement]:
    """1,200 different ones."""
    for number, (name, place, question) in enumerate(product(_NAMES, _PLACES, _QUESTIONS)):
        yield Statement(question.format(name, place), _ANSWERS[number % len(_ANSWERS)])


@dataclass(frozen=True)
class Encoded:
    """Statements, and what the encoder makes of them."""

    statements: Sequence[Statement]
    facts: Sequence[EncodedFact]

    def vectors_of(self, count: int) -> NDArray[np.float32]:
        """So many vectors [count, h] of length 1: the encoded ones first, then mixtures of them (see MIXED)."""
        rng = np.random.default_rng(0)
        known = np.stack([fact.vector for fact in self.facts])
        mean = known.mean(axis=0)
        deviations = known - mean
        encoded = len(known)
        vectors = np.empty((count, known.shape[1]), np.float32)
        vectors[:encoded] = known[:count]
        for start in range(encoded, count, 5_000):
            rows = min(5_000, count - start)
            mixed = np.sqrt(0.4) * (deviations[rng.integers(encoded, size=(2, rows))]).sum(axis=0)
            weights = rng.standard_normal((8, rows, 1)).astype(np.float32)
            noise = sum(weight * deviations[rng.integers(encoded, size=rows)] for weight in weights)
            made = mean + mixed + np.sqrt(0.2 / 8) * noise
            vectors[start : start + rows] = made / np.linalg.norm(made, axis=1, keepdims=True)
        return vectors


def encode(editor: RecipeEditor, count: int) -> Encoded:
    """So many statements, encoded as the encoder does it."""
    chosen = list(islice(statements(), count))
    texts = [knowledge_text(each.prompt, each.answer) for each in chosen]
    parts = [editor.encode(texts[start : start + 32]) for start in range(0, len(texts), 32)]
    return Encoded(chosen, [fact for part in parts for fact in part])


def write(store: KnowledgeStore, encoded: Encoded, vectors: NDArray[np.float32], revision: int = 1) -> None:
    """Store a fact for each vector, named by its number."""
    for start in range(0, len(vectors), 500):
        numbers = range(start, min(start + 500, len(vectors)))
        store.write([fact_write(encoded, vectors, number, revision) for number in numbers])


def fact_write(encoded: Encoded, vectors: NDArray[np.float32], number: int, revision: int) -> FactWrite:
    """One revision of one fact."""
    of = number % len(encoded.statements)
    statement = encoded.statements[of]
    fact = Fact(
        namespace=NAMESPACE,
        fact_id=str(number),
        revision=revision,
        statement=f"{statement.prompt} {statement.answer}",
        subject="",
        aliases=(),
        valid_from=None,
        valid_until=None,
        labels={},
        event_id=f"{number}/{revision}",
        event_time=NOW,
        publisher="bench",
        uri="",
        position=LogPosition("bench", 0, number),
    )
    return FactWrite(fact, vectors[number], encoded.facts[of].tokens, encoded.facts[of].prompt)
