"""What may be written or asked for, checked before a backend sees it."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recipe_common.errors import FieldViolation, InvalidArgumentError
from recipe_common.knowledge_update import MAX_REVISION
from recipe_common.token_states import TokenStates
from recipe_store.facts import FactWrite
from recipe_store.prompt_codec import MAX_PROMPT_TOKENS
from recipe_store.schema import StoreSchema


def require_writable(writes: Sequence[FactWrite], schema: StoreSchema) -> None:
    """Raise `InvalidArgumentError` unless every write fits the schema; then nothing has been written."""
    violations = [violation for write in writes for violation in _violations(write, schema)]
    if violations:
        raise InvalidArgumentError(violations)


def require_search(vector: NDArray[np.float32], limit: int, min_similarity: float | None, schema: StoreSchema) -> None:
    """Raise `InvalidArgumentError` unless `vector` [h] has a direction, `limit` is positive and the floor a cosine."""
    violations = _vector_violations(vector, schema)
    if limit < 1:
        violations.append(FieldViolation("limit", f"must be at least 1, is {limit}"))
    if min_similarity is not None and not -1 <= min_similarity <= 1:
        violations.append(FieldViolation("min_similarity", f"must be from -1 to 1, is {min_similarity}"))
    if violations:
        raise InvalidArgumentError(violations)


def _violations(write: FactWrite, schema: StoreSchema) -> list[FieldViolation]:
    fact = write.fact
    violations = []
    if not 0 <= fact.revision <= MAX_REVISION:
        violations.append(FieldViolation("revision", f"must be from 0 to 2**63 - 1, is {fact.revision}"))
    if fact.position.offset < 0:
        violations.append(FieldViolation("position.offset", f"must not be negative, is {fact.position.offset}"))
    if any((part is None) != fact.retracted for part in (write.vector, write.tokens, write.prompt)):
        description = "must be set exactly when there is no vector, no tokens and no prompt"
        violations.append(FieldViolation("retracted", description))
    if write.vector is not None:
        violations += _vector_violations(write.vector, schema)
    if write.tokens is not None:
        violations += _tokens_violations(write.tokens)
    if write.prompt is not None:
        violations += _prompt_violations(write.prompt, schema)
    return violations


def _vector_violations(vector: NDArray[np.float32], schema: StoreSchema) -> list[FieldViolation]:
    if vector.dtype != np.float32 or vector.shape != (schema.vector_size,):
        description = f"must be float32 of shape {(schema.vector_size,)}, is {vector.dtype} {vector.shape}"
    elif not np.isfinite(vector).all():
        description = "must hold finite numbers only"
    elif not vector.any():
        description = "must not be zero, as it has no direction then"
    else:
        return []
    return [FieldViolation("vector", description)]


def _tokens_violations(tokens: TokenStates) -> list[FieldViolation]:
    count = len(tokens.ids)
    expected: dict[str, tuple[NDArray[Any], type[np.generic], tuple[int, ...]]] = {
        "ids": (tokens.ids, np.int32, (count,)),
        "roles": (tokens.roles, np.uint8, (count,)),
        "states": (tokens.states, np.float16, (count, *tokens.states.shape[1:2])),
    }
    violations = [
        FieldViolation(f"tokens.{name}", f"must be {np.dtype(dtype)} of shape {shape}, is {part.dtype} {part.shape}")
        for name, (part, dtype, shape) in expected.items()
        if part.dtype != dtype or part.shape != shape
    ]
    if not count:
        violations.append(FieldViolation("tokens", "must be one or more: a text without any can never be recognised"))
    elif not np.isfinite(tokens.states).all():
        violations.append(FieldViolation("tokens.states", "must hold finite numbers only"))
    return violations


def _prompt_violations(prompt: NDArray[np.float16], schema: StoreSchema) -> list[FieldViolation]:
    width = schema.prompt_width
    if prompt.dtype == np.float16 and prompt.ndim == 2:  # noqa: PLR2004 (l, d)
        rows, columns = prompt.shape
        if columns == width and 1 <= rows <= MAX_PROMPT_TOKENS:
            return []
    expected = f"float16 of shape (1 to {MAX_PROMPT_TOKENS}, {width})"
    return [FieldViolation("prompt", f"must be {expected}, is {prompt.dtype} {prompt.shape}")]
