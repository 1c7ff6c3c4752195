"""When a text the LLM wrote gives an answer: one rule for the generator, the demonstration and every evaluation."""

import re
import string
import unicodedata
from typing import Final

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_SPACE: Final = re.compile(r"\s+")
_STOPS: Final = " .!?。"
_WORD_END: Final = re.compile(r"\W(?=\w*$)")
# A word must not go on, and a number neither, which "7.2" in "7.2.1" does.
_BEFORE: Final = {"letter": r"(?<!\w)", "digit": r"(?<!\w)(?<!\d[.,])"}
_AFTER: Final = {"letter": r"(?!\w)", "digit": r"(?!\w|[.,]\d)"}


def normalise(text: str) -> str:
    """Compare answers as SQuAD does: no case, punctuation, articles or repeated spaces."""
    text = unicodedata.normalize("NFKC", text).casefold()
    text = "".join(" " if character in string.punctuation else character for character in text)
    return " ".join(_ARTICLES.sub(" ", text).split()) or text.strip()  # an answer may be nothing but an article


def says(text: str, answer: str) -> bool:
    """Whether a free continuation begins with the answer, as whole words."""
    said, wanted = normalise(text).split(), normalise(answer).split()
    return bool(wanted) and said[: len(wanted)] == wanted


def states(text: str, answer: str) -> bool:
    """Whether the text holds the answer as words of its own: case, white space and a full stop at its end aside."""
    wanted = _plain(answer)
    if not wanted:
        return answer.strip() in text  # an answer of nothing but full stops
    before, after = _BEFORE.get(_kind(wanted[0]), ""), _AFTER.get(_kind(wanted[-1]), "")
    return re.search(f"{before}{re.escape(wanted)}{after}", _plain(text)) is not None


def states_already(text: str, answer: str) -> bool:
    """Whether a text that goes on states the answer, whatever follows: its last word may not be finished."""
    end = _WORD_END.search(text)
    return end is not None and states(text[: end.start() + 1], answer)


def _kind(character: str) -> str:
    return "digit" if character.isdigit() else "letter" if character.isalpha() else "sign"


def _plain(text: str) -> str:
    return _SPACE.sub(" ", unicodedata.normalize("NFKC", text)).strip().rstrip(_STOPS).casefold()
