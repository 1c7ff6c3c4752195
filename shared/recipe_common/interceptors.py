"""Server interceptors for grpc.aio."""

import logging
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar, cast

import grpc

from recipe_common.errors import RecipeError, UnavailableError
from recipe_common.grpc_errors import to_status

logger = logging.getLogger(__name__)

Request = TypeVar("Request")
Response = TypeVar("Response")
Unary = Callable[[Request, grpc.aio.ServicerContext[Request, Response]], Awaitable[Response]]


HEALTH_AND_REFLECTION: Final = "/grpc."


class ErrorInterceptor(grpc.aio.ServerInterceptor):
    """Turns errors raised by unary handlers into gRPC statuses, and refuses calls while `is_serving` says no.

    A domain error becomes the status that `recipe_common.grpc_errors` has for it. Anything else is a defect:
    it is logged with its traceback, and the caller gets INTERNAL without any detail. Handlers must be
    coroutine functions. Health checks and reflection are always served.
    """

    def __init__(self, is_serving: Callable[[], bool]) -> None:
        self._is_serving = is_serving

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], "Awaitable[grpc.RpcMethodHandler[Request, Response] | None]"],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> "grpc.RpcMethodHandler[Request, Response] | None":
        """The handler of the call, guarded if it is a unary one."""
        handler = await continuation(handler_call_details)
        if handler is None or handler.unary_unary is None:
            return handler
        method = handler_call_details.method
        require = _nothing if method.startswith(HEALTH_AND_REFLECTION) else self._require_serving
        # The type stubs describe handlers of the synchronous server only.
        unary = cast("Unary[Request, Response]", handler.unary_unary)
        return grpc.unary_unary_rpc_method_handler(
            _guarded(unary, method, require),
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )

    def _require_serving(self) -> None:
        if not self._is_serving():
            raise UnavailableError("the service is warming up or draining; retry")


def _nothing() -> None:
    """What a call that is always served requires."""


def _guarded(unary: Unary[Request, Response], method: str, require: Callable[[], None]) -> Unary[Request, Response]:
    async def guarded(request: Request, context: grpc.aio.ServicerContext[Request, Response]) -> Response:
        try:
            require()
            return await unary(request, context)
        except grpc.aio.AbortError:
            raise  # the handler has ended the call with a status of its own
        except RecipeError as error:
            status = to_status(error)
            if status.code is grpc.StatusCode.INTERNAL:
                logger.exception("%s failed", method)
            return await context.abort(status.code, status.details, status.trailing_metadata)
        except Exception:  # the process boundary: this call fails, the server lives on
            logger.exception("%s failed because of a defect", method)
            message = "internal error; the log of the service has the cause"
            return await context.abort(grpc.StatusCode.INTERNAL, message)

    return guarded
