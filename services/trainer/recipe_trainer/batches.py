"""What a training step sees: edits drawn from a mixture of sets, with questions in and out of their scope.

A step's draw depends on seed and step number alone, so a resumed run sees what an unbroken one would.
"""

import random
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from recipe_common.errors import FieldViolation, InvalidArgumentError
from recipe_trainer.datasets import Edit, Question
from recipe_trainer.wordings import Wordings, alias, other_form, sibling, with_subject

_WORD = re.compile(r"\w+")
_NAME = re.compile(r"[A-Z]\w+(?: [A-Z]\w+)*")
_MAX_SUBJECT_WORDS = 8


@dataclass(frozen=True, slots=True)
class Draw:
    """One edit as a step uses it."""

    index: int  # in the pool of all edits
    edit: Edit
    knowledge: str  # the text that is encoded
    paraphrase: str  # the edit's own prompt where no other wording is known
    unrelated: Question | None
    other_relation: str | None  # a question about the edit's subject that it does not answer
    sibling: str | None  # the edit's question about a subject that differs in one word or digit


@dataclass(frozen=True, slots=True)
class Batch:
    """The draws of one step and ordinary texts that nothing stored may answer."""

    draws: list[Draw]
    ordinary: list[tuple[str, int]]  # each with the index of the edit whose subject was put into it, or -1


@dataclass(frozen=True, slots=True)
class Mixture:
    """How a step is drawn; the fields of TrainOptions with these names say more."""

    edits: int
    other_relations: int
    siblings: int
    ordinary_texts: int
    named_subjects: float
    versions: int
    swapped_answers: float
    unmarked: float
    other_forms: float
    aliases: float


class EditPool:
    """All edits of a run: several sets, each drawn with its own weight, and texts of several kinds.

    `texts` are groups that are drawn equally often; `words` are answers of no set, for edits whose answer is swapped.
    """

    def __init__(
        self,
        sets: Sequence[Sequence[Edit]],
        weights: Sequence[float],
        texts: Sequence[Sequence[str]],
        words: Sequence[str] = (),
    ) -> None:
        self.edits = [with_subject(edit) for edits in sets for edit in edits]
        self._starts = [sum(len(edits) for edits in sets[:index]) for index in range(len(sets))]
        self._sizes = [len(edits) for edits in sets]
        self._weights = list(weights)
        self._texts = [list(group) for group in texts if group]
        self._wordings = Wordings(self.edits)
        self._facts = self._number(self._name(edit) for edit in self.edits)
        answers = sorted({edit.answer for edit in self.edits})
        self._subjects = sorted({edit.subject for edit in self.edits if edit.subject})
        self._answers = [group for group in (answers, self._subjects, list(words)) if group]
        self._subjects_of_length: dict[int, list[str]] = {}  # in words
        for subject in self._subjects:
            self._subjects_of_length.setdefault(len(subject.split()), []).append(subject)
        self._by_subject: dict[str, list[int]] = {}
        for index, edit in enumerate(self.edits):
            if edit.subject:
                self._by_subject.setdefault(_words(edit.subject), []).append(index)

    def draw(self, random_: random.Random, mixture: Mixture) -> Batch:
        """Draw different edits and texts.

        Raises InvalidArgumentError if there are not that many edits to draw from.
        """
        available = sum(size for size, weight in zip(self._sizes, self._weights, strict=True) if weight > 0)
        if mixture.edits > available:
            fewer = f"is {mixture.edits}, but the data holds {available} edits only; lower it"
            raise InvalidArgumentError([FieldViolation("contrast_edits", fewer)])
        chosen: dict[int, None] = {}
        while len(chosen) < mixture.edits:
            (which,) = random_.choices(range(len(self._sizes)), self._weights)
            chosen[self._starts[which] + random_.randrange(self._sizes[which])] = None
        draws = [
            self._one(
                random_,
                index,
                mixture,
                other_relation=place < mixture.other_relations,
                sibling=place >= mixture.edits - mixture.siblings,
            )
            for place, index in enumerate(chosen)
        ]
        draws = self._with_versions(random_, draws, mixture.versions)
        wanted = mixture.ordinary_texts if self._texts else 0
        return Batch(draws, [self._ordinary(random_, draws, mixture.named_subjects) for _ in range(wanted)])

    def sample(self, random_: random.Random, most: int) -> list[int]:
        """Indices of different edits of all sets, whatever their weights."""
        return random_.sample(range(len(self.edits)), min(most, len(self.edits)))

    def fact(self, index: int) -> int:
        """A number shared by all edits that ask one subject for one relation: they are versions of one fact."""
        return self._facts[index]

    def about(self, text: str) -> set[int]:
        """Indices of the edits whose subject the text names: it may be in their scope."""
        words = _words(text).split(" ")
        found: set[int] = set()
        for length in range(1, _MAX_SUBJECT_WORDS + 1):
            for start in range(len(words) - length + 1):
                found.update(self._by_subject.get(" ".join(words[start : start + length]), ()))
        return found

    def _one(
        self, random_: random.Random, index: int, mixture: Mixture, *, other_relation: bool, sibling: bool
    ) -> Draw:
        edit = self.edits[index]
        wordings = edit.paraphrases + self._wordings.same_relation(edit)
        others = self._wordings.other_relations(edit) if other_relation else ()
        paraphrase = random_.choice(wordings) if wordings else edit.prompt
        about_sibling = self._about_sibling(random_, edit.subject, (edit.prompt, paraphrase)) if sibling else None
        if random_.random() < mixture.other_forms:
            paraphrase = other_form(paraphrase) or paraphrase
        if edit.subject and random_.random() < mixture.aliases:
            paraphrase = paraphrase.replace(edit.subject, alias(random_, edit.subject, random_.choice(self._subjects)))
        if random_.random() < mixture.swapped_answers:
            edit = replace(edit, answer=self._any_answer(random_))
        return Draw(
            index=index,
            edit=edit,
            knowledge=edit.statement if random_.random() < mixture.unmarked else edit.knowledge,
            paraphrase=paraphrase,
            unrelated=random_.choice(edit.unrelated) if edit.unrelated else None,
            other_relation=random_.choice(others) if others else None,
            sibling=about_sibling,
        )

    def _about_sibling(self, random_: random.Random, subject: str, questions: Sequence[str]) -> str | None:
        """One of the questions about another subject than this one, None where no rule makes one."""
        asked = random_.choice(questions)
        if not subject or subject not in asked:
            return None
        other = sibling(random_, subject, random_.choice(self._subjects_of_length[len(subject.split())]))
        return None if other is None else asked.replace(subject, other)

    def _with_versions(self, random_: random.Random, draws: Sequence[Draw], most: int) -> list[Draw]:
        """The draws, and behind them versions of some: the question in another wording, with another answer.

        What is asked in the words of one version is answered by that one, so each keeps to its own words: a wording
        out of other edits could be as near to the other version.
        """
        plain, versions = list(draws), list[Draw]()
        for place, draw in enumerate(draws):
            if len(versions) == most:
                break
            if others := self._wordings.same_relation(draw.edit):
                plain[place] = replace(draw, paraphrase=random_.choice((*draw.edit.paraphrases, draw.edit.prompt)))
                edit = Edit(prompt=random_.choice(others), answer=self._any_answer(random_), subject=draw.edit.subject)
                versions.append(Draw(draw.index, edit, edit.knowledge, edit.prompt, None, None, None))
        return plain + versions

    def _ordinary(self, random_: random.Random, draws: Sequence[Draw], named: float) -> tuple[str, int]:
        """A text, and where it is a sentence, perhaps with the subject of a draw in it: a name alone asks nothing."""
        text = random_.choice(random_.choice(self._texts))
        draw = random_.choice(draws)
        if not text.endswith(".") or not draw.edit.subject or random_.random() >= named:
            return text, -1
        return naming(random_, text, draw.edit.subject), draw.index

    def _any_answer(self, random_: random.Random) -> str:
        return random_.choice(random_.choice(self._answers))

    def _name(self, edit: Edit) -> tuple[str, str]:
        relation = self._wordings.relation(edit)
        return ("", edit.prompt.casefold()) if relation is None else (edit.subject.casefold(), relation.casefold())

    @staticmethod
    def _number(names: Iterable[tuple[str, str]]) -> list[int]:
        numbers: dict[tuple[str, str], int] = {}
        return [numbers.setdefault(name, len(numbers)) for name in names]


def naming(random_: random.Random, text: str, subject: str) -> str:
    """The text with a subject in place of one of its names or else of any word; a text of signs stays as it is."""
    places = list(_NAME.finditer(text)) or list(_WORD.finditer(text))
    if not places:
        return text
    place = random_.choice(places)
    return text[: place.start()] + subject + text[place.end() :]


def with_typos(random_: random.Random, text: str, rate: float, *, spared: str = "") -> str:
    """With probability `rate` give the text one slip: a letter swapped, dropped or doubled, none of those `spared`."""
    if len(text) < 4 or random_.random() >= rate:  # noqa: PLR2004 (a shorter text would lose its meaning)
        return text
    at = random_.randrange(1, len(text) - 2)
    if text[at] in spared or text[at + 1] in spared:
        return text
    slip = random_.choice(("swap", "drop", "double"))
    if slip == "swap":
        return text[:at] + text[at + 1] + text[at] + text[at + 2 :]
    return text[:at] + text[at + 1 :] if slip == "drop" else text[:at] + text[at] + text[at:]


def by_length(lengths: Sequence[int], size: int, area: int | None = None) -> list[list[int]]:
    """Row numbers in groups of at most `size` rows of similar length, shortest first.

    `area` is how much a group may hold with its padding, unless it is one row.
    """
    groups: list[list[int]] = []
    for row in sorted(range(len(lengths)), key=lambda row: lengths[row]):
        full = not groups or len(groups[-1]) == size
        if full or (area is not None and (len(groups[-1]) + 1) * lengths[row] > area):
            groups.append([])
        groups[-1].append(row)
    return groups


def original_order(groups: Sequence[Sequence[int]]) -> list[int]:
    """Where each original row stands in the concatenated groups."""
    places = {row: place for place, row in enumerate(row for group in groups for row in group)}
    return [places[row] for row in range(len(places))]


def _words(text: str) -> str:
    return " ".join(_WORD.findall(text.casefold()))
