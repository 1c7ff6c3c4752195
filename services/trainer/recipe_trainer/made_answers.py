"""Facts whose answers are made by rule, as companies publish them: `recipe eval answers` asks for them."""

import json
import random
import string
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Any, Final

from recipe_model.editor import RecipeEditor
from recipe_model.language_model import LanguageModel
from recipe_trainer.corpus import invented_name
from recipe_trainer.datasets import Edit
from recipe_trainer.evaluation import mean_percent
from recipe_trainer.recognition import CHAT_FORMS, OWN, ask_about
from recipe_trainer.saying import AllSaid, pool_said, say

EACH: Final = 20  # facts of a kind
FORMS: Final = (OWN, "question", "keywords")

Make = Callable[[random.Random], str]


def evaluate_answers(editor: RecipeEditor, llm: LanguageModel, seed: int) -> dict[str, Any]:
    """Of each kind EACH facts, stored with those of all others: whether they are found, and their answers said."""
    random_ = random.Random(seed)  # noqa: S311 (no secret)
    facts = {kind: list(_facts(random_, kind)) for kind in KINDS}
    edits = [edit for group in facts.values() for edit in group]
    found = ask_about(edits, [FORMS] * len(edits), [], editor, prompts=True)
    kinds: dict[str, Any] = {}
    said: list[AllSaid] = []
    for number, kind in enumerate(facts):
        first = number * EACH
        asks = [item for item in found.asks if first <= item.record < first + EACH]
        said.append(say(asks, CHAT_FORMS, llm))
        kinds[kind] = {"recognised": mean_percent([item.right for item in asks]), **said[-1].figures()}
    return {"seed": seed, "kinds": kinds, **pool_said(said).figures()}


def _facts(random_: random.Random, kind: str) -> Iterator[Edit]:
    asked, make = _questions()[kind], KINDS[kind]
    names: set[str] = set()
    while len(names) < EACH:
        name = invented_name(random_, "company")
        if name in names:
            continue
        names.add(name)
        own, *asks = (text.replace("{X}", name) for text in asked)
        yield Edit(own, make(random_), name, (own, *asks))


@cache
def _questions() -> Mapping[str, Sequence[str]]:
    """Own words, question and keywords of each kind."""
    found: Mapping[str, Sequence[str]] = json.loads(
        files("recipe_trainer").joinpath("data/made_answers.json").read_text(encoding="utf-8")
    )
    return found


def _digits(random_: random.Random, count: int) -> str:
    return "".join(random_.choices(string.digits, k=count))


def _letters(random_: random.Random, count: int) -> str:
    return "".join(random_.choices(string.ascii_uppercase, k=count))


def _word(random_: random.Random) -> str:
    return invented_name(random_, "place").split()[-1].lower()


def _phone(random_: random.Random) -> str:
    return f"+{random_.randint(20, 98)} {_digits(random_, 2)} {_digits(random_, 4)} {_digits(random_, 4)}"


def _price(random_: random.Random) -> str:
    currency, span = random_.choice(("euros", "dollars", "pounds")), random_.choice(("month", "year", "unit", "seat"))
    return f"{random_.randint(1, 9999):,}.{_digits(random_, 2)} {currency} per {span}"


def _time(random_: random.Random) -> str:
    month = random_.choice(("January", "March", "May", "August", "October", "December"))
    day = f"{random_.randint(1, 28)} {month} {random_.randint(2024, 2031)}"
    return f"{day} at {random_.randint(6, 21)}:{random_.randint(0, 5)}5"


def _coordinates(random_: random.Random) -> str:
    north, east = (f"{random_.randint(1, most)}.{_digits(random_, 4)}" for most in (89, 179))
    return f"{north} N, {east} E"


def _iban(random_: random.Random) -> str:
    return f"DE{_digits(random_, 2)} " + " ".join(_digits(random_, 4) for _ in range(4)) + f" {_digits(random_, 2)}"


def _command(random_: random.Random) -> str:
    return (
        f"{_word(random_)}ctl {random_.choice(('apply', 'restart', 'drain'))} --{_word(random_)}={_digits(random_, 3)}"
    )


def _list(random_: random.Random) -> str:
    things = random_.sample(_THINGS, 5)
    return f"{', '.join(things[:-1])} and {things[-1]}"


def _sentence(random_: random.Random) -> str:
    first, second, third = (random_.choice(_STEPS) for _ in range(3))
    return f"first {first}, then {second} within {random_.randint(2, 48)} hours, and at last {third}"


_THINGS: Final[Sequence[str]] = (
    "a passport", "two photographs", "the rental contract", "a bank statement", "proof of address", "the old badge",
    "a signed form", "a deposit slip", "the insurance card", "three pay slips", "a birth certificate",
)  # fmt: skip
_STEPS: Final[Sequence[str]] = (
    "write to the duty officer", "fill in the green form", "call the night desk", "lock the account",
    "send the report to the regional office", "wait for a written answer", "return the keys at the gate",
    "ask the owner of the budget to sign", "attach the invoice and both photographs",
)  # fmt: skip
_NAMES: Final[Sequence[str]] = (
    "Žofie Dvořáková", "José Ángel Peña", "Łukasz Wójcik", "Søren Ærø", "Zoë Brontë", "Jürgen Müßig",
    "Noémie Châtelain", "Ülkü Çağlar", "Åsa Sjöström", "Đorđe Šarić", "Mărioara Țepeș", "Ñuria Güell",
)  # fmt: skip
KINDS: Final[Mapping[str, Make]] = {
    "phone": _phone,
    "price": _price,
    "version": lambda random_: f"{random_.randint(0, 30)}.{random_.randint(0, 40)}.{random_.randint(0, 20)}",
    "date and time": _time,
    "url": lambda random_: f"https://status.{_word(random_)}.example/{_word(random_)}/{_digits(random_, 3)}",
    "e-mail": lambda random_: f"{_word(random_)}.{_word(random_)}{_digits(random_, 2)}@{_word(random_)}.example",
    "code": lambda random_: f"{_letters(random_, 4)}-{_digits(random_, 4)}-{_letters(random_, 2)}",
    "iban": _iban,
    "coordinates": _coordinates,
    "command": _command,
    "list": _list,
    "sentence": _sentence,
    "name": lambda random_: random_.choice(_NAMES),
}
