"""What the verifier is trained on: facts, what asks for each of them, and what looks alike but does not.

Sources are the published sets of edits, a folder of people's wordings (`facts.*.jsonl`, `pairs.*.jsonl`,
`text.*.jsonl`), and relations written by hand for this (`data/relations.jsonl`) about subjects whose names are made up.
"""

import json
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

from recipe_common.knowledge_text import knowledge_text, question_part
from recipe_trainer import hard_cases
from recipe_trainer.datasets import Edit, load_texts
from recipe_trainer.natural import PEOPLE, Pair, load_facts, load_pairs, sources

_MOST_ASKS: Final = 4  # of one fact, and as many near misses
_MOST_CASES: Final = 4_000  # of one source
_FEWER_CASES: Final = {  # of sources that are large, or made by template
    "simplequestions": 3_500, "qa2d": 3_500, "quora": 3_000, "counterfact": 2_200, "bear": 2_200, "cwq": 2_000,
    "disfl_qa": 1_500, "pararel": 1_500, "falseqa": 800,
}  # fmt: skip
_MOST_EDITS: Final = 6_000  # of --data, and as many of families that are made by rule
_MOST_TEXTS: Final = 22_000
_KEYWORDS, _SLIPS, _PRESENT, _WAYS = 0.4, 0.25, 0.25, 5  # shares of cases with such a question; rules that a case meets
LONGEST: Final = 130  # characters of a text: longer ones cost most of the encoding and teach little
_SUBJECTS_PER_RELATION: Final = 14
_LOOK_ALIKES: Final = 3  # other subjects that a relation is asked about beside each of its own
_LEFT_OUT: Final = frozenset(
    (
        "fever_symmetric",  # a pair with another value asks for the same
        "msrp",  # "the same" is loose there, and its licence is of its own kind
    )
)


@dataclass(frozen=True, slots=True)
class Case:
    """One fact, as it may be stored, and questions."""

    texts: tuple[str, ...]  # of the fact: with its answer, bare, with other names of its subject
    asks: tuple[str, ...]  # all of them for this fact
    near: tuple[str, ...]  # none of them
    subject: str = ""
    answer: str = ""
    source: str = ""


@dataclass(slots=True)
class Corpus:
    """Cases, and ordinary texts that ask for no fact."""

    cases: list[Case] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)


def read_corpus(
    edits: Sequence[Edit],
    natural: Path | None,
    ordinary: Iterable[str],
    seed: int,
    *,
    families: Sequence[Edit] = (),
    held_out: Set[str] = frozenset(),
) -> Corpus:
    """Everything but texts that are `held_out` (in lower case), in an order that depends on the seed alone."""
    random_ = random.Random(seed)  # noqa: S311 (no secret)
    corpus = Corpus(texts=list(ordinary))
    for source, group in (("edits", edits), ("families", families)):
        chosen = random_.sample(group, min(_MOST_EDITS, len(group)))
        corpus.cases.extend(_of_edit(random_, edit, source) for edit in chosen)
    if natural is not None:
        corpus.cases.extend(_natural_cases(random_, natural))
        for path in sources(natural, "text").values():
            texts = load_texts(path)
            corpus.texts.extend(random_.sample(texts, min(_MOST_CASES, len(texts))))
    corpus.cases.extend(relation_cases(random_, _SUBJECTS_PER_RELATION))
    cases = [_without(case, held_out) for case in corpus.cases if own_question(case).casefold() not in held_out]
    names = [case.subject for case in cases if case.subject]
    cases = [_with_hard_cases(random_, case, random_.choice(names)) for case in cases]
    corpus.cases = [_readable(case) for case in cases if len(case.texts[0]) <= LONGEST]
    corpus.texts = [text for text in corpus.texts if len(text) <= LONGEST and text.casefold() not in held_out]
    random_.shuffle(corpus.cases)
    random_.shuffle(corpus.texts)
    corpus.texts = corpus.texts[:_MOST_TEXTS]
    return corpus


def own_question(case: Case) -> str:
    """The question that a case is stored with."""
    return question_part(case.texts[0])


def _without(case: Case, held_out: Set[str]) -> Case:
    asks, near = (tuple(text for text in part if text.casefold() not in held_out) for part in (case.asks, case.near))
    return replace(case, asks=asks, near=near)


def _readable(case: Case) -> Case:
    """The case without its longest texts."""
    texts, asks, near = (
        tuple(text for text in part if len(text) <= LONGEST) for part in (case.texts, case.asks, case.near)
    )
    return replace(case, texts=texts, asks=asks, near=near)


def relation_cases(random_: random.Random, subjects: int) -> Iterator[Case]:
    """So many invented subjects of each relation that was written by hand, and questions about others like them."""
    for line in files("recipe_trainer").joinpath("data/relations.jsonl").read_text(encoding="utf-8").splitlines():
        relation = json.loads(line)
        names = _names_alike(random_, relation["subjects"], subjects + _LOOK_ALIKES)
        for name in names[:subjects]:
            others = random_.sample([each for each in names if each != name], _LOOK_ALIKES - 1)
            others.append(hard_cases.other_name(random_, name, random_.choice(others)))
            # A change may give the name itself, and what asks for the fact must not be taught as a near miss.
            yield _of_relation(random_, relation, name, [other for other in others if other != name])


def _names_alike(random_: random.Random, kind: str, count: int) -> list[str]:
    """Different names of a kind; two in three are made of parts of others, "Ann Cole" of "Ann Hill" and "Ben Cole"."""
    names = list(dict.fromkeys(invented_name(random_, kind) for _ in range(count // 3)))
    first = tuple(names)
    while len(names) < count:
        one, other = random_.choice(first).split(), random_.choice(first).split()
        made = " ".join([*one[:-1], other[-1]])
        if min(len(one), len(other)) == 1 or made in names:
            made = hard_cases.other_name(random_, random_.choice(first), random_.choice(first))
        if made not in names:
            names.append(made)
    return names


def _of_relation(random_: random.Random, relation: Mapping[str, Any], name: str, others: Sequence[str]) -> Case:
    asks = [*relation["questions"], *relation["long"], *relation["completions"], *relation["keywords"]]
    prompt = random_.choice([*relation["questions"], *relation["completions"], *relation["completions"]])
    answer = random_.choice(relation["answers"])
    chosen = [ask for ask in random_.sample(asks, 8) if ask != prompt][:7]
    lower = set(relation["keywords"])
    named = [ask.replace("{X}", name.casefold() if ask in lower else name) for ask in chosen]
    near = [text.replace("{X}", name) for text in random_.sample(relation["near"], min(6, len(relation["near"])))]
    near += [random_.choice(asks).replace("{X}", other) for other in others]
    prompt = prompt.replace("{X}", name)
    return Case(_texts(prompt, answer, ()), tuple(named), tuple(near), name, answer, "relations")


def _of_edit(random_: random.Random, edit: Edit, source: str) -> Case:
    asks = random_.sample(edit.paraphrases, min(_MOST_ASKS, len(edit.paraphrases)))
    near = [question.text for question in random_.sample(edit.unrelated, min(_MOST_ASKS, len(edit.unrelated)))]
    return Case(_texts(edit.prompt, edit.answer, ()), tuple(asks), tuple(near), edit.subject, edit.answer, source)


def _natural_cases(random_: random.Random, folder: Path) -> Iterator[Case]:
    """Cases of all facts and pairs in a folder; of a source that is large, the facts that people worded come first."""
    for name, path in sources(folder, "facts").items():
        facts = random_.sample(found := load_facts(path), len(found))
        facts.sort(key=lambda fact: not PEOPLE & set(fact.asks_wording))
        yield from (_of_fact(random_, fact.edit, name) for fact in facts[: _FEWER_CASES.get(name, _MOST_CASES)])
    for name, path in sources(folder, "pairs").items():
        if name not in _LEFT_OUT:
            pairs = load_pairs(path)
            most = min(len(pairs), _FEWER_CASES.get(name, _MOST_CASES))
            yield from (_of_pair(pair, name) for pair in random_.sample(pairs, most))


def _of_pair(pair: Pair, source: str) -> Case:
    asked = (pair.asked,)
    return Case((pair.stored,), asked if pair.same else (), () if pair.same else asked, source=source)


def _of_fact(random_: random.Random, edit: Edit, source: str) -> Case:
    texts = _texts(edit.prompt, edit.answer, edit.aliases)
    case = replace(_of_edit(random_, edit, source), texts=(*texts, edit.sentence) if edit.sentence else texts)
    if not (edit.aliases and edit.subject and edit.subject in edit.prompt):
        return case
    return replace(case, asks=(*case.asks, edit.prompt.replace(edit.subject, random_.choice(edit.aliases))))


def _texts(prompt: str, answer: str | None, aliases: Sequence[str]) -> tuple[str, ...]:
    if not answer:
        return (prompt,)
    told = knowledge_text(prompt, answer)
    return (told, knowledge_text(prompt, answer, aliases)) if aliases else (told,)


def _with_hard_cases(random_: random.Random, case: Case, other: str) -> Case:
    """The case with a few more questions by rule; its own words are always among what asks for it."""
    own = own_question(case)
    asked = random_.choice([own, *case.asks])
    more = {
        hard_cases.keywords(random_, asked, case.subject): _KEYWORDS,
        hard_cases.with_slip(random_, asked): _SLIPS,
        hard_cases.at_present(random_, asked): _PRESENT,
    }
    asks = [*case.asks, own, *(made for made, share in more.items() if made and random_.random() < share)]
    made = (way(random_.choice([own, *case.asks])) for way in _ways(random_, case.subject, other))
    near = [*case.near, *(text for text in made if text and text not in asks)]
    return replace(case, asks=tuple(dict.fromkeys(asks)), near=tuple(dict.fromkeys(near)))


def _ways(random_: random.Random, subject: str, other: str) -> list[Callable[[str], str | None]]:
    """Some of the rules that make a question ask for something else."""
    once: list[Callable[[str], str | None]] = [
        hard_cases.negated,
        lambda text: hard_cases.with_other_question_word(random_, text),
    ]
    twice: list[Callable[[str], str | None]] = [
        lambda text: hard_cases.at_another_time(random_, text),
        lambda text: hard_cases.with_other_qualifier(random_, text),
        lambda text: hard_cases.turned_round(random_, text, subject),
        lambda text: _about_another(random_, text, subject, other),
    ]
    return random_.sample([*once, *twice, *twice], _WAYS)


def _about_another(random_: random.Random, text: str, subject: str, other: str) -> str | None:
    if not subject or subject not in text:
        return None
    name = hard_cases.other_name(random_, subject, other)
    return None if name == subject else text.replace(subject, name)


_KINDS: Final[Mapping[str, Sequence[str]]] = {
    "company": ("{} {S}", "{} {S}", "{}", "{} & {}", "{}{} {S}"),
    "organisation": ("the {} {S}", "{} {S}", "the {} Foundation", "the {} Institute", "{} Council"),
    "product": ("{} {n}", "the {} {P}", "{} {P}", "{} {n} {P}", "the {}-{n}"),
    "software": ("{}", "{}DB", "{} {P}", "{} Server", "{} OS", "{} {n}", "the {} app", "{}-api"),
    "person": ("{F} {L}", "{F} {L}", "{F} {L}", "{F} {}", "{F} {F} {L}", "Dr {L}", "{F} {L}-{}"),
    "place": ("{}", "{}", "{}land", "{}ia", "Port {}", "New {}", "{} Bay"),
    "team": ("{} United", "the {} {A}", "FC {}", "{} City", "{} Rovers"),
    "event": ("the {} Festival", "{} Conf", "the {} Open", "{} {n}", "the {} Summit", "the {} Fair"),
    "service": ("{} {P}", "{}", "the {} portal", "{} Plus", "{} Mobile", "the {} card"),
    "work": ("{} {A}", "The {A} of {}", "The {} {A}", "{}", "A {A} for {}"),
}


def invented_name(random_: random.Random, kind: str) -> str:
    """A name that nobody has, for a kind of subject; where the kind is a rare one, the name says what it is."""
    patterns = _KINDS.get(kind)
    if patterns is None:
        what = (
            kind.removeprefix("other:")
            .split(",")[0]
            .split(" or ")[0]
            .split("(")[0]
            .removeprefix("a ")
            .removeprefix("an ")
            .strip()
        )
        patterns = ("the {} " + what, "{} " + what.title(), "{}", "{} {n}")
    text, words = random_.choice(list(patterns)), _words()
    number = str(random_.choice((random_.randint(2, 99), random_.randint(100, 9999))))
    fillings: Mapping[str, Callable[[], str]] = {
        "{}": lambda: _syllables(random_),
        "{F}": lambda: random_.choice(words["first"]),
        "{L}": lambda: random_.choice(words["last"]),
        "{S}": lambda: random_.choice(words["company"]),
        "{P}": lambda: random_.choice(words["product"]),
        "{A}": lambda: random_.choice(words["work"]),
        "{n}": lambda: number,
    }
    for mark, filling in fillings.items():
        while mark in text:
            text = text.replace(mark, filling(), 1)
    return text


@cache
def _words() -> Mapping[str, Sequence[str]]:
    found = json.loads(files("recipe_trainer").joinpath("data/names.json").read_text(encoding="utf-8"))
    return {kind: words.split() for kind, words in found.items()}


def _syllables(random_: random.Random) -> str:
    words = _words()
    closes = [*words["close"], *[""] * 8]
    parts = [
        random_.choice(words["begin"]) + random_.choice(words["middle"]) + random_.choice(closes)
        for _ in range(random_.choice((1, 2, 2, 2, 3)))
    ]
    word = "".join(parts).capitalize()
    return word if len(word) > 2 else f"{word}ra"  # noqa: PLR2004 (too short for a name)
