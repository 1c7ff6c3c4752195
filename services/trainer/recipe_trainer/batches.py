"""What a step of the prompts' training sees: edits drawn from a mixture of sets, each with one question.

A step's draw depends on seed and step number alone, so a resumed run sees what an unbroken one would.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from recipe_common.errors import FieldViolation, InvalidArgumentError
from recipe_common.knowledge_text import statement_text
from recipe_trainer import hard_cases
from recipe_trainer.conversations import Message, earlier_turns
from recipe_trainer.datasets import Edit, Question
from recipe_trainer.options import TrainOptions
from recipe_trainer.training_answers import TrainingAnswers
from recipe_trainer.wordings import alias, other_form, with_subject

_OWN_QUESTIONS = 4  # one in so many draws is asked its own prompt: it has little left to teach
_ASKED_IN_CHAT = 0.7  # share of conversations that end with a question, if a rule makes one of the text


@dataclass(frozen=True, slots=True)
class Draw:
    """One edit as a step uses it."""

    edit: Edit
    knowledge: str  # the text that is encoded
    question: str  # the edit's own prompt, also where no other wording is known, or a paraphrase
    own: bool  # whether it was drawn to be asked its own prompt
    unrelated: Question | None
    earlier: tuple[Message, ...] | None = None  # of the conversation that the question ends; None: a text to go on with


class EditPool:
    """All edits of a run: several sets, each drawn with its own weight.

    `words` are answers of no set, for edits whose answer is swapped.
    """

    def __init__(self, sets: Sequence[Sequence[Edit]], weights: Sequence[float], words: Sequence[str] = ()) -> None:
        self.edits = [with_subject(edit) for edits in sets for edit in edits]
        self._starts = [sum(len(edits) for edits in sets[:index]) for index in range(len(sets))]
        self._sizes = [len(edits) for edits in sets]
        self._weights = list(weights)
        self._subjects = sorted({edit.subject for edit in self.edits if edit.subject})
        answers = sorted({edit.answer for edit in self.edits})
        self._answers = [group for group in (answers, self._subjects, list(words)) if group]
        self._made = TrainingAnswers(self.edits)

    def draw(self, random_: random.Random, options: TrainOptions) -> list[Draw]:
        """Draw different edits. Raises InvalidArgumentError if there are not that many to draw from."""
        available = sum(size for size, weight in zip(self._sizes, self._weights, strict=True) if weight > 0)
        if options.edits > available:
            fewer = f"is {options.edits}, but the data holds {available} edits only; lower it"
            raise InvalidArgumentError([FieldViolation("edits", fewer)])
        chosen: dict[int, None] = {}
        while len(chosen) < options.edits:
            (which,) = random_.choices(range(len(self._sizes)), self._weights)
            chosen[self._starts[which] + random_.randrange(self._sizes[which])] = None
        return [
            self._one(random_, self.edits[index], options, own=place % _OWN_QUESTIONS == 0)
            for place, index in enumerate(chosen)
        ]

    def sample(self, random_: random.Random, most: int) -> list[Edit]:
        """Different edits of all sets, whatever their weights."""
        return random_.sample(self.edits, min(most, len(self.edits)))

    def _one(self, random_: random.Random, edit: Edit, options: TrainOptions, *, own: bool) -> Draw:
        question = edit.prompt if own else self._paraphrase(random_, edit, options)
        chats = random_.random() < options.conversations
        if chats and random_.random() < _ASKED_IN_CHAT and not question.endswith("?"):
            question = other_form(question) or question
        edit = self._with_answer(random_, edit, options)
        # Every second fact comes without the other names of its subject, as most are published.
        told = edit if random_.random() < 0.5 else replace(edit, aliases=())  # noqa: PLR2004
        unrelated = random_.choice(answered) if (answered := [q for q in edit.unrelated if q.answer]) else None
        outdated = self._any_answer(random_)
        return Draw(
            edit=edit,
            knowledge=statement_text(edit.statement) if random_.random() < options.unmarked else told.knowledge,
            question=question,
            own=own,
            unrelated=unrelated,
            earlier=earlier_turns(random_, edit, question, outdated, unrelated) if chats else None,
        )

    def _with_answer(self, random_: random.Random, edit: Edit, options: TrainOptions) -> Edit:
        """The edit with its own answer, one from elsewhere, or one that is made by rule."""
        kind = random_.random()
        if kind < options.made_answers:
            return replace(edit, answer=self._made.draw(random_), sentence="")
        if kind < options.made_answers + options.swapped_answers:
            return replace(edit, answer=self._any_answer(random_), sentence="")
        return edit

    def _any_answer(self, random_: random.Random) -> str:
        return random_.choice(random_.choice(self._answers))

    def _paraphrase(self, random_: random.Random, edit: Edit, options: TrainOptions) -> str:
        """Another wording of the edit's question: as a question, as the beginning of a sentence, or as keywords."""
        text = random_.choice(edit.paraphrases) if edit.paraphrases else edit.prompt
        if random_.random() < options.keywords:
            return hard_cases.keywords(random_, text, edit.subject) or text
        if random_.random() < options.other_forms:
            text = other_form(text) or text
        if edit.subject and random_.random() < options.aliases:
            name = alias(random_, edit.subject, random_.choice(self._subjects))
            text = text.replace(edit.subject, random_.choice([*edit.aliases, name]))
        return text


def by_length(lengths: Sequence[int], size: int) -> list[list[int]]:
    """Row numbers in groups of at most `size` rows of similar length, shortest first."""
    rows = sorted(range(len(lengths)), key=lambda row: lengths[row])
    return [rows[start : start + size] for start in range(0, len(rows), size)]
