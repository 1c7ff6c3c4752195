"""The gRPC face of the retriever."""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import Executor
from contextvars import copy_context
from typing import Any, TypeVar

import grpc

from recipe_common.clock import from_timestamp, now_utc
from recipe_common.errors import FieldViolation, InvalidArgumentError, NotFoundError
from recipe_common.requests import check_fact_id, check_namespace, check_position, require_text
from recipe_common.tracing import observe
from recipe_protos.retriever.v1 import retriever_pb2 as pb
from recipe_protos.retriever.v1 import retriever_pb2_grpc
from recipe_retriever.log_positions import wait_until_applied
from recipe_retriever.messages import fact_message, retrieve_response
from recipe_retriever.metrics import RetrieverMetrics
from recipe_retriever.retrieval import Retriever
from recipe_store import LogPosition

MAX_PAGE = 1000
DEFAULT_PAGE = 100

Result = TypeVar("Result")


class RetrieverService(retriever_pb2_grpc.RetrieverServiceServicer):
    """Checks requests, runs the retriever off the event loop, and turns its results into messages."""

    def __init__(self, retriever: Retriever, executor: Executor, metrics: RetrieverMetrics) -> None:
        self._retriever = retriever
        self._executor = executor
        self._metrics = metrics

    async def Retrieve(  # noqa: N802
        self, request: pb.RetrieveRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.RetrieveResponse:
        namespace = check_namespace(request.namespace)
        query = require_text("query", request.query)
        as_of = from_timestamp(request.as_of, "as_of") if request.HasField("as_of") else now_utc()
        reached = None
        if request.HasField("min_position"):
            reached = await self._wait_until_applied(_position(request.min_position), context.time_remaining())
        asked = time.perf_counter()
        retrieval = await self._run(self._queued(lambda: self._retriever.retrieve(namespace, query, as_of)))
        observe(self._metrics.stage_seconds.labels("total"), time.perf_counter() - asked)
        return retrieve_response(retrieval, self._retriever.model_version, reached)

    async def GetFact(  # noqa: N802
        self, request: pb.GetFactRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.GetFactResponse:
        namespace = check_namespace(request.namespace)
        fact_id = check_fact_id(request.fact_id)
        fact = await self._run(lambda: self._retriever.store.get(namespace, fact_id))
        if fact is None:
            raise _never_stored(namespace, fact_id)
        return pb.GetFactResponse(fact=fact_message(fact))

    async def GetFactHistory(  # noqa: N802
        self, request: pb.GetFactHistoryRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.GetFactHistoryResponse:
        namespace = check_namespace(request.namespace)
        fact_id = check_fact_id(request.fact_id)
        revisions = await self._run(lambda: self._retriever.store.history(namespace, fact_id))
        if not revisions:
            raise _never_stored(namespace, fact_id)
        return pb.GetFactHistoryResponse(revisions=map(fact_message, revisions))

    async def ListFacts(  # noqa: N802
        self, request: pb.ListFactsRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.ListFactsResponse:
        namespace = check_namespace(request.namespace)
        if request.page_size > MAX_PAGE:
            raise InvalidArgumentError(
                [FieldViolation("page_size", f"must be at most {MAX_PAGE}; page through with page_token")]
            )
        limit = request.page_size or DEFAULT_PAGE
        facts, token = await self._run(
            lambda: self._retriever.store.list(namespace, limit=limit, page_token=request.page_token)
        )
        shown = [fact_message(fact) for fact in facts if request.include_retracted or not fact.retracted]
        return pb.ListFactsResponse(facts=shown, next_page_token=token)

    async def _wait_until_applied(self, wanted: LogPosition, time_remaining: float | None) -> LogPosition:
        store = self._retriever.store
        return await wait_until_applied(
            wanted, lambda: self._run(lambda: store.applied(wanted.topic, wanted.partition)), time_remaining
        )

    async def _run(self, work: Callable[[], Result]) -> Result:
        with self._metrics.inside.track_inprogress():
            return await asyncio.get_running_loop().run_in_executor(self._executor, copy_context().run, work)

    def _queued(self, work: Callable[[], Result]) -> Callable[[], Result]:
        """Work that notes, when it begins, how long it has waited from now on."""
        asked = time.perf_counter()

        def begin() -> Result:
            observe(self._metrics.stage_seconds.labels("queue"), time.perf_counter() - asked)
            return work()

        return begin


def _position(message: pb.LogPosition) -> LogPosition:
    check_position("min_position", message)
    return LogPosition(message.topic, message.partition, message.offset)


def _never_stored(namespace: str, fact_id: str) -> NotFoundError:
    return NotFoundError(f"fact_id: no fact {fact_id!r} was ever stored in namespace {namespace!r}")
