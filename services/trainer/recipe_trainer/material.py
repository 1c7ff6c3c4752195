"""What `recipe train` learns from, read from the files that it is given."""

import platform
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from recipe_common.knowledge_text import question_part
from recipe_trainer.arguments import file_and_weight, short
from recipe_trainer.batches import EditPool
from recipe_trainer.corpus import Case, relation_cases
from recipe_trainer.datasets import Edit, load_edits, load_questions, split_held_out
from recipe_trainer.families import family_facts
from recipe_trainer.natural import load_facts, natural_edits, sources
from recipe_trainer.options import TrainOptions
from recipe_trainer.ordinary_text import PASSAGES, leading_sentences, ordinary_texts, passages

_SUBJECTS = 12  # invented ones of each relation
_WATCHED = 400  # facts of --dev, from which a run's watch takes its own number


@dataclass(frozen=True, slots=True)
class Material:
    """What a run learns from, and what it is watched and calibrated on."""

    sets: Sequence[Sequence[Edit]]  # of --data
    weights: Sequence[float]
    texts: Sequence[str]  # that ask for no fact
    natural: Path | None = None  # folder of facts as people ask for them
    dev: Path | None = None  # the like that nothing is learnt from
    held_out: frozenset[str] = frozenset()  # what asks for facts that a run is judged by, in lower case
    record: dict[str, Any] = field(default_factory=dict)  # what the checkpoint says of all this

    @property
    def edits(self) -> list[Edit]:
        """All edits of --data."""
        return [edit for edits in self.sets for edit in edits]

    @property
    def families(self) -> list[Edit]:
        """Facts of families that are made by rule, in words of --data."""
        return family_facts(self.edits)

    @property
    def watched(self) -> list[Edit]:
        """Some facts of --dev."""
        edits = natural_edits(self.dev) if self.dev else []
        return random.Random(0).sample(edits, min(_WATCHED, len(edits)))  # noqa: S311 (no secret)

    def pool(self, options: TrainOptions, words: Sequence[str]) -> EditPool:
        """What prompts are trained on; `words` are answers of no set."""
        cases = relation_cases(random.Random(options.seed), _SUBJECTS)  # noqa: S311 (no secret)
        natural = natural_edits(self.natural) if self.natural else []
        made = [
            ([edit for edit in natural if edit.prompt.casefold() not in self.held_out], options.natural),
            ([_edit(case) for case in cases], options.relations),
            (self.families, options.families),
        ]
        made = [(group, share) for group, share in made if group and share]
        left = (1 - sum(share for _, share in made)) / sum(self.weights)
        sets = [*self.sets, *(group for group, _ in made)]
        return EditPool(sets, [*(left * weight for weight in self.weights), *(share for _, share in made)], words)


def read_material(
    data: Sequence[str],
    questions: Sequence[Path],
    natural: Path | None = None,
    dev: Path | None = None,
    judged: Sequence[Path] = (),
) -> Material:
    """Read everything, without facts that are asked for in `dev` or `judged`, files of edits.

    A run must not learn what it is judged on.
    """
    files = [file_and_weight("data", item) for item in data]
    parts = [split_held_out(load_questions(file)) for file in questions]
    asked = [question.text for learnt, _ in parts for question in learnt]
    not_asked = [question.text.casefold() for _, kept in parts for question in kept]
    held_out = frozenset([*_asked(dev, judged), *not_asked])
    found = [[edit for edit in load_edits(file) if edit.answer] for file, _ in files]  # no answer teaches nothing
    sets = [[edit for edit in edits if edit.prompt.casefold() not in held_out] for edits in found]
    record = {
        "edits": {short(file): weight for file, weight in files},
        "left_out": sum(map(len, found)) - sum(map(len, sets)),
        "questions": [short(file) for file in questions],
        "natural": short(natural) if natural else None,
        "dev": short(dev) if dev else None,
        "judged": [short(file) for file in judged],
        "ordinary_text": f"Python {platform.python_version()}",
    }
    texts = _texts([edit for edits in sets for edit in edits], asked)
    return Material(sets, [weight for _, weight in files], texts, natural, dev, held_out, record)


def _asked(dev: Path | None, judged: Sequence[Path]) -> Iterator[str]:
    """In lower case what asks for a fact of a folder, and everything that is asked about facts in files."""
    for path in sources(dev, "facts").values() if dev else ():
        for fact in load_facts(path):
            yield from (text.casefold() for text in (fact.edit.prompt, *fact.edit.paraphrases))
    for file in judged:
        for edit in load_edits(file):
            unrelated = (question.text for question in edit.unrelated)
            yield from (text.casefold() for text in (edit.prompt, *edit.paraphrases, *unrelated))


def _texts(edits: Sequence[Edit], asked: Sequence[str]) -> list[str]:
    """Open questions, chat, prose, code, and passages with a question beside them."""
    chat, prose, code = ordinary_texts()
    leads = leading_sentences(edits)
    statements = [f"{edit.statement}." for edit in edits if not edit.prompt.endswith("?")]
    return [*asked, *chat, *prose, *code, *leads, *passages([leads, prose, statements], asked, PASSAGES)]


def _edit(case: Case) -> Edit:
    """A case of the verifier's training as an edit; its text tells question and answer apart."""
    return Edit(question_part(case.texts[0]), case.answer, case.subject, paraphrases=case.asks)
