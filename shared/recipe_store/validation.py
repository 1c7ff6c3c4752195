"""What may be written or asked for, checked before a backend sees it."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from recipe_common.errors import FieldViolation, InvalidArgumentError
from recipe_common.knowledge_update import MAX_REVISION
from recipe_store.facts import FactWrite
from recipe_store.schema import StoreSchema


def require_writable(writes: Sequence[FactWrite], schema: StoreSchema) -> None:
    """Raise `InvalidArgumentError` unless every write fits the schema; then nothing has been written."""
    violations = [violation for write in writes for violation in _violations(write, schema)]
    if violations:
        raise InvalidArgumentError(violations)


def require_query(query: NDArray[np.float32], limit: int, schema: StoreSchema) -> None:
    """Raise `InvalidArgumentError` unless `query` is a finite [R] vector and `limit` is positive."""
    violations = _vector_violations("query", query, schema)
    if limit < 1:
        violations.append(FieldViolation("limit", f"must be at least 1, is {limit}"))
    if violations:
        raise InvalidArgumentError(violations)


def _violations(write: FactWrite, schema: StoreSchema) -> list[FieldViolation]:
    fact = write.fact
    violations = []
    if not 0 <= fact.revision <= MAX_REVISION:
        violations.append(FieldViolation("revision", f"must be from 0 to 2**63 - 1, is {fact.revision}"))
    if fact.position.offset < 0:
        violations.append(FieldViolation("position.offset", f"must not be negative, is {fact.position.offset}"))
    if (write.key is None) != fact.retracted or (write.prompt is None) != fact.retracted:
        violations.append(FieldViolation("retracted", "must be set exactly when there is no key and no prompt"))
    if write.key is not None:
        violations.extend(_vector_violations("key", write.key, schema))
    if write.prompt is not None and (write.prompt.dtype != np.float16 or write.prompt.shape != schema.prompt_shape):
        violations.append(
            FieldViolation(
                "prompt",
                f"must be float16 of shape {schema.prompt_shape}, is {write.prompt.dtype} {write.prompt.shape}",
            )
        )
    return violations


def _vector_violations(field: str, vector: NDArray[np.float32], schema: StoreSchema) -> list[FieldViolation]:
    if vector.dtype != np.float32 or vector.shape != (schema.key_size,):
        description = f"must be float32 of shape {(schema.key_size,)}, is {vector.dtype} {vector.shape}"
    elif not np.isfinite(vector).all():
        description = "must hold finite numbers only"
    else:
        return []
    return [FieldViolation(field, description)]
