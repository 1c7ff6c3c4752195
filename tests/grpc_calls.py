"""What a failed gRPC call says, taken apart for a test."""

import grpc
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]


def violations(error: grpc.aio.AioRpcError) -> list[tuple[str, str]]:
    """The field violations of an INVALID_ARGUMENT: pairs of field and description."""
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT, error
    (packed,) = [value for key, value in error.trailing_metadata() or () if key == "grpc-status-details-bin"]
    (detail,) = status_pb2.Status.FromString(packed).details
    request = error_details_pb2.BadRequest()
    assert detail.Unpack(request)
    return [(violation.field, violation.description) for violation in request.field_violations]
