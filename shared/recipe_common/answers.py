"""When a text the LLM wrote gives an answer: one rule for the demonstration and for every evaluation."""

import re
import string
import unicodedata

_ARTICLES = re.compile(r"\b(a|an|the)\b")


def normalise(text: str) -> str:
    """Compare answers as SQuAD does: no case, punctuation, articles or repeated spaces."""
    text = unicodedata.normalize("NFKC", text).casefold()
    text = "".join(" " if character in string.punctuation else character for character in text)
    return " ".join(_ARTICLES.sub(" ", text).split()) or text.strip()  # an answer may be nothing but an article


def says(text: str, answer: str) -> bool:
    """Whether a free continuation begins with the answer, as whole words."""
    said, wanted = normalise(text).split(), normalise(answer).split()
    return bool(wanted) and said[: len(wanted)] == wanted
