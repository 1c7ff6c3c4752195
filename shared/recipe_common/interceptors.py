"""Interceptors: of grpc.aio for servers, of plain grpc for clients."""

import logging
from abc import abstractmethod
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar, cast

import grpc
from opentelemetry.trace import SpanKind
from prometheus_client import Counter

from recipe_common.errors import RecipeError, UnavailableError
from recipe_common.grpc_errors import to_status
from recipe_common.tracing import carried_by, carried_here, tracer

logger = logging.getLogger(__name__)

Request = TypeVar("Request")
Response = TypeVar("Response")
Handler = Callable[[Request, grpc.aio.ServicerContext[Request, Response]], Awaitable[Response]]


ClientCall = Callable[[grpc.ClientCallDetails, object], object]

HEALTH_AND_REFLECTION: Final = "/grpc."


class HandlerInterceptor(grpc.aio.ServerInterceptor):
    """Wraps every handler that takes one request, but not those of health checks and reflection.

    Handlers must be coroutine functions; one that streams writes its responses to the context.
    """

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], "Awaitable[grpc.RpcMethodHandler[Request, Response] | None]"],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> "grpc.RpcMethodHandler[Request, Response] | None":
        """The handler of the call, wrapped if it takes one request."""
        handler = await continuation(handler_call_details)
        method = handler_call_details.method
        if handler is None or handler.request_streaming or method.startswith(HEALTH_AND_REFLECTION):
            return handler
        streams = handler.response_streaming
        make = grpc.unary_stream_rpc_method_handler if streams else grpc.unary_unary_rpc_method_handler
        # The type stubs describe handlers of the synchronous server only.
        behaviour = cast("Handler[Request, Response]", handler.unary_stream if streams else handler.unary_unary)
        return make(
            self.wrapped(behaviour, method),
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )

    @abstractmethod
    def wrapped(self, behaviour: Handler[Request, Response], method: str) -> Handler[Request, Response]:
        """What is called in place of the handler of `method` (`/package.Service/Method`)."""


class TracingInterceptor(HandlerInterceptor):
    """Gives each call a span, as a part of the trace that the caller sends along, if it sends one."""

    def wrapped(self, behaviour: Handler[Request, Response], method: str) -> Handler[Request, Response]:
        """The handler within a span."""
        attributes = {"rpc.system": "grpc", "rpc.method": method[1:]}

        async def traced(request: Request, context: grpc.aio.ServicerContext[Request, Response]) -> Response:
            parent = carried_here(context.invocation_metadata() or ())
            with tracer.start_as_current_span(method[1:], parent, SpanKind.SERVER, attributes) as span:
                try:
                    return await behaviour(request, context)
                finally:
                    code = context.code() or grpc.StatusCode.OK
                    span.set_attribute("rpc.grpc.status_code", code.value[0])

        return traced


class ErrorInterceptor(HandlerInterceptor):
    """Turns errors raised by handlers into gRPC statuses, and refuses calls while `is_serving` says no.

    A domain error becomes the status that `recipe_common.grpc_errors` has for it. Anything else is a defect:
    it is logged with its traceback, and the caller gets INTERNAL without any detail. Health checks and reflection are
    always served. `calls`, with the labels method and code, counts all the others.
    """

    def __init__(self, is_serving: Callable[[], bool], calls: Counter | None = None) -> None:
        self._is_serving = is_serving
        self._calls = calls

    def wrapped(self, behaviour: Handler[Request, Response], method: str) -> Handler[Request, Response]:
        """The handler, guarded."""

        async def guarded(request: Request, context: grpc.aio.ServicerContext[Request, Response]) -> Response:
            code = grpc.StatusCode.CANCELLED  # unless one of the following ends the call
            try:
                self._require_serving()
                response = await behaviour(request, context)
            except grpc.aio.AbortError:
                code = grpc.StatusCode.UNKNOWN  # the handler has ended the call with a status of its own
                raise
            except RecipeError as error:
                status = to_status(error)
                code = status.code
                if status.code is grpc.StatusCode.INTERNAL:
                    logger.exception("%s failed", method)
                return await context.abort(status.code, status.details, status.trailing_metadata)
            except Exception:  # the process boundary: this call fails, the server lives on
                code = grpc.StatusCode.INTERNAL
                logger.exception("%s failed because of a defect", method)
                message = "internal error; the log of the service has the cause"
                return await context.abort(code, message)
            else:
                code = grpc.StatusCode.OK
                return response
            finally:
                self._count(method, code)

        return guarded

    def _count(self, method: str, code: grpc.StatusCode) -> None:
        if self._calls is not None:
            self._calls.labels(method.rpartition("/")[2], code.name).inc()

    def _require_serving(self) -> None:
        if not self._is_serving():
            raise UnavailableError("the service is warming up or draining; retry")


class TracingClientInterceptor(grpc.UnaryUnaryClientInterceptor, grpc.UnaryStreamClientInterceptor):
    """Sends the active trace along; a call with one response gets a span of its own."""

    def intercept_unary_unary(  # type: ignore[override]  # the stubs leave out what a call is
        self, continuation: ClientCall, client_call_details: grpc.ClientCallDetails, request: object
    ) -> object:
        """The call, within a span."""
        with tracer.start_as_current_span(client_call_details.method.removeprefix("/"), kind=SpanKind.CLIENT):
            return continuation(_carrying(client_call_details), request)

    def intercept_unary_stream(  # type: ignore[override]
        self, continuation: ClientCall, client_call_details: grpc.ClientCallDetails, request: object
    ) -> object:
        """The call; its responses come when the caller asks for them, so no span is there."""
        return continuation(_carrying(client_call_details), request)


def _carrying(details: grpc.ClientCallDetails) -> grpc.ClientCallDetails:
    replace = cast("Callable[..., grpc.ClientCallDetails]", details._replace)  # type: ignore[attr-defined]
    return replace(metadata=[*(details.metadata or ()), *carried_by()])
