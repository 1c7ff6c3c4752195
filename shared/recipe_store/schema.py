"""What a knowledge base was made for, kept beside it so that keys of two models are never mixed."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from recipe_common.errors import FailedPreconditionError


@dataclass(frozen=True, slots=True)
class StoreSchema:
    """The model version that made the keys, the key size R and the prompt shape (l, d)."""

    model_version: str
    key_size: int
    prompt_shape: tuple[int, int]

    def to_json(self) -> dict[str, Any]:
        return {
            "model_version": self.model_version,
            "key_size": self.key_size,
            "prompt_shape": list(self.prompt_shape),
        }

    def require_same(self, stored: Mapping[str, Any] | None, place: str, fix: str) -> None:
        """Raise `FailedPreconditionError` unless `stored`, a schema's JSON found in `place`, is this one."""
        if stored is None:
            raise FailedPreconditionError(f"{place} does not say which model version it was made for; {fix}")
        if dict(stored) != self.to_json():
            raise FailedPreconditionError(
                f"{place} was made for {_describe(stored)}, but this service runs {_describe(self.to_json())}; {fix}"
            )


def _describe(schema: Mapping[str, Any]) -> str:
    return (
        f"model version {schema.get('model_version')!r} (key size {schema.get('key_size')}, "
        f"prompt shape {schema.get('prompt_shape')})"
    )
