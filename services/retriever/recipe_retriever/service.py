"""The gRPC face of the retriever."""

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from contextvars import copy_context
from datetime import datetime
from functools import partial
from typing import Any, Final, TypeVar

import grpc

from recipe_common.admission import Admission
from recipe_common.clock import from_timestamp, now_utc
from recipe_common.errors import FieldViolation, InvalidArgumentError, NotFoundError
from recipe_common.requests import check_fact_id, check_min_confidence, check_namespace, check_position, require_text
from recipe_common.tracing import observe
from recipe_protos.retriever.v1 import retriever_pb2 as pb
from recipe_protos.retriever.v1 import retriever_pb2_grpc
from recipe_retriever.batching import QueryBatches
from recipe_retriever.deadline import Deadline
from recipe_retriever.explanation import explain
from recipe_retriever.log_positions import wait_until_applied
from recipe_retriever.messages import explain_response, fact_message, retrieve_response
from recipe_retriever.metrics import RetrieverMetrics
from recipe_retriever.retrieval import Retriever
from recipe_retriever.settings import MAX_QUERIES
from recipe_store import LogPosition

MAX_PAGE: Final = 1000
DEFAULT_PAGE: Final = 100
MAX_EXPLAINED: Final = 100
DEFAULT_EXPLAINED: Final = 5

Context = grpc.aio.ServicerContext[Any, Any]

Result = TypeVar("Result")


class RetrieverService(retriever_pb2_grpc.RetrieverServiceServicer):
    """Checks requests, runs the retriever off the event loop, and turns its results into messages."""

    def __init__(
        self,
        retriever: Retriever,
        batches: QueryBatches,
        admission: Admission,
        searching: Executor,
        metrics: RetrieverMetrics,
    ) -> None:
        self._retriever = retriever
        self._batches = batches
        self._admission = admission
        self._searching = searching
        self._metrics = metrics

    async def Retrieve(self, request: pb.RetrieveRequest, context: Context) -> pb.RetrieveResponse:  # noqa: N802
        query = require_text("query", request.query)
        (response,) = await self._retrieve(request, [query], context)
        return response

    async def RetrieveBatch(  # noqa: N802
        self, request: pb.RetrieveBatchRequest, context: Context
    ) -> pb.RetrieveBatchResponse:
        if not 1 <= len(request.queries) <= MAX_QUERIES:
            raise InvalidArgumentError(
                [FieldViolation("queries", f"must be 1 to {MAX_QUERIES} queries, are {len(request.queries)}")]
            )
        queries = [require_text(f"queries[{place}]", query) for place, query in enumerate(request.queries)]
        return pb.RetrieveBatchResponse(responses=await self._retrieve(request, queries, context))

    async def Explain(self, request: pb.ExplainRequest, context: Context) -> pb.ExplainResponse:  # noqa: N802
        namespace, as_of = check_namespace(request.namespace), _as_of(request)
        query = require_text("query", request.query)
        if request.limit > MAX_EXPLAINED:
            raise InvalidArgumentError([FieldViolation("limit", f"must be at most {MAX_EXPLAINED}")])
        limit = request.limit or DEFAULT_EXPLAINED
        deadline = Deadline.in_seconds(context.time_remaining())
        confidence = _min_confidence(request)
        with self._admission.admit():
            (encoded,) = await self._batches.encode([query], deadline)
            explained = partial(explain, self._retriever, namespace, encoded, as_of, limit, confidence)
            found = await self._run(explained, deadline)
        return explain_response(found, self._retriever.model_version)

    async def GetFact(  # noqa: N802
        self, request: pb.GetFactRequest, context: Context
    ) -> pb.GetFactResponse:
        namespace = check_namespace(request.namespace)
        fact_id = check_fact_id(request.fact_id)
        fact = await self._read(lambda: self._retriever.store.get(namespace, fact_id), context)
        if fact is None:
            raise _never_stored(namespace, fact_id)
        return pb.GetFactResponse(fact=fact_message(fact))

    async def GetFactHistory(  # noqa: N802
        self, request: pb.GetFactHistoryRequest, context: Context
    ) -> pb.GetFactHistoryResponse:
        namespace = check_namespace(request.namespace)
        fact_id = check_fact_id(request.fact_id)
        revisions = await self._read(lambda: self._retriever.store.history(namespace, fact_id), context)
        if not revisions:
            raise _never_stored(namespace, fact_id)
        return pb.GetFactHistoryResponse(revisions=map(fact_message, revisions))

    async def ListFacts(  # noqa: N802
        self, request: pb.ListFactsRequest, context: Context
    ) -> pb.ListFactsResponse:
        namespace = check_namespace(request.namespace)
        if request.page_size > MAX_PAGE:
            raise InvalidArgumentError(
                [FieldViolation("page_size", f"must be at most {MAX_PAGE}; page through with page_token")]
            )
        limit = request.page_size or DEFAULT_PAGE
        facts, token = await self._read(
            lambda: self._retriever.store.list(namespace, limit=limit, page_token=request.page_token), context
        )
        shown = [fact_message(fact) for fact in facts if request.include_retracted or not fact.retracted]
        return pb.ListFactsResponse(facts=shown, next_page_token=token)

    async def _retrieve(
        self, request: pb.RetrieveRequest | pb.RetrieveBatchRequest, queries: Sequence[str], context: Context
    ) -> list[pb.RetrieveResponse]:
        namespace, as_of, confidence = check_namespace(request.namespace), _as_of(request), _min_confidence(request)
        wanted = _position(request.min_position) if request.HasField("min_position") else None
        deadline = Deadline.in_seconds(context.time_remaining())
        with self._admission.admit(len(queries)):
            reached = None
            if wanted is not None:
                reached = await self._wait_until_applied(wanted, context.time_remaining())
            asked = time.perf_counter()
            encoded = await self._batches.encode(queries, deadline)
            decisions = (partial(self._retriever.decide, namespace, each, as_of, confidence) for each in encoded)
            retrievals = await asyncio.gather(*(self._run(decision, deadline) for decision in decisions))
            for _ in retrievals:
                observe(self._metrics.stage_seconds.labels("total"), time.perf_counter() - asked)
        version = self._retriever.model_version
        pairs = zip(retrievals, encoded, strict=True)
        return [retrieve_response(each, query.text, version, reached) for each, query in pairs]

    async def _wait_until_applied(self, wanted: LogPosition, time_remaining: float | None) -> LogPosition:
        store, deadline = self._retriever.store, Deadline.in_seconds(time_remaining)
        return await wait_until_applied(
            wanted, lambda: self._run(lambda: store.applied(wanted.topic, wanted.partition), deadline), time_remaining
        )

    async def _read(self, work: Callable[[], Result], context: Context) -> Result:
        with self._admission.admit():
            return await self._run(work, Deadline.in_seconds(context.time_remaining()))

    async def _run(self, work: Callable[[], Result], deadline: Deadline) -> Result:
        def begin() -> Result:
            if error := deadline.passed("the store was asked"):
                raise error
            return work()

        return await asyncio.get_running_loop().run_in_executor(self._searching, copy_context().run, begin)


def _as_of(request: pb.RetrieveRequest | pb.RetrieveBatchRequest | pb.ExplainRequest) -> datetime:
    return from_timestamp(request.as_of, "as_of") if request.HasField("as_of") else now_utc()


def _min_confidence(request: pb.RetrieveRequest | pb.RetrieveBatchRequest | pb.ExplainRequest) -> float | None:
    return check_min_confidence(request.min_confidence) if request.HasField("min_confidence") else None


def _position(message: pb.LogPosition) -> LogPosition:
    check_position("min_position", message)
    return LogPosition(message.topic, message.partition, message.offset)


def _never_stored(namespace: str, fact_id: str) -> NotFoundError:
    return NotFoundError(f"fact_id: no fact {fact_id!r} was ever stored in namespace {namespace!r}")
