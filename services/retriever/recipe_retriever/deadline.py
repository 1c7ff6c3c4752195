"""A caller's deadline, looked at before work is done for it."""

import time
from dataclasses import dataclass
from typing import Self

from recipe_common.errors import DeadlineExceededError


@dataclass(frozen=True, slots=True)
class Deadline:
    """An instant of the monotonic clock, or none."""

    at: float | None = None

    @classmethod
    def in_seconds(cls, remaining: float | None) -> Self:
        """So many seconds from now; None is no deadline."""
        return cls(None if remaining is None else time.monotonic() + remaining)

    def passed(self, before: str) -> DeadlineExceededError | None:
        """The error to end the call with, if it is too late; `before` says what has not been done."""
        if self.at is None or time.monotonic() < self.at:
            return None
        return DeadlineExceededError(f"the deadline passed before {before}; allow more time or retry later")
