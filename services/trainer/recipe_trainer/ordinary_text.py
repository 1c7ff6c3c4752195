"""Ordinary text that no fact may answer: prose and code that come with Python, and chat.

Prose and code depend on the Python version; which one a checkpoint was trained with stands in its metadata.
"""

import random
import sysconfig
from collections.abc import Iterable, Sequence
from importlib.resources import files
from pathlib import Path

from recipe_trainer.datasets import Edit

_MODULES = ("argparse", "ast", "calendar", "csv", "doctest", "optparse", "shutil", "smtplib", "tarfile", "textwrap")
_SENTENCES = range(2, 9)  # of a passage
_LAYOUTS = (
    "{text}",
    "{text}",
    "{text} {question}",
    "{text}\n\n{question}",
    "{question}\n\n{text}",
    "Read the text and answer.\n\n{text}\n\n{question}",
    "Context: {text}\n\nQuestion: {question}\n\nAnswer:",
    "Passage: {text}\nQ: {question}\nA:",
)
_SHORTEST, _LONGEST = 12, 240  # characters of a text
PASSAGES = 5_000  # that a run draws from


def ordinary_texts() -> list[list[str]]:
    """Chat, prose paragraph by paragraph, and code line by line, each text once."""
    return [list(dict.fromkeys(texts)) for texts in (_chat(), _prose(), _code())]


def leading_sentences(edits: Iterable[Edit]) -> list[str]:
    """Sentences that stand in front of the question in some paraphrases of CounterFact, each once."""
    leads = (paraphrase.rpartition(". ")[0] for edit in edits for paraphrase in edit.paraphrases)
    return [f"{lead}." for lead in dict.fromkeys(leads) if len(lead) >= _SHORTEST]


def passages(sentences: Sequence[Sequence[str]], questions: Sequence[str], count: int) -> list[str]:
    """Texts of several sentences, most with a question beside them, as people put them to a model; always the same.

    `sentences` are groups that are drawn from equally often.
    """
    random_ = random.Random(0)  # noqa: S311 (no secret)
    groups = [group for group in sentences if group]
    return [_passage(random_, groups, questions) for _ in range(count if groups and questions else 0)]


def _passage(random_: random.Random, groups: Sequence[Sequence[str]], questions: Sequence[str]) -> str:
    text = " ".join(random_.choice(random_.choice(groups)) for _ in range(random_.choice(_SENTENCES)))
    return random_.choice(_LAYOUTS).format(text=text, question=random_.choice(questions))


def _chat() -> list[str]:
    return files("recipe_trainer").joinpath("data/chat.txt").read_text(encoding="utf-8").splitlines()


def _prose() -> list[str]:
    from pydoc_data.topics import topics  # noqa: PLC0415 (half a megabyte that only training needs)

    paragraphs = (paragraph for topic in topics.values() for paragraph in topic.split("\n\n"))
    return [text for paragraph in paragraphs if _SHORTEST <= len(text := " ".join(paragraph.split())) <= _LONGEST]


def _code() -> list[str]:
    folder = Path(sysconfig.get_path("stdlib"))
    lines = (line for module in _MODULES for line in (folder / f"{module}.py").read_text("utf-8").splitlines())
    return [text for line in lines if _SHORTEST <= len(text := line.strip()) <= _LONGEST]
