"""Prompts p_k [l, d] as payload, readable by people and checked on the way back."""

import base64
import binascii
import hashlib
from collections.abc import Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from recipe_store.errors import CorruptPromptError

DTYPE: Final = "float16"
_BYTES: Final = np.dtype("<f2")


def encode_prompt(prompt: NDArray[np.float16]) -> dict[str, object]:
    """The prompt's little-endian bytes in base64, with its shape, dtype and the SHA-256 of the bytes."""
    data = np.ascontiguousarray(prompt, dtype=_BYTES).tobytes()
    return {
        "data": base64.b64encode(data).decode("ascii"),
        "shape": list(prompt.shape),
        "dtype": DTYPE,
        "sha256": hashlib.sha256(data).hexdigest(),
    }


def stored_digest(encoded: object) -> str:
    """The SHA-256, in hexadecimal, that a prompt was stored with; "" if what is stored names none."""
    digest = encoded.get("sha256") if isinstance(encoded, Mapping) else None
    return digest if isinstance(digest, str) else ""


def decode_prompt(encoded: object, shape: tuple[int, int], *, namespace: str, fact_id: str) -> NDArray[np.float16]:
    """The prompt that `encode_prompt` was given; raises `CorruptPromptError` unless every check holds."""
    try:
        data = _checked_bytes(encoded, shape)
    except ValueError as error:
        raise CorruptPromptError(namespace, fact_id, str(error)) from error
    return np.frombuffer(data, dtype=_BYTES).reshape(shape).astype(np.float16)


def _checked_bytes(encoded: object, shape: tuple[int, int]) -> bytes:
    if not isinstance(encoded, Mapping) or not isinstance(encoded.get("data"), str):
        raise ValueError("it holds no data")  # noqa: TRY004  (a fault of the stored value, as are the others)
    if encoded.get("dtype") != DTYPE:
        raise ValueError(f"its dtype is {encoded.get('dtype')!r}, not {DTYPE!r}")
    if encoded.get("shape") != list(shape):
        raise ValueError(f"its shape is {encoded.get('shape')}, not {list(shape)}")
    try:
        data = base64.b64decode(encoded["data"], validate=True)
    except binascii.Error as error:
        raise ValueError(f"its data is not base64 ({error})") from error
    if len(data) != shape[0] * shape[1] * _BYTES.itemsize:
        raise ValueError(f"it holds {len(data)} bytes, not {shape[0] * shape[1] * _BYTES.itemsize}")
    if hashlib.sha256(data).hexdigest() != encoded.get("sha256"):
        raise ValueError("its SHA-256 does not match its data")
    return data
