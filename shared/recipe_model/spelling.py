"""How a text is spelled, as a vector that a slip of the keyboard hardly moves and another number moves much.

A word-piece encoder reads a misspelled name as other pieces, and so as another name; most of its character n-grams
stay. They are those of fastText (arXiv 1607.04606), put into a vector of fixed size by feature hashing (arXiv
0902.2206). A number is no misspelled other number: what holds a digit is taken as a whole.
"""

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from zlib import crc32

import torch
from torch import Tensor, nn
from torch.nn import functional

NGRAMS = (3, 4)  # characters, with the marks of a word's beginning and end
NUMBER_CODES = 16  # of a word with a digit: as much as a long word, however short the number is
BUCKETS = 1 << 16  # codes that share one share its weight
_PLACE_SHIFT, _SIGN_SHIFT = 16, 31  # bits of a code: 16 of the bucket, 15 of the place, 1 of the sign
_PLACES = 1 << (_SIGN_SHIFT - _PLACE_SHIFT)
_WORD = re.compile(r"\w+")
_JOINED = re.compile(r"\w+(?:[-./:,]\w+)+")
_DIGIT = re.compile(r"\d")


def spelling_codes(text: str) -> list[int]:
    """32-bit codes of a text's different parts, whatever their case.

    Those of a word are its character n-grams. Those of a word with a digit, and of joined words with one such as
    "db-eu-013.prod", change all together with any of its characters.
    """
    folded = text.casefold()
    joined = (words for words in _JOINED.findall(folded) if _DIGIT.search(words))
    codes = (code for word in (*_WORD.findall(folded), *joined) for code in _codes_of_word(word))
    return list(dict.fromkeys(codes))


@lru_cache(maxsize=1 << 14)  # most words of a question stand in every other
def _codes_of_word(word: str) -> tuple[int, ...]:
    if _DIGIT.search(word):
        return tuple(crc32(f"{place}#{word}".encode()) for place in range(NUMBER_CODES))
    marked = f"<{word}>"
    starts = ((length, start) for length in NGRAMS for start in range(max(1, len(marked) - length + 1)))
    return tuple(crc32(marked[start : start + length].encode()) for length, start in starts)


class Spelling(nn.Module):
    """Texts to weighted bags of their codes [b, g], each of length `scale`; a text without words to zeros.

    A bucket's weight starts as the inverse document frequency of its codes and is trained.
    """

    scale: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        if size > _PLACES:
            raise ValueError(f"spelling: {size} is more than the {_PLACES} places that a code can name")
        self.size = size
        self.weight = nn.Parameter(torch.ones(BUCKETS))
        self.register_buffer("scale", torch.ones(()))

    def forward(self, texts: Sequence[str]) -> Tensor:
        codes_of = [spelling_codes(text) for text in texts]
        device = self.weight.device
        rows = torch.tensor([row for row, codes in enumerate(codes_of) for _ in codes], dtype=torch.long, device=device)
        codes = torch.tensor([code for codes in codes_of for code in codes], dtype=torch.long, device=device)
        places = (codes >> _PLACE_SHIFT) % _PLACES % self.size
        signs = 1 - 2 * (codes >> _SIGN_SHIFT)
        values = self.weight[codes % BUCKETS] * signs
        bags = torch.zeros(len(texts), self.size, device=device).index_put((rows, places), values, accumulate=True)
        return self.scale * functional.normalize(bags, dim=-1)

    @torch.no_grad()
    def start(self, texts: Iterable[str]) -> None:
        """Weigh each bucket by the inverse document frequency of its codes in typical texts."""
        counts = torch.zeros(BUCKETS)
        total = 0
        for text in texts:
            counts[list({code % BUCKETS for code in spelling_codes(text)})] += 1
            total += 1
        self.weight.copy_(torch.log((total + 1) / (counts + 1)))
