"""More questions from the edits themselves: other wordings of a relation, and other relations of a subject.

A wording is a prompt with its subject taken out. Two wordings ask for the same relation where a record gives one as the
paraphrase of the other, or where both ask one subject and have one answer.
"""

import random
import re
import string
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace

from recipe_trainer.datasets import Edit

_GAP = "{}"
_OTHER_NUMBERS = 0.5  # share of siblings of a subject with digits that differ in one of them
_FEWEST_USES = 5  # of a wording that other subjects are put into
_OPENING = "\"'(0123456789"  # what a title or a number begins with
_ASKS_FOR_THE = re.compile(r"(?:what|who) (?:is|was|are|were) the (.+)\?", re.IGNORECASE)
_ASKS_WHICH = re.compile(r"(?:what|which) (\w+) (.+)\?", re.IGNORECASE)
_THE_IS = re.compile(r"The (.+) (?:is|was|are)")
_END = re.compile(r"('s|[?,.'])+$")


def with_subject(edit: Edit) -> Edit:
    """The edit, and where its data names no subject, the span of capitalised words as one."""
    return edit if edit.subject else replace(edit, subject=_capitalised(edit.prompt))


def wording(text: str, subject: str) -> str | None:
    """The text with a gap for its subject; None where it does not hold the subject once, or nothing else."""
    if not subject or text.count(subject) != 1:
        return None
    left = text.replace(subject, _GAP)
    return left if len(left.split()) > 2 else None  # noqa: PLR2004 ("{}, the" says nothing of a relation)


class Wordings:
    """The wordings of a set of edits, and which of them ask for the same or for another relation."""

    def __init__(self, edits: Sequence[Edit]) -> None:
        self._parent: dict[str, str] = {}
        self._link_paraphrases(edits)
        self._link_same_answers(edits)
        self._wordings: dict[str, list[str]] = defaultdict(list)  # of each relation
        for one in list(self._parent):
            self._wordings[self._relation(one)].append(one)
        self._answers: dict[str, set[str]] = defaultdict(set)  # of each relation
        self._uses: Counter[str] = Counter()  # of each wording as an edit's own prompt
        for edit in edits:
            if own := wording(edit.prompt, edit.subject):
                self._answers[self._relation(own)].add(edit.answer.casefold())
                self._uses[own] += 1
        self._uses_of_relation: Counter[str] = Counter()
        for one, uses in self._uses.items():
            self._uses_of_relation[self._relation(one)] += uses
        self._common = [one for one, uses in self._uses.items() if uses >= _FEWEST_USES]

    def relation(self, edit: Edit) -> str | None:
        """A name of the relation that an edit's prompt asks for, None where no wording is seen in it."""
        own = wording(edit.prompt, edit.subject)
        return None if own is None else self._relation(own)

    def same_relation(self, edit: Edit) -> tuple[str, ...]:
        """The edit's question in all other known wordings of its relation."""
        own = wording(edit.prompt, edit.subject)
        if own is None:
            return ()
        return tuple(
            other.replace(_GAP, edit.subject) for other in self._wordings.get(self._relation(own), ()) if other != own
        )

    def other_relations(self, edit: Edit) -> tuple[str, ...]:
        """Questions about the edit's subject that it does not answer.

        Wordings that share an answer with its own may ask for the same relation, and are left out. Of a relation that
        is seen too rarely that says nothing.
        """
        own = self.relation(edit)
        if own is None or self._uses_of_relation[own] < _FEWEST_USES:
            return ()
        question = edit.prompt.endswith("?")
        return tuple(
            other.replace(_GAP, edit.subject)
            for other in self._common
            if other.endswith("?") == question
            and (relation := self._relation(other)) != own
            and not self._answers[relation] & self._answers[own]
        )

    def _link_paraphrases(self, edits: Iterable[Edit]) -> None:
        for edit in edits:
            own = wording(edit.prompt, edit.subject)
            for paraphrase in edit.paraphrases:
                other = wording(paraphrase, edit.subject)
                if own and other:
                    self._link(own, other)

    def _link_same_answers(self, edits: Iterable[Edit]) -> None:
        by_fact: dict[tuple[str, str], list[str]] = defaultdict(list)
        for edit in edits:
            if own := wording(edit.prompt, edit.subject):
                by_fact[edit.subject, edit.answer].append(own)
        for first, *others in by_fact.values():
            for other in others:
                self._link(first, other)

    def _link(self, one: str, other: str) -> None:
        # Only whole questions say exactly what they ask: "{} is known for" follows half of all relations.
        if one.endswith("?") and other.endswith("?"):
            for each in (one, other):
                self._parent.setdefault(each, each)
            self._parent[self._relation(other)] = self._relation(one)

    def _relation(self, one: str) -> str:
        """The wording that stands for all of its relation."""
        path = []
        while (parent := self._parent.get(one, one)) != one:
            path.append(one)
            one = parent
        for passed in path:
            self._parent[passed] = one
        return one


def other_form(text: str) -> str | None:
    """A question as the beginning of a sentence, or the other way round; None where no rule fits.

    By rule and clumsy at times ("X was born in what?"), but no data set pairs the two forms, and people ask in both.
    """
    if text.endswith("?"):
        if found := _ASKS_FOR_THE.fullmatch(text):
            return f"The {found[1]} is"
        if found := _ASKS_WHICH.fullmatch(text):
            return f"The {found[1]} that {found[2]} is"
        return None
    if found := _THE_IS.fullmatch(text):
        return f"What is the {found[1]}?"
    return f"{text} what?"


def alias(random_: random.Random, subject: str, other: str) -> str:
    """Another name of a subject, by a rule that people's short forms follow; itself where no rule fits.

    `other` is any other subject, whose first word may come in as a middle name.
    """
    words = subject.split()
    names = [subject.casefold(), _without_accents(subject), subject.replace("-", " ")]
    if len(words) > 1 and words[0][0].isupper():
        initial = words[0][0]
        names += [" ".join([mark, *words[1:]]) for mark in (initial, f"{initial}.")]
        names.append(" ".join([words[0], other.split(maxsplit=1)[0], *words[1:]]))
    if len(words) > 2:  # noqa: PLR2004 (of two words each is needed)
        dropped = random_.randrange(len(words))
        if words[dropped].isalpha():  # without a number it is another name
            names.append(" ".join(words[:dropped] + words[dropped + 1 :]))
        names += _acronyms(words)
    return random_.choice([name for name in names if name != subject] or [subject])


def sibling(random_: random.Random, subject: str, other: str) -> str | None:
    """Another subject, which differs in one word or one digit; None where no rule fits.

    `other` is any other subject of as many words, one of which is put in.
    """
    if any(sign.isdigit() for sign in subject) and random_.random() < _OTHER_NUMBERS:
        return other_number(random_, subject)
    words, others = subject.split(), other.split()
    places = [
        place
        for place, (word, another) in enumerate(zip(words, others, strict=True))
        if word.casefold() != another.casefold() and word[0].isupper() and another[0].isupper()
    ]
    if len(words) == 1 or not places:
        return None
    place = random_.choice(places)
    return " ".join([*words[:place], others[place], *words[place + 1 :]])


def other_number(random_: random.Random, text: str) -> str:
    """The text with one of its digits changed, or of its capital letters if it has no digits; itself without either."""
    for kind in (string.digits, string.ascii_uppercase):
        if places := [place for place, sign in enumerate(text) if sign in kind]:
            place = random_.choice(places)
            return text[:place] + random_.choice(kind.replace(text[place], "")) + text[place + 1 :]
    return text


def _acronyms(words: Sequence[str]) -> list[str]:
    """The initials of the capitalised words, and what follows that begins with a digit."""
    initials = [word[0] for word in words if word[0].isupper()]
    numbers = [word for word in words if word[0].isdigit()]
    if len(initials) < 3:  # noqa: PLR2004 (two letters stand for too much)
        return []
    return [" ".join([joined, *numbers]) for joined in ("".join(initials), "".join(f"{one}." for one in initials))]


def _without_accents(text: str) -> str:
    return "".join(sign for sign in unicodedata.normalize("NFKD", text) if not unicodedata.combining(sign))


def _capitalised(prompt: str) -> str:
    """The words from the first capitalised one behind the first word to the last."""
    words = prompt.split(" ")
    places = [place for place, word in enumerate(words) if place and (word[:1].isupper() or word[:1] in _OPENING)]
    return _END.sub("", " ".join(words[places[0] : places[-1] + 1])) if places else ""
