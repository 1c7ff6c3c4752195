"""The numbers in a text as a vector, so that "store 6890" is found among a thousand other stores.

A text encoder hardly tells one number from another. So the vector that is searched has, beside the encoder's, a part in
which each word with a digit is a random direction (feature hashing, arXiv 0902.2206): texts with the same numbers agree
there, and texts with others do not.
"""

from typing import Final
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

NUMBERS: Final = 64  # multiple of 32
WEIGHT: Final = 0.6  # of the numbers' part against the encoder's, whose length is 1
_MARKS: Final = ".,;:!?'\"()[]{}<>…“”‘’"  # noqa: RUF001 (as people write them)
_POSSESSIVE: Final = ("'s", "’s")  # noqa: RUF001


def number_words(text: str) -> list[str]:
    """The different words with a digit, and of joined ones such as "db-eu-013.prod" also the parts with a digit."""
    found: dict[str, None] = {}
    for each in text.casefold().split():
        word = each.strip(_MARKS)
        if word.endswith(_POSSESSIVE):
            word = word[:-2]
        if _holds_digit(word):
            parts = "".join(sign if sign.isalnum() else " " for sign in word).split()
            found |= dict.fromkeys([word, *filter(_holds_digit, parts)])
    return list(found)


def number_signature(text: str) -> NDArray[np.float32]:
    """[NUMBERS], of length WEIGHT, or zeros for a text without a digit."""
    total = np.zeros(NUMBERS, np.float32)
    for word in number_words(text):
        hashed = b"".join(crc32(f"{part}#{word}".encode()).to_bytes(4, "little") for part in range(NUMBERS // 32))
        total += np.unpackbits(np.frombuffer(hashed, np.uint8)).astype(np.float32) * 2 - 1
    length = float(np.linalg.norm(total))
    return total * (WEIGHT / length) if length else total


def _holds_digit(word: str) -> bool:
    return any(sign.isdigit() for sign in word)
