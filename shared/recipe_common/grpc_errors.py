"""The one table that maps domain errors to gRPC statuses, and the way back to a line for a human."""

import math
from typing import Final, cast

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]
from grpc_status import rpc_status

from recipe_common.errors import (
    DataLossError,
    DeadlineExceededError,
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
    RecipeError,
    ResourceExhaustedError,
    UnavailableError,
)

STATUS_CODES: Final[dict[type[RecipeError], grpc.StatusCode]] = {
    InvalidArgumentError: grpc.StatusCode.INVALID_ARGUMENT,
    NotFoundError: grpc.StatusCode.NOT_FOUND,
    FailedPreconditionError: grpc.StatusCode.FAILED_PRECONDITION,
    UnavailableError: grpc.StatusCode.UNAVAILABLE,
    ResourceExhaustedError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    DeadlineExceededError: grpc.StatusCode.DEADLINE_EXCEEDED,
    DataLossError: grpc.StatusCode.DATA_LOSS,
    RecipeError: grpc.StatusCode.INTERNAL,
}


def status_code(error: RecipeError) -> grpc.StatusCode:
    """The status code of the error's class or else of its nearest base class in `STATUS_CODES`."""
    return next(STATUS_CODES[cls] for cls in type(error).__mro__ if cls in STATUS_CODES)


def to_status(error: RecipeError) -> grpc.Status:
    """The status to end a call with: code, message, and google.rpc.BadRequest or RetryInfo as a detail."""
    number: int = status_code(error).value[0]
    status = status_pb2.Status(code=number, message=str(error), details=_details(error))
    grpc_status: grpc.Status = rpc_status.to_status(status)
    return grpc_status


def describe_rpc_error(error: grpc.RpcError) -> str:
    """One line for a human, for example "INVALID_ARGUMENT: query: must not be empty".

    `error` comes from a finished call, of grpc or grpc.aio.
    """
    details = " ".join((error.details() or "no details").split())
    return f"{error.code().name}: {details}"


def to_domain_error(error: grpc.RpcError, server: str) -> RecipeError:
    """The domain error that a finished call's status stands for, for a client; `server` names who was called."""
    line = describe_rpc_error(error)
    match error.code():
        case grpc.StatusCode.NOT_FOUND:
            return NotFoundError(line)
        case grpc.StatusCode.FAILED_PRECONDITION:
            return FailedPreconditionError(line)
        case grpc.StatusCode.DEADLINE_EXCEEDED:
            return DeadlineExceededError(line)
        case grpc.StatusCode.UNAVAILABLE:
            return UnavailableError(f"{line} ({server}); is it running and is the address right?")
        case grpc.StatusCode.RESOURCE_EXHAUSTED if (seconds := _retry_after_seconds(error)) is not None:
            return ResourceExhaustedError(seconds, line.removesuffix(f"; retry in {seconds:g} s"))
        case _:
            return RecipeError(line)


def _retry_after_seconds(error: grpc.RpcError) -> float | None:
    """The server's advice; None when there is none, as for a message that is too large."""
    status = rpc_status.from_call(cast("grpc.Call", error))  # which every error of a finished call is
    for detail in status.details if status is not None else ():
        info = error_details_pb2.RetryInfo()
        if detail.Unpack(info):
            return float(info.retry_delay.ToTimedelta().total_seconds())
    return None


def _details(error: RecipeError) -> list[AnyMessage]:
    detail = AnyMessage()
    match error:
        case InvalidArgumentError():
            detail.Pack(_bad_request(error))
        case ResourceExhaustedError():
            detail.Pack(error_details_pb2.RetryInfo(retry_delay=_duration(error.retry_after_seconds)))
        case _:
            return []
    return [detail]


def _bad_request(error: InvalidArgumentError) -> error_details_pb2.BadRequest:
    return error_details_pb2.BadRequest(
        field_violations=[
            error_details_pb2.BadRequest.FieldViolation(field=violation.field, description=violation.description)
            for violation in error.violations
        ]
    )


def _duration(seconds: float) -> Duration:
    duration = Duration()
    duration.FromMilliseconds(math.ceil(seconds * 1000))
    return duration
