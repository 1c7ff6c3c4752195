"""Facts as people ask for them: a folder of `facts.SOURCE.jsonl`, `pairs.SOURCE.jsonl` and `text.SOURCE.jsonl`."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from recipe_common.errors import FieldViolation, InvalidArgumentError
from recipe_trainer.datasets import Edit, Question, naming, records, tidy

PEOPLE: Final = frozenset({"human", "llm"})  # who words as people do, in `asks_wording`
LONGEST_ANSWER: Final = 40  # characters of an answer that a prompt is trained to say


@dataclass(frozen=True, slots=True)
class NaturalFact:
    """A fact, its other wordings as paraphrases and what looks alike as unrelated questions."""

    edit: Edit
    asks_wording: tuple[str, ...]  # of each paraphrase: human, llm or template


@dataclass(frozen=True, slots=True)
class Pair:
    """Two questions, or two sentences, and whether they say the same."""

    stored: str
    asked: str
    same: bool


def sources(folder: Path, kind: str) -> dict[str, Path]:
    """The files of a kind (facts, pairs or text) by the names of their sources."""
    if not folder.is_dir():
        raise InvalidArgumentError([FieldViolation("natural", f"there is no folder {folder}; correct the path")])
    return {path.name.split(".")[1]: path for path in sorted(folder.glob(f"{kind}.*.jsonl"))}


def load_facts(path: Path) -> list[NaturalFact]:
    """Read a file of facts. Raises InvalidArgumentError naming the record and what it lacks."""
    return [_named(path, index, record) for index, record in enumerate(records(path))]


def load_pairs(path: Path) -> list[Pair]:
    """Read a file of pairs, without those that ask nothing. Raises as `load_facts` does."""
    pairs = []
    for index, record in enumerate(records(path)):
        with naming(path, index):
            pairs.append(Pair(tidy(record["a"]), tidy(record["b"]), bool(record["same"])))
    return [pair for pair in pairs if pair.stored and pair.asked.casefold() not in ("", "n/a")]


def natural_edits(folder: Path) -> list[Edit]:
    """The facts of all sources that have a short answer and other wordings."""
    facts = [fact.edit for path in sources(folder, "facts").values() for fact in load_facts(path)]
    return [edit for edit in facts if edit.paraphrases and 0 < len(edit.answer) <= LONGEST_ANSWER]


def _named(path: Path, index: int, record: Mapping[str, Any]) -> NaturalFact:
    with naming(path, index):
        return _fact(record)


def _fact(record: Mapping[str, Any]) -> NaturalFact:
    answer, sentence = tidy(record["answer"] or ""), tidy(record["statement"] or "")
    asks = [(tidy(ask), wording) for ask, wording in zip(record["asks"], record["asks_wording"], strict=True)]
    edit = Edit(
        prompt=tidy(record["prompt"]),
        answer=answer,
        subject=tidy(record["subject"] or ""),
        paraphrases=_present(ask for ask, _ in asks),
        unrelated=tuple(Question(text) for text in _present(map(tidy, record["near_misses"]))),
        aliases=_present(map(tidy, record["aliases"])),
        sentence=sentence if answer and answer in sentence else "",
    )
    return NaturalFact(edit, tuple(wording for ask, wording in asks if ask))


def _present(texts: Iterable[str]) -> tuple[str, ...]:
    return tuple(text for text in texts if text)
