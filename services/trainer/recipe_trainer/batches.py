"""What a training step sees: edits drawn from a mixture of sets, with questions in and out of their scope.

A step's draw depends on seed and step number alone, so a resumed run sees what an unbroken one would.
"""

import random
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from recipe_common.errors import FieldViolation, InvalidArgumentError
from recipe_trainer.datasets import Edit, Question

_WORD = re.compile(r"\w+")
_MAX_SUBJECT_WORDS = 8


@dataclass(frozen=True, slots=True)
class Draw:
    """One edit as a step uses it."""

    index: int  # in the pool of all edits
    edit: Edit
    paraphrase: str  # the edit's own prompt where its data has no paraphrase
    unrelated: Question | None


@dataclass(frozen=True, slots=True)
class Batch:
    """The draws of one step and open questions that nothing stored may answer."""

    draws: list[Draw]
    open_questions: list[Question]


class EditPool:
    """All edits of a run: several sets, each drawn with its own weight."""

    def __init__(self, sets: Sequence[Sequence[Edit]], weights: Sequence[float], questions: Sequence[Question]) -> None:
        self.edits = [edit for edits in sets for edit in edits]
        self._starts = [sum(len(edits) for edits in sets[:index]) for index in range(len(sets))]
        self._sizes = [len(edits) for edits in sets]
        self._weights = list(weights)
        self._questions = list(questions)
        self._facts = self._number(edit.prompt.casefold() for edit in self.edits)
        self._by_subject: dict[str, list[int]] = {}
        for index, edit in enumerate(self.edits):
            if edit.subject:
                self._by_subject.setdefault(_words(edit.subject), []).append(index)

    def draw(self, random_: random.Random, edits: int, open_questions: int) -> Batch:
        """Draw `edits` different edits and `open_questions` open questions.

        Raises InvalidArgumentError if there are not that many edits to draw from.
        """
        available = sum(size for size, weight in zip(self._sizes, self._weights, strict=True) if weight > 0)
        if edits > available:
            fewer = f"is {edits}, but the data holds {available} edits only; lower it"
            raise InvalidArgumentError([FieldViolation("contrast_edits", fewer)])
        chosen: dict[int, None] = {}
        while len(chosen) < edits:
            (which,) = random_.choices(range(len(self._sizes)), self._weights)
            chosen[self._starts[which] + random_.randrange(self._sizes[which])] = None
        questions = random_.sample(self._questions, min(open_questions, len(self._questions)))
        return Batch([self._one(random_, index) for index in chosen], questions)

    def fact(self, index: int) -> int:
        """A number shared by all edits of the same prompt: they are versions of one fact."""
        return self._facts[index]

    def about(self, text: str) -> set[int]:
        """Indices of the edits whose subject the text names: it may be in their scope."""
        words = _words(text).split(" ")
        found: set[int] = set()
        for length in range(1, _MAX_SUBJECT_WORDS + 1):
            for start in range(len(words) - length + 1):
                found.update(self._by_subject.get(" ".join(words[start : start + length]), ()))
        return found

    def _one(self, random_: random.Random, index: int) -> Draw:
        edit = self.edits[index]
        paraphrase = random_.choice(edit.paraphrases) if edit.paraphrases else edit.prompt
        unrelated = random_.choice(edit.unrelated) if edit.unrelated else None
        return Draw(index, edit, paraphrase, unrelated)

    @staticmethod
    def _number(names: Iterable[str]) -> list[int]:
        numbers: dict[str, int] = {}
        return [numbers.setdefault(name, len(numbers)) for name in names]


def with_typos(random_: random.Random, text: str, rate: float) -> str:
    """With probability `rate` give the text one slip: a letter swapped, dropped or doubled."""
    if len(text) < 4 or random_.random() >= rate:  # noqa: PLR2004 (a shorter text would lose its meaning)
        return text
    at = random_.randrange(1, len(text) - 2)
    slip = random_.choice(("swap", "drop", "double"))
    if slip == "swap":
        return text[:at] + text[at + 1] + text[at] + text[at + 2 :]
    return text[:at] + text[at + 1 :] if slip == "drop" else text[:at] + text[at] + text[at:]


def by_length(lengths: Sequence[int], size: int) -> list[list[int]]:
    """Row numbers in groups of at most `size` rows of similar length, shortest first."""
    order = sorted(range(len(lengths)), key=lambda row: lengths[row])
    return [order[start : start + size] for start in range(0, len(order), size)]


def original_order(groups: Sequence[Sequence[int]]) -> list[int]:
    """Where each original row stands in the concatenated groups."""
    places = {row: place for place, row in enumerate(row for group in groups for row in group)}
    return [places[row] for row in range(len(places))]


def _words(text: str) -> str:
    return " ".join(_WORD.findall(text.casefold()))
