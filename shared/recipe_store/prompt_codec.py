"""Prompts p_k [l, d], l from 1 to MAX_PROMPT_TOKENS, as payload that is checked on the way back."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from recipe_store.errors import CorruptPromptError
from recipe_store.sealed import Form, seal, unseal

MAX_PROMPT_TOKENS: Final = 256  # l at most

_BYTES: Final = np.dtype("<f2")


def encode_prompt(prompt: NDArray[np.float16]) -> dict[str, object]:
    """The little-endian bytes of a prompt [l, d], sealed."""
    rows, width = prompt.shape
    return seal(np.ascontiguousarray(prompt, dtype=_BYTES).tobytes(), rows, _form(width))


def decode_prompt(sealed: object, width: int, *, namespace: str, fact_id: str) -> NDArray[np.float16]:
    """The prompt [l, `width`] that `encode_prompt` was given; raises `CorruptPromptError` unless every check holds."""
    try:
        data, rows = unseal(sealed, _form(width))
    except ValueError as error:
        raise CorruptPromptError(namespace, fact_id, str(error)) from error
    return np.frombuffer(data, dtype=_BYTES).reshape(rows, width).astype(np.float16)


def _form(width: int) -> Form:
    return Form("float16", width, width * _BYTES.itemsize, MAX_PROMPT_TOKENS)
