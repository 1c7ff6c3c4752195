"""Errors raised by a handler, as a client on the other side of a real server sees them."""

import asyncio
import itertools
import logging
from contextlib import suppress
from typing import Any

import grpc
import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]
from prometheus_client import CollectorRegistry, Counter

from recipe_common.call_metrics import call_counter
from recipe_common.errors import (
    DataLossError,
    DeadlineExceededError,
    FailedPreconditionError,
    FieldViolation,
    InvalidArgumentError,
    NotFoundError,
    RecipeError,
    ResourceExhaustedError,
    UnavailableError,
)
from recipe_common.grpc_errors import STATUS_CODES, describe_rpc_error, status_code, to_domain_error
from recipe_common.grpc_server import build_server
from recipe_protos.retriever.v1 import retriever_pb2, retriever_pb2_grpc

Context = grpc.aio.ServicerContext[Any, Any]

SERVICE = retriever_pb2.DESCRIPTOR.services_by_name["RetrieverService"]

TWO_VIOLATIONS = InvalidArgumentError(
    [
        FieldViolation("query", "must not be empty"),
        FieldViolation("as_of", "must not lie after the year 9999"),
    ]
)


class StoreUnavailableError(UnavailableError):
    """A subclass that the table does not name."""


class FailingServicer(retriever_pb2_grpc.RetrieverServiceServicer):
    """Retrieve raises the error it was made with, GetFact aborts by itself, ListFacts works."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    async def Retrieve(  # noqa: N802
        self, request: retriever_pb2.RetrieveRequest, context: Context
    ) -> retriever_pb2.RetrieveResponse:
        raise self._error

    async def GetFact(  # noqa: N802
        self, request: retriever_pb2.GetFactRequest, context: Context
    ) -> retriever_pb2.GetFactResponse:
        await context.abort(grpc.StatusCode.ABORTED, "by the handler")

    async def RetrieveBatch(  # noqa: N802
        self, request: retriever_pb2.RetrieveBatchRequest, context: Context
    ) -> retriever_pb2.RetrieveBatchResponse:
        return retriever_pb2.RetrieveBatchResponse()

    async def Explain(  # noqa: N802
        self, request: retriever_pb2.ExplainRequest, context: Context
    ) -> retriever_pb2.ExplainResponse:
        return retriever_pb2.ExplainResponse()

    async def GetFactHistory(  # noqa: N802
        self, request: retriever_pb2.GetFactHistoryRequest, context: Context
    ) -> retriever_pb2.GetFactHistoryResponse:
        return retriever_pb2.GetFactHistoryResponse()

    async def ListFacts(  # noqa: N802
        self, request: retriever_pb2.ListFactsRequest, context: Context
    ) -> retriever_pb2.ListFactsResponse:
        return retriever_pb2.ListFactsResponse(next_page_token="next")


async def call(error: Exception, method: str, request: Message, calls: Counter | None = None) -> Message:
    server = build_server(
        port=0,
        port_setting="PORT",
        service_names=[],
        register=lambda grpc_server: retriever_pb2_grpc.add_RetrieverServiceServicer_to_server(
            FailingServicer(error), grpc_server
        ),
        calls=calls,
    )
    await server.start()
    await server.set_serving(True)
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
            response: Message = await getattr(retriever_pb2_grpc.RetrieverServiceStub(channel), method)(request)
            return response
    finally:
        await server.stop(0)


def failure_of(error: Exception, method: str = "Retrieve") -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        asyncio.run(call(error, method, retriever_pb2.RetrieveRequest()))
    return raised.value


def details_of(error: grpc.aio.AioRpcError) -> list[AnyMessage]:
    packed = error.trailing_metadata()["grpc-status-details-bin"]
    status = status_pb2.Status.FromString(packed)
    assert (status.code, status.message) == (error.code().value[0], error.details())
    return list(status.details)


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (NotFoundError("no fact 'a/b'"), grpc.StatusCode.NOT_FOUND, "no fact 'a/b'"),
        (FailedPreconditionError("versions differ"), grpc.StatusCode.FAILED_PRECONDITION, "versions differ"),
        (UnavailableError("warming up"), grpc.StatusCode.UNAVAILABLE, "warming up"),
        (StoreUnavailableError("no store"), grpc.StatusCode.UNAVAILABLE, "no store"),
        (DeadlineExceededError("too late"), grpc.StatusCode.DEADLINE_EXCEEDED, "too late"),
        (DataLossError("prompt is damaged"), grpc.StatusCode.DATA_LOSS, "prompt is damaged"),
        (RecipeError("prompt is corrupt: é"), grpc.StatusCode.INTERNAL, "prompt is corrupt: é"),
    ],
)
def test_domain_error_reaches_the_client(error: RecipeError, code: grpc.StatusCode, message: str) -> None:
    failure = failure_of(error)
    assert (failure.code(), failure.details()) == (code, message)
    assert details_of(failure) == []


def test_invalid_argument_carries_field_violations() -> None:
    failure = failure_of(TWO_VIOLATIONS)
    assert failure.code() is grpc.StatusCode.INVALID_ARGUMENT
    [detail] = details_of(failure)
    bad_request = error_details_pb2.BadRequest()
    assert detail.Unpack(bad_request)
    assert [(violation.field, violation.description) for violation in bad_request.field_violations] == [
        ("query", "must not be empty"),
        ("as_of", "must not lie after the year 9999"),
    ]


def test_resource_exhausted_carries_the_retry_delay() -> None:
    failure = failure_of(ResourceExhaustedError(1.5, "16 requests are waiting already"))
    assert failure.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert failure.details() == "16 requests are waiting already; retry in 1.5 s"
    [detail] = details_of(failure)
    retry = error_details_pb2.RetryInfo()
    assert detail.Unpack(retry)
    assert retry.retry_delay.ToMilliseconds() == 1500

    error = to_domain_error(failure, "retriever 127.0.0.1:1")
    assert isinstance(error, ResourceExhaustedError)
    assert error.retry_after_seconds == 1.5
    assert str(error) == "RESOURCE_EXHAUSTED: 16 requests are waiting already; retry in 1.5 s"


def test_an_exhausted_resource_without_a_retry_delay_is_not_to_be_tried_again() -> None:
    failure = grpc.aio.AioRpcError(
        grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.aio.Metadata(), grpc.aio.Metadata(), "message larger than max"
    )
    assert type(to_domain_error(failure, "retriever 127.0.0.1:1")) is RecipeError


def test_defect_is_hidden_from_the_client_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR, logger="recipe_common.interceptors"):
        failure = failure_of(KeyError("secret"))
    assert failure.code() is grpc.StatusCode.INTERNAL
    assert failure.details() == "internal error; the log of the service has the cause"
    [record] = caplog.records
    assert record.getMessage() == "/recipe_protos.retriever.v1.RetrieverService/Retrieve failed because of a defect"
    assert record.exc_info is not None
    assert record.exc_info[0] is KeyError


def test_domain_error_that_is_a_defect_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR, logger="recipe_common.interceptors"):
        failure_of(RecipeError("prompt is corrupt"))
    assert [record.getMessage() for record in caplog.records] == [
        "/recipe_protos.retriever.v1.RetrieverService/Retrieve failed"
    ]


def test_abort_of_the_handler_passes_through(caplog: pytest.LogCaptureFixture) -> None:
    failure = failure_of(NotFoundError("unused"), "GetFact")
    assert (failure.code(), failure.details()) == (grpc.StatusCode.ABORTED, "by the handler")
    assert caplog.records == []


def test_unknown_method_is_still_unimplemented() -> None:
    async def call_unknown() -> None:
        server = build_server(port=0, port_setting="PORT", service_names=[], register=lambda _: None)
        await server.start()
        try:
            async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
                await retriever_pb2_grpc.RetrieverServiceStub(channel).Retrieve(retriever_pb2.RetrieveRequest())
        finally:
            await server.stop(0)

    with pytest.raises(grpc.aio.AioRpcError) as raised:
        asyncio.run(call_unknown())
    assert raised.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_answer_passes_through() -> None:
    response = asyncio.run(call(NotFoundError("unused"), "ListFacts", retriever_pb2.ListFactsRequest()))
    assert response == retriever_pb2.ListFactsResponse(next_page_token="next")


@pytest.mark.parametrize(
    ("error", "method", "code"),
    [
        (NotFoundError("unused"), "ListFacts", "OK"),
        (NotFoundError("no fact"), "Retrieve", "NOT_FOUND"),
        (UnavailableError("warming up"), "Retrieve", "UNAVAILABLE"),
        (KeyError("secret"), "Retrieve", "INTERNAL"),
        (NotFoundError("unused"), "GetFact", "UNKNOWN"),
    ],
)
def test_a_call_is_counted_once_by_method_and_code(error: Exception, method: str, code: str) -> None:
    registry = CollectorRegistry()
    calls = call_counter("calls", SERVICE, registry)
    with suppress(grpc.aio.AioRpcError):
        asyncio.run(call(error, method, retriever_pb2.RetrieveRequest(), calls))
    counted = [sample for metric in registry.collect() for sample in metric.samples if sample.value == 1]
    assert [(sample.name, sample.labels) for sample in counted] == [("calls_total", {"method": method, "code": code})]


def test_every_method_has_its_codes_before_it_is_called() -> None:
    registry = CollectorRegistry()
    call_counter("calls", SERVICE, registry)
    names = {method.name for method in SERVICE.methods}
    codes = {code.name for code in STATUS_CODES.values()} | {"OK", "CANCELLED"}
    assert names
    for method, code in itertools.product(names, codes):
        assert registry.get_sample_value("calls_total", {"method": method, "code": code}) == 0


def test_description_is_one_line() -> None:
    assert (
        describe_rpc_error(failure_of(TWO_VIOLATIONS))
        == "INVALID_ARGUMENT: query: must not be empty; as_of: must not lie after the year 9999"
    )
    assert describe_rpc_error(failure_of(UnavailableError("one\n  two"))) == "UNAVAILABLE: one two"
    assert describe_rpc_error(failure_of(NotFoundError(""))) == "NOT_FOUND: no details"


def test_description_of_a_synchronous_call() -> None:
    with grpc.insecure_channel("127.0.0.1:1") as channel, pytest.raises(grpc.RpcError) as raised:
        retriever_pb2_grpc.RetrieverServiceStub(channel).Retrieve(retriever_pb2.RetrieveRequest(), timeout=10)
    line = describe_rpc_error(raised.value)
    assert line.startswith("UNAVAILABLE: failed to connect to all addresses")
    assert "\n" not in line


def test_every_direct_subclass_has_a_code_of_its_own() -> None:
    direct = {cls for cls in RecipeError.__subclasses__() if cls.__module__ == "recipe_common.errors"}
    assert direct | {RecipeError} == set(STATUS_CODES)
    assert len(set(STATUS_CODES.values())) == len(STATUS_CODES)
    assert status_code(StoreUnavailableError("x")) is grpc.StatusCode.UNAVAILABLE
