"""More queries than there is room or time for, and several in one call."""

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any, TypeAlias, TypeVar

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]
from grpc_health.v1 import health_pb2

from generation_harness import health
from grpc_calls import violations
from recipe_common.clock import to_timestamp
from recipe_model.encoded import EncodedQuery
from recipe_protos.retriever.v1 import retriever_pb2 as pb
from recipe_protos.retriever.v1 import retriever_pb2_grpc
from recipe_retriever.server import SERVICE, RetrieverServer
from recipe_retriever.settings import MAX_QUERIES, RetrieverSettings
from recipe_store import LogPosition
from recipe_store.edge_store import EdgeStore
from retrieval_harness import (
    MODEL_VERSION,
    TableEncoder,
    axis,
    make_fact,
    make_write,
)

Stub: TypeAlias = "retriever_pb2_grpc.RetrieverServiceAsyncStub"  # known to type checkers only
Result = TypeVar("Result")
NORTH = pb.RetrieveRequest(namespace="cities", query="north")


class GatedEncoder(TableEncoder):
    """Holds every pass but that of the warm-up until told to go on."""

    def __init__(self) -> None:
        super().__init__({"east": axis(1), "both": axis(0) + axis(1, 0.75)})
        self.begun, self.go_on = threading.Event(), threading.Event()

    def query(self, questions: Sequence[str]) -> list[EncodedQuery]:
        if self.queries:
            self.begun.set()
            assert self.go_on.wait(20)
        return super().query(questions)

    async def until_begun(self) -> None:
        assert await asyncio.to_thread(self.begun.wait, 20)


@pytest.fixture
def store(store: EdgeStore) -> EdgeStore:
    store.write([make_write(make_fact("mayor"), axis(0, 5.0)), make_write(make_fact("river"), axis(1, 1.0))])
    return store


@pytest.fixture
def encoder() -> GatedEncoder:
    return GatedEncoder()


@asynccontextmanager
async def running(
    store: EdgeStore, encoder: TableEncoder, **settings: Any
) -> AsyncIterator[tuple[Stub, grpc.aio.Channel]]:
    chosen = RetrieverSettings(port=0, metrics_port=0, drain_seconds=0, **settings)
    server = RetrieverServer(chosen, encoder, store)
    try:
        port = await server.start()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield retriever_pb2_grpc.RetrieverServiceStub(channel), channel
    finally:
        await server.stop()


def serve(
    store: EdgeStore,
    encoder: TableEncoder,
    scenario: Callable[[Stub, grpc.aio.Channel], Awaitable[Result]],
    **settings: Any,
) -> Result:
    """Runs the scenario against a retriever on a port of its own."""

    async def run() -> Result:
        async with running(store, encoder, **settings) as (stub, channel):
            return await scenario(stub, channel)

    return asyncio.run(run())


def answered(store: EdgeStore, method: str, request: Any) -> Any:
    """The response to one call."""

    async def scenario(stub: Stub, _: grpc.aio.Channel) -> Any:
        return await getattr(stub, method)(request)

    encoder = GatedEncoder()
    encoder.go_on.set()
    return serve(store, encoder, scenario)


def refusal(store: EdgeStore, method: str, request: Any) -> grpc.aio.AioRpcError:
    """The error that ends one call."""
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        answered(store, method, request)
    return raised.value


def test_one_query_too_many_is_told_when_to_come_back_and_the_others_are_answered(
    store: EdgeStore, encoder: GatedEncoder
) -> None:
    async def scenario(stub: Stub, _: grpc.aio.Channel) -> tuple[list[int], list[grpc.aio.AioRpcError]]:
        inside = [asyncio.ensure_future(stub.Retrieve(NORTH)) for _ in range(MAX_QUERIES)]
        await encoder.until_begun()
        errors: list[grpc.aio.AioRpcError] = []
        while not errors:  # until all of them have come in
            try:
                await stub.Retrieve(NORTH, timeout=0.2)
            except grpc.aio.AioRpcError as error:
                errors += [error] if error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED else []
        for call in (
            stub.GetFact(pb.GetFactRequest(fact_id="mayor")),
            stub.RetrieveBatch(pb.RetrieveBatchRequest(queries=["a", "b"])),
            stub.Explain(pb.ExplainRequest(query="a")),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                await call
            errors.append(raised.value)
        encoder.go_on.set()
        return [(await answer).decision for answer in inside], errors

    decisions, errors = serve(store, encoder, scenario, max_inside=MAX_QUERIES)

    assert decisions == [pb.DECISION_HIT] * MAX_QUERIES
    assert [error.code() for error in errors] == [grpc.StatusCode.RESOURCE_EXHAUSTED] * 4
    (packed,) = [value for key, value in errors[0].trailing_metadata() if key == "grpc-status-details-bin"]
    (detail,) = status_pb2.Status.FromString(packed).details
    retry = error_details_pb2.RetryInfo()
    assert detail.Unpack(retry)
    assert retry.retry_delay.ToMilliseconds() >= 100


def test_a_query_whose_deadline_passes_while_it_waits_is_never_encoded(store: EdgeStore, encoder: GatedEncoder) -> None:
    async def scenario(stub: Stub, _: grpc.aio.Channel) -> grpc.StatusCode:
        first = asyncio.ensure_future(stub.Retrieve(NORTH))
        await encoder.until_begun()
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await stub.Retrieve(pb.RetrieveRequest(namespace="cities", query="late"), timeout=0.2)
        encoder.go_on.set()
        await first
        await stub.Retrieve(NORTH)
        return raised.value.code()

    assert serve(store, encoder, scenario) is grpc.StatusCode.DEADLINE_EXCEEDED
    assert encoder.queries[1:] == ["north", "north"]  # after the warm-up


def test_health_is_answered_while_a_query_is_encoded(store: EdgeStore, encoder: GatedEncoder) -> None:
    async def scenario(stub: Stub, channel: grpc.aio.Channel) -> int:
        asked = asyncio.ensure_future(stub.Retrieve(NORTH))
        await encoder.until_begun()
        status = await health(channel, SERVICE)  # the pass goes on only after this
        encoder.go_on.set()
        await asked
        return status

    assert serve(store, encoder, scenario) == health_pb2.HealthCheckResponse.SERVING


def test_a_batch_equals_its_queries_alone(store: EdgeStore, encoder: GatedEncoder) -> None:
    store.advance([LogPosition("updates", 0, 7)])
    position = pb.LogPosition(topic="updates", partition=0, offset=5)
    queries = ["north", "east", "both", "north"]
    encoder.go_on.set()

    async def scenario(stub: Stub, _: grpc.aio.Channel) -> tuple[list[Any], list[Any]]:
        request = pb.RetrieveBatchRequest(namespace="cities", queries=queries, min_position=position)
        together = await stub.RetrieveBatch(request)
        alone = [
            await stub.Retrieve(pb.RetrieveRequest(namespace="cities", query=query, min_position=position))
            for query in queries
        ]
        return list(together.responses), alone

    together, alone = serve(store, encoder, scenario)
    assert together == alone
    hit, miss = pb.DECISION_HIT, pb.DECISION_BELOW_SENTINEL
    assert [response.decision for response in together] == [hit, miss, hit, hit]


def test_explain_says_what_retrieve_decides_and_why(store: EdgeStore) -> None:
    when = datetime(2026, 1, 1, tzinfo=UTC)
    request = pb.ExplainRequest(namespace="cities", query="both", as_of=to_timestamp(when))
    response = answered(store, "Explain", request)
    mayor, river = response.nearest
    assert (response.decision, response.min_confidence, response.facts) == (pb.DECISION_HIT, 0.5, 2)
    assert (mayor.fact.fact_id, mayor.similarity, mayor.margin) == ("mayor", pytest.approx(0.8), 3.0)
    assert (river.fact.fact_id, river.similarity, river.margin) == ("river", pytest.approx(0.6), -1.25)
    assert (mayor.verdict, river.verdict) == (pb.VERDICT_APPLIES, pb.VERDICT_BELOW_SENTINEL)
    assert response.reason.startswith("It applies: of 2 candidates valid at 2026-01-01T00:00:00+00:00, 'mayor' is")
    assert response.model_version == MODEL_VERSION


def test_explain_shows_as_many_facts_as_are_asked_for(store: EdgeStore) -> None:
    store.write([make_write(make_fact(str(number)), axis(0, 1.0)) for number in range(6)])
    shown = {
        limit: len(
            answered(store, "Explain", pb.ExplainRequest(namespace="cities", query="north", limit=limit)).nearest
        )
        for limit in (0, 1, 7)
    }
    assert shown == {0: 5, 1: 1, 7: 7}


@pytest.mark.parametrize(
    ("method", "request_", "expected"),
    [
        ("RetrieveBatch", pb.RetrieveBatchRequest(), ("queries", "must be 1 to 64 queries, are 0")),
        ("RetrieveBatch", pb.RetrieveBatchRequest(queries=["x"] * 65), ("queries", "must be 1 to 64 queries, are 65")),
        ("RetrieveBatch", pb.RetrieveBatchRequest(queries=["x", " "]), ("queries[1]", "must not be empty")),
        ("Explain", pb.ExplainRequest(), ("query", "must not be empty")),
        ("Explain", pb.ExplainRequest(query="x", limit=101), ("limit", "must be at most 100")),
        ("Explain", pb.ExplainRequest(query="x", namespace="a/b"), None),
        ("RetrieveBatch", pb.RetrieveBatchRequest(queries=["x"], namespace="a/b"), None),
    ],
)
def test_a_bad_field_is_named(store: EdgeStore, method: str, request_: Any, expected: tuple[str, str] | None) -> None:
    found = violations(refusal(store, method, request_))
    assert found == [expected] if expected else [field for field, _ in found] == ["namespace"]
