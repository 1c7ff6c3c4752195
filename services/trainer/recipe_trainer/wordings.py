"""The subject in a prompt, other names of it, and other forms of a question, all by rule."""

import random
import re
import string
import unicodedata
from collections.abc import Sequence
from dataclasses import replace

from recipe_trainer.datasets import Edit

_GAP = "{}"
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
