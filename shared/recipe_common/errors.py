"""Errors of the domain. They know nothing of gRPC; `recipe_common.grpc_errors` maps them to statuses."""

from collections.abc import Sequence
from dataclasses import dataclass


class RecipeError(Exception):
    """Base of every error this project raises on purpose; the message is one sentence for the user."""


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """One field of a request or an event that is not as it must be.

    `field` is the path of the field, for example "upsert.valid_until"; `description` says what it must be.
    """

    field: str
    description: str

    def __str__(self) -> str:
        return f"{self.field}: {self.description}"


class InvalidArgumentError(RecipeError):
    """The caller sent something that can never succeed; `violations` names each field and the fix."""

    def __init__(self, violations: Sequence[FieldViolation]) -> None:
        super().__init__("; ".join(str(violation) for violation in violations))
        self.violations = tuple(violations)


class NotFoundError(RecipeError):
    """The thing that was asked for by id does not exist."""


class FailedPreconditionError(RecipeError):
    """The system is in a state in which the request cannot succeed until an operator changes something."""


class UnavailableError(RecipeError):
    """A dependency or this service cannot work at the moment; the same request may succeed later."""


class DataLossError(RecipeError):
    """What was stored is not what was written, and is not used."""


class AddressUnavailableError(UnavailableError):
    """A server cannot listen on its address; `setting` is the setting that chooses the port."""

    def __init__(self, host: str, port: int, setting: str) -> None:
        super().__init__(
            f"cannot listen on {host}:{port}: the port is taken or not this machine's to use; "
            f"set {setting} to a free port"
        )


class ResourceExhaustedError(RecipeError):
    """A bounded queue is full; the same request may succeed after `retry_after_seconds`."""

    def __init__(self, retry_after_seconds: float, message: str = "too many requests are waiting already") -> None:
        super().__init__(f"{message}; retry in {retry_after_seconds:g} s")
        self.retry_after_seconds = retry_after_seconds


class DeadlineExceededError(RecipeError):
    """The work cannot be finished before the caller's deadline, so it was not started or was given up."""
