"""Families of facts that differ in one name, number or date, as companies publish them and no public data set holds.

A question about a member that is not stored must hit none of its siblings. The families that a run trains on and those
that it is judged by share neither questions nor words.
"""

import json
import random
import re
import string
from calendar import month_name
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from typing import Any

from recipe_trainer.datasets import Edit, Question
from recipe_trainer.wordings import other_number, with_subject, wording

Words = Mapping[str, Sequence[str]]  # of each slot that is filled with words

_GAP = "{}"
_SLOT = re.compile(r"\{(\w+)\}")
MEMBERS = 130  # of each family to train on
LENDERS = 2_000  # edits whose words are borrowed, each by BORROWERS members of a family
BORROWERS = 3
WORDS = 16  # of each slot of a family
_SIBLINGS = 4  # questions about other members beside each fact
_NEAR = 0.6  # share of siblings whose number or code differs in one sign only
_MOST_DIGITS = 5
_YEARS = range(1990, 2030)
_MADE: Mapping[str, Callable[[random.Random], str]] = {  # what fills the slots that no words are given for
    "number": lambda random_: str(random_.randrange(10 ** random_.randint(1, _MOST_DIGITS))),
    "digit": lambda random_: random_.choice(string.digits),
    "day": lambda random_: str(random_.randint(1, 31)),
    "month": lambda random_: random_.choice(month_name[1:]),
    "year": lambda random_: str(random_.choice(_YEARS)),
    "twodigit": lambda random_: f"{random_.randint(1, 28):02}",
    "code": lambda random_: "".join(random_.choices(string.ascii_uppercase, k=random_.randint(1, 3))),
}
_TRIES = 50  # for each member that is to be new: small families have fewer members than are asked for


@dataclass(frozen=True, slots=True)
class Family:
    """What its members are called, with slots, and for each relation its wordings, with a gap for the member."""

    subject: str
    relations: tuple[tuple[str, ...], ...]


def family_facts(edits: Sequence[Edit]) -> list[Edit]:
    """Facts of the families to train on, always the same for the same edits, whose names and words they take."""
    random_, words = random.Random(0), _training_words(edits)  # noqa: S311 (no secret)
    families = [_family(record) for record in _data()["training"]]
    facts = [edit for family in families for edit in members(family, _few(words, WORDS, random_), random_, MEMBERS)]
    lenders = [with_subject(edit) for edit in random_.sample(edits, min(LENDERS, len(edits)))]
    return facts + [
        edit for lender in lenders for edit in _borrowing(lender, random_.choice(families).subject, words, random_)
    ]


def _borrowing(lender: Edit, pattern: str, words: Words, random_: random.Random) -> list[Edit]:
    """Facts that ask what an edit asks, in its words, of members of a family; none where its words name no subject."""
    texts = (lender.prompt, *lender.paraphrases)
    wordings = tuple(found for text in texts if (found := wording(text, lender.subject)) is not None)
    if not wordings:
        return []
    family = Family(pattern, (wordings,))
    few = _few(words, BORROWERS, random_)
    return [replace(edit, answer=lender.answer) for edit in members(family, few, random_, BORROWERS)]


def _few(words: Words, count: int, random_: random.Random) -> Words:
    """So many of each slot's words: members of a family with few share them, and are siblings."""
    return {slot: random_.sample(each, min(count, len(each))) for slot, each in words.items()}


def held_out_families() -> dict[str, Family]:
    """The families to evaluate on, by name."""
    return {name: _family(record) for name, record in _data()["held_out"].items()}


def held_out_words() -> Words:
    """Names and words of the families to evaluate on."""
    return {slot: words.split() for slot, words in _data()["held_out_words"].items()}


def members(family: Family, words: Words, random_: random.Random, count: int) -> list[Edit]:
    """Facts about different members, fewer if the family has not that many.

    Each has its other wordings as paraphrases, and as unrelated questions those about siblings of its subject, whether
    or not there are facts about them, and its other relations.
    """
    made: dict[tuple[str, int], Edit] = {}
    for _ in range(_TRIES * count):
        if len(made) == count:
            break
        values = _values(family.subject, words, random_)
        subject = _filled(family.subject, values)
        relation = random_.randrange(len(family.relations))
        if (subject, relation) not in made:
            made[subject, relation] = _member(family, relation, values, words, random_)
    return list(made.values())


def _member(family: Family, relation: int, values: list[str], words: Words, random_: random.Random) -> Edit:
    subject = _filled(family.subject, values)
    prompt, *others = random_.sample(family.relations[relation], len(family.relations[relation]))
    siblings = {_filled(family.subject, _sibling(family.subject, values, words, random_)) for _ in range(_SIBLINGS)}
    asked = [
        random_.choice(family.relations[relation]).replace(_GAP, sibling) for sibling in sorted(siblings - {subject})
    ]
    asked += [
        random_.choice(wordings).replace(_GAP, subject)
        for place, wordings in enumerate(family.relations)
        if place != relation
    ]
    return Edit(
        prompt=prompt.replace(_GAP, subject),
        answer=random_.choice(words["word"]),
        subject=subject,
        paraphrases=tuple(other.replace(_GAP, subject) for other in others),
        unrelated=tuple(map(Question, asked)),
    )


def _sibling(pattern: str, values: Sequence[str], words: Words, random_: random.Random) -> list[str]:
    """The values with one of them changed."""
    slots = _SLOT.findall(pattern)
    place = random_.randrange(len(slots))
    changed = list(values)
    if slots[place] not in words and slots[place] != "month" and random_.random() < _NEAR:
        changed[place] = other_number(random_, values[place])
    else:
        changed[place] = _value(slots[place], words, random_)
    return changed


def _values(pattern: str, words: Words, random_: random.Random) -> list[str]:
    return [_value(slot, words, random_) for slot in _SLOT.findall(pattern)]


def _value(slot: str, words: Words, random_: random.Random) -> str:
    return random_.choice(words[slot]) if slot in words else _MADE[slot](random_)


def _filled(pattern: str, values: Sequence[str]) -> str:
    left = iter(values)
    return _SLOT.sub(lambda _: next(left), pattern)


def _training_words(edits: Sequence[Edit]) -> Words:
    """Names and words out of the subjects and answers of edits, and of the families' own, none of those held out."""
    names = [words for edit in edits if len(words := edit.subject.split()) == 2 and all(map(_is_name, words))]  # noqa: PLR2004
    found = {
        "first": {first for first, _ in names},
        "last": {last for _, last in names},
        "word": {edit.answer for edit in edits if _is_name(edit.answer)},
    }
    held_out = {word for words in held_out_words().values() for word in words}
    own = {slot: set(words.split()) for slot, words in _data()["training_words"].items()}
    return {slot: sorted((words | found.get(slot, set())) - held_out) for slot, words in own.items()}


def _is_name(text: str) -> bool:
    return text.isalpha() and text.istitle()


def _family(record: Mapping[str, Any]) -> Family:
    return Family(record["subject"], tuple(map(tuple, record["relations"])))


@cache
def _data() -> Any:  # noqa: ANN401 (JSON)
    return json.loads(files("recipe_trainer").joinpath("data/families.json").read_text(encoding="utf-8"))
