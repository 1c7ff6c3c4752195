"""The text that is encoded for a fact: what its publisher wrote, with marks where answer and aliases begin."""

from collections.abc import Sequence
from typing import Final

# Each one word to BERT-like tokenizers, and rare in what people write.
ANSWER_MARK: Final = "→"
ALIAS_MARK: Final = "≡"  # before other names of the subject
MAX_ALIASES: Final = 8  # that are read
_INSTEAD: Final = str.maketrans({ANSWER_MARK: "->", ALIAS_MARK: "="})  # for a mark that a publisher wrote


def knowledge_text(prompt: str, answer: str, aliases: Sequence[str] = ()) -> str:
    """k = (prompt, answer) as one text: "prompt → answer ≡ alias, alias"."""
    return _with_aliases(f"{_plain(prompt)} {ANSWER_MARK} {_plain(answer)}", aliases)


def statement_text(statement: str, aliases: Sequence[str] = ()) -> str:
    """A statement whose answer is not known apart: "statement ≡ alias, alias"."""
    return _with_aliases(_plain(statement), aliases)


def sentence(statement: str) -> str:
    """A statement as a sentence of a text: with a full stop, unless it brings one."""
    told = statement.rstrip()
    return told if told.endswith((".", "!", "?")) else f"{told}."


def question_part(text: str) -> str:
    """What a text holds before any mark: the prompt or the statement alone, as it would be asked for."""
    return text.partition(ALIAS_MARK)[0].partition(ANSWER_MARK)[0].strip()


def split_at_mark(text: str) -> tuple[str, str | None]:
    """The statement without marks and aliases, and the answer; None in a text that marks none."""
    told = text.partition(ALIAS_MARK)[0].strip() if ALIAS_MARK in text else text
    prompt, mark, answer = told.partition(ANSWER_MARK)
    return (f"{prompt.strip()} {answer.strip()}", answer.strip()) if mark else (told, None)


def _plain(words: str) -> str:
    return words.translate(_INSTEAD)


def _with_aliases(text: str, aliases: Sequence[str]) -> str:
    names = [_plain(alias).strip() for alias in aliases[:MAX_ALIASES] if alias.strip()]
    return f"{text} {ALIAS_MARK} {', '.join(names)}" if names else text
