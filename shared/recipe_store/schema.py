"""What a knowledge base was made for, kept beside it so that vectors of two models are never mixed."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from recipe_common.errors import FailedPreconditionError

FORMAT: Final = 2  # of points: 1 had keys and leading parts, 2 has a vector and token states


@dataclass(frozen=True, slots=True)
class StoreSchema:
    """The model version that made the vectors, their size h and the width d of prompts [l, d]."""

    model_version: str
    vector_size: int
    prompt_width: int

    def to_json(self) -> dict[str, Any]:
        return {
            "model_version": self.model_version,
            "format": FORMAT,
            "vector_size": self.vector_size,
            "prompt_width": self.prompt_width,
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
        f"model version {schema.get('model_version')!r} (format {schema.get('format', 1)}, "
        f"vector size {schema.get('vector_size')}, prompt width {schema.get('prompt_width')})"
    )
