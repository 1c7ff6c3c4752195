"""Token states as payload that is checked on the way back."""

from typing import Final

import numpy as np

from recipe_common.token_states import TokenStates
from recipe_store.errors import CorruptTokensError
from recipe_store.sealed import Form, seal, stored_width, unseal

# All ids come first, then all states, then all roles, so that each begins where its numbers may be read in place.
_DTYPE: Final = "int32+float16+uint8"
_IDS: Final = np.dtype("<i4")
_STATES: Final = np.dtype("<f2")
_ROLES: Final = np.dtype("<u1")


def encode_tokens(tokens: TokenStates) -> dict[str, object]:
    """The little-endian bytes of t tokens with states [t, h], sealed."""
    rows, width = tokens.states.shape
    parts = ((tokens.ids, _IDS), (tokens.states, _STATES), (tokens.roles, _ROLES))
    data = b"".join(np.ascontiguousarray(part, dtype=dtype).tobytes() for part, dtype in parts)
    return seal(data, rows, _form(width))


def decode_tokens(sealed: object, *, namespace: str, fact_id: str) -> TokenStates:
    """The tokens that `encode_tokens` was given, read-only; raises `CorruptTokensError` unless every check holds."""
    width = stored_width(sealed)
    try:
        data, rows = unseal(sealed, _form(width))
    except ValueError as error:
        raise CorruptTokensError(namespace, fact_id, str(error)) from error
    ids = np.frombuffer(data, _IDS, rows)
    states = np.frombuffer(data, _STATES, rows * width, offset=ids.nbytes).reshape(rows, width)
    roles = np.frombuffer(data, _ROLES, rows, offset=ids.nbytes + states.nbytes)
    return TokenStates(ids.astype(np.int32, copy=False), roles, states.astype(np.float16, copy=False))


def _form(width: int) -> Form:
    return Form(_DTYPE, width, _IDS.itemsize + width * _STATES.itemsize + _ROLES.itemsize)
