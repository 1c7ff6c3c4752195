"""Rows of numbers as payload: their bytes with shape, dtype and digest, checked on the way back."""

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

_DATA: Final = "data"
_DIGEST: Final = "sha256"


@dataclass(frozen=True, slots=True)
class Form:
    """What a stored value must be: any number of rows up to `most_rows` (None: no limit), each of `width` numbers."""

    dtype: str
    width: int
    row_bytes: int
    most_rows: int | None = None


def seal(data: bytes, rows: int, form: Form) -> dict[str, object]:
    """The bytes in base64, with their shape, dtype and SHA-256."""
    return {
        _DATA: base64.b64encode(data).decode("ascii"),
        "shape": [rows, form.width],
        "dtype": form.dtype,
        _DIGEST: hashlib.sha256(data).hexdigest(),
    }


def stored_digest(sealed: object) -> str:
    """The SHA-256, in hexadecimal, that a value was stored with; "" if what is stored names none."""
    digest = sealed.get(_DIGEST) if isinstance(sealed, Mapping) else None
    return digest if isinstance(digest, str) else ""


def stored_width(sealed: object) -> int:
    """How many numbers a row is said to have; 0 if that is not said."""
    match sealed.get("shape") if isinstance(sealed, Mapping) else None:
        case [int(), int(width)] if width >= 1:
            return width
    return 0


def unseal(sealed: object, form: Form) -> tuple[bytes, int]:
    """The bytes that `seal` was given and their rows; raises `ValueError` unless every check holds."""
    if not isinstance(sealed, Mapping) or not isinstance(sealed.get(_DATA), str):
        raise ValueError("it holds no data")  # noqa: TRY004  (a fault of the stored value, as are the others)
    if sealed.get("dtype") != form.dtype:
        raise ValueError(f"its dtype is {sealed.get('dtype')!r}, not {form.dtype!r}")
    rows = _rows(sealed.get("shape"), form)
    try:
        data = base64.b64decode(sealed[_DATA], validate=True)
    except ValueError as error:  # binascii.Error, or characters beyond ASCII
        raise ValueError(f"its data is not base64 ({error})") from error
    if len(data) != rows * form.row_bytes:
        raise ValueError(f"it holds {len(data)} bytes, not {rows * form.row_bytes}")
    if hashlib.sha256(data).hexdigest() != sealed.get(_DIGEST):
        raise ValueError("its SHA-256 does not match its data")
    return data, rows


def _rows(shape: object, form: Form) -> int:
    match shape:
        case [int(rows), int(width)] if rows >= 1 and width == form.width and rows <= (form.most_rows or rows):
            return rows
    raise ValueError(f"its shape is {shape}, not [{_bounds(form)}, {form.width}]")


def _bounds(form: Form) -> str:
    return "1 or more" if form.most_rows is None else f"1 to {form.most_rows}"
