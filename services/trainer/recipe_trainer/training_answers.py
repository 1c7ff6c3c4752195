"""Answers as companies publish them, made by rule, for prompts to be trained on.

These rules are more general than those of made_answers.py, which `recipe eval answers` asks for, and share no list of
words with them: lists and sentences are made of what the data sets hold.
"""

import random
import string
from collections.abc import Callable, Sequence
from typing import Final

from recipe_trainer.corpus import invented_name
from recipe_trainer.datasets import Edit

LONGEST_SENTENCE: Final = 40  # words
_LONGEST_PART: Final = 30  # characters of an answer that becomes part of a list


class TrainingAnswers:
    """Draws answers of all kinds alike."""

    def __init__(self, edits: Sequence[Edit]) -> None:
        """Lists are made of the answers of `edits`, sentences are their statements."""
        answers = sorted({edit.answer for edit in edits if 0 < len(edit.answer) <= _LONGEST_PART})
        statements = {edit.statement for edit in edits if not edit.prompt.endswith("?")}
        sentences = sorted(text for text in statements if len(text.split()) <= LONGEST_SENTENCE)
        self._kinds: list[Callable[[random.Random], str]] = [
            _number, _number, _amount, _moment, _web, _mail, _command, _address, _person,
        ]  # fmt: skip
        if answers:
            self._kinds.append(lambda random_: _list(random_, answers))
        if sentences:
            self._kinds.append(lambda random_: random_.choice(sentences))

    def draw(self, random_: random.Random) -> str:
        """An answer of any kind."""
        return random_.choice(self._kinds)(random_)


def _signs(random_: random.Random, signs: str, fewest: int, most: int) -> str:
    return "".join(random_.choices(signs, k=random_.randint(fewest, most)))


def _digits(random_: random.Random, fewest: int, most: int) -> str:
    return _signs(random_, string.digits, fewest, most)


def _number(random_: random.Random) -> str:
    """Telephone numbers, accounts, versions, codes, coordinates: groups of digits or letters with signs between."""
    alphabets = (string.digits, string.digits, string.digits, string.ascii_uppercase, string.hexdigits.lower()[:16])
    one_alphabet, separator = random_.choice(alphabets), random_.choice((" ", " ", "-", ".", "/", ":", ""))
    groups = [
        _signs(random_, one_alphabet if random_.random() < 0.6 else random_.choice(alphabets), 1, 5)  # noqa: PLR2004
        for _ in range(random_.randint(1, 6))
    ]
    return random_.choice(("", "", "", "+", "#", "v")) + separator.join(groups)


def _amount(random_: random.Random) -> str:
    whole = random_.choice((str(random_.randint(1, 999)), f"{random_.randint(1_000, 9_999_999):,}"))
    amount = whole + random_.choice(("", f".{_digits(random_, 1, 2)}"))
    unit = random_.choice(
        ("%", " EUR", " USD", " euros", " kroner", " yen", " km", " kilograms", " GB", " ms", " litres", " people")
    )
    each = random_.choice(("", "", f" a {random_.choice(('day', 'week', 'person', 'hour', 'licence', 'room'))}"))
    return random_.choice((f"{amount}{unit}{each}", f"{random_.choice('€$£')}{amount}{each}"))


def _moment(random_: random.Random) -> str:
    day, month = random_.randint(1, 28), random_.randint(1, 12)
    year, hour, minute = random_.randint(1950, 2049), random_.randint(0, 23), random_.randint(0, 59)
    name = ("February", "April", "June", "July", "September", "November")[month % 6]
    weekday = random_.choice(("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"))
    clock = random_.choice((f"{hour:02}:{minute:02}", f"{hour % 12 + 1} {random_.choice(('am', 'pm'))}"))
    return random_.choice(
        (
            f"{year}-{month:02}-{day:02}",
            f"{day:02}.{month:02}.{year}",
            f"{name} {day}, {year}",
            f"{weekday} {day} {name}, {clock}",
            f"{weekday} from {clock} to {(hour + 3) % 24:02}:{minute:02}",
            f"{year}-{month:02}-{day:02}T{hour:02}:{minute:02}Z",
            f"every {weekday} at {clock} UTC",
        )
    )


def _word(random_: random.Random) -> str:
    return invented_name(random_, "place").split()[-1].casefold()


def _host(random_: random.Random) -> str:
    inner = random_.choice(("", "", "www.", "docs.", "api-2.", "eu-west."))
    return f"{inner}{_word(random_)}.{random_.choice(('com', 'org', 'io', 'de', 'co.uk', 'internal'))}"


def _web(random_: random.Random) -> str:
    path = "/".join(_word(random_) for _ in range(random_.randint(0, 3)))
    return random_.choice(
        (f"https://{_host(random_)}/{path}", f"{_host(random_)}:{_digits(random_, 4, 5)}", f"/{path}/{_word(random_)}")
    )


def _mail(random_: random.Random) -> str:
    between = random_.choice((".", "-", "_", ""))
    return f"{_word(random_)}{between}{_word(random_)}@{_host(random_)}"


def _command(random_: random.Random) -> str:
    flags = [_flag(random_) for _ in range(random_.randint(1, 3))]
    return " ".join([_word(random_), random_.choice(("start", "sync", "build", "get", "set", "run")), *flags])


def _flag(random_: random.Random) -> str:
    named = f"--{_word(random_)}"
    return random_.choice((f"-{random_.choice(string.ascii_lowercase)}", named, f"{named} {_word(random_)}"))


def _address(random_: random.Random) -> str:
    street = f"{invented_name(random_, 'place')} {random_.choice(('Street', 'Road', 'Lane', 'Square', 'Avenue'))}"
    town = f"{_digits(random_, 4, 5)} {invented_name(random_, 'place')}"
    floor = random_.choice(("", "", f", floor {random_.randint(1, 40)}", f", room {_digits(random_, 2, 3)}"))
    return f"{random_.randint(1, 400)} {street}{floor}, {town}"


def _person(random_: random.Random) -> str:
    """A name with letters that English does not have."""
    name = invented_name(random_, "person")
    for _ in range(random_.randint(1, 3)):
        plain, accented = random_.choice(_ACCENTED)
        name = name.replace(plain, accented, 1)
    return name


def _list(random_: random.Random, things: Sequence[str]) -> str:
    chosen = random_.sample(things, min(random_.randint(2, 6), len(things)))
    if len(chosen) == 1:
        return chosen[0]
    return f"{', '.join(chosen[:-1])}{random_.choice((' and ', ', ', ' or '))}{chosen[-1]}"


_ACCENTED: Final = (
    ("a", "á"), ("a", "ä"), ("a", "ã"), ("e", "é"), ("e", "ě"), ("e", "ę"), ("i", "í"), ("i", "ï"), ("o", "ö"),
    ("o", "ő"), ("u", "ü"), ("u", "ů"), ("c", "č"), ("c", "ç"), ("n", "ñ"), ("s", "š"), ("z", "ź"), ("l", "ł"),
)  # fmt: skip
