import asyncio
import hashlib
import math
import threading
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any, TypeAlias, TypeVar

import grpc
import numpy as np
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from grpc_health.v1 import health_pb2

from grpc_calls import violations
from recipe_common.clock import to_timestamp
from recipe_protos.knowledge.v1.knowledge_pb2 import Source
from recipe_protos.retriever.v1 import retriever_pb2 as pb
from recipe_protos.retriever.v1 import retriever_pb2_grpc
from recipe_retriever.server import SERVICE, RetrieverServer
from recipe_retriever.settings import RetrieverSettings
from recipe_store import LogPosition, StoreUnavailableError
from recipe_store.edge_store import EdgeStore, open_edge_store
from retrieval_harness import (
    EVENT_TIME,
    MODEL_VERSION,
    PROMPT_WIDTH,
    VECTOR_SIZE,
    TableEncoder,
    axis,
    damage,
    make_fact,
    make_write,
    prompt_of,
    retraction,
)

Stub: TypeAlias = "retriever_pb2_grpc.RetrieverServiceAsyncStub"  # known to type checkers only
Result = TypeVar("Result")

FIX = "leave it out for the namespace's default"
FACT_MESSAGE = pb.Fact(
    namespace="cities",
    fact_id="mayor",
    revision=3,
    statement="The mayor of Aville is Ann",
    subject="Aville",
    aliases=["A-Ville", "AV"],
    valid_from=to_timestamp(datetime(2025, 1, 1, tzinfo=UTC)),
    valid_until=to_timestamp(datetime(2030, 1, 1, tzinfo=UTC)),
    labels={"country": "AA"},
    event_id="event-mayor",
    event_time=to_timestamp(EVENT_TIME),
    source=Source(publisher="atlas", uri="https://atlas.example/aville"),
    position=pb.LogPosition(topic="recipe.knowledge-updates.v1", partition=3, offset=17),
)


@pytest.fixture(scope="module")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EdgeStore]:
    """For requests that never reach a fact."""
    opened = open_edge_store(tmp_path_factory.mktemp("store"), MODEL_VERSION, VECTOR_SIZE, PROMPT_WIDTH)
    yield opened
    opened.close()


def serve(
    store: EdgeStore,
    scenario: Callable[[Stub, RetrieverServer, grpc.aio.Channel], Awaitable[Result]],
    encoder: TableEncoder | None = None,
    **settings: Any,
) -> Result:
    """Runs the scenario against a retriever on a port of its own."""

    async def run() -> Result:
        async with running(store, encoder or TableEncoder({"east": axis(1)}), **settings) as (server, channel):
            return await scenario(retriever_pb2_grpc.RetrieverServiceStub(channel), server, channel)

    return asyncio.run(run())


@asynccontextmanager
async def running(
    store: EdgeStore, encoder: TableEncoder, **settings: Any
) -> AsyncIterator[tuple[RetrieverServer, grpc.aio.Channel]]:
    chosen = RetrieverSettings(port=0, metrics_port=0, drain_seconds=0, **settings)
    server = RetrieverServer(chosen, encoder, store)
    try:
        port = await server.start()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield server, channel
    finally:
        await server.stop()


def call(store: EdgeStore, method: str, request: Any) -> Any:
    """The response to one call."""

    async def scenario(stub: Stub, _: RetrieverServer, __: grpc.aio.Channel) -> Any:
        return await getattr(stub, method)(request)

    return serve(store, scenario)


async def metric_lines(server: RetrieverServer) -> list[str]:
    """What /metrics shows."""
    url = f"http://127.0.0.1:{server.metrics_port}/metrics"
    response = await asyncio.to_thread(urllib.request.urlopen, url)
    return str(response.read().decode()).splitlines()


def refusal(store: EdgeStore, method: str, request: Any) -> grpc.aio.AioRpcError:
    """The error that ends one call."""
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        call(store, method, request)
    return raised.value


def test_a_hit_carries_the_fact_its_prompt_and_the_confidence(store: EdgeStore) -> None:
    store.write([make_write(make_fact(), axis(0, 5.0), value=0.25)])

    response = call(store, "Retrieve", pb.RetrieveRequest(namespace="cities", query="north"))

    values = prompt_of(0.25).tobytes()
    assert response == pb.RetrieveResponse(
        decision=pb.DECISION_HIT,
        similarity=1.0,
        margin=3.0,
        confidence=response.confidence,
        min_confidence=0.5,
        fact=FACT_MESSAGE,
        prompt=pb.Prompt(values=values, tokens=2, hidden_size=3, sha256=hashlib.sha256(values).digest()),
        model_version=MODEL_VERSION,
        looked_up="north",
    )
    assert response.confidence == pytest.approx(1 / (1 + math.exp(-3)))
    assert np.frombuffer(response.prompt.values, "<f2").tolist() == [0.25] * 6


@pytest.mark.parametrize("tokens", [1, 256])
def test_a_prompt_may_have_any_length(store: EdgeStore, tokens: int) -> None:
    store.write([make_write(make_fact(), axis(0, 5.0), tokens=tokens)])
    prompt = call(store, "Retrieve", pb.RetrieveRequest(namespace="cities", query="north")).prompt
    assert (prompt.tokens, prompt.hidden_size, len(prompt.values)) == (tokens, 3, 6 * tokens)


def test_a_miss_carries_the_nearest_fact_and_its_confidence(store: EdgeStore) -> None:
    store.write([make_write(make_fact(), axis(0, 1.0))])
    response = call(store, "Retrieve", pb.RetrieveRequest(namespace="cities", query="north"))
    assert response == pb.RetrieveResponse(
        decision=pb.DECISION_BELOW_SENTINEL,
        similarity=1.0,
        margin=-1.0,
        confidence=response.confidence,
        min_confidence=0.5,
        nearest_fact_id="mayor",
        model_version=MODEL_VERSION,
        looked_up="north",
    )
    assert response.confidence == pytest.approx(1 / (1 + math.e))


def test_a_miss_where_nothing_is_near_has_no_confidence(store: EdgeStore) -> None:
    store.write([make_write(make_fact(), axis(0, 5.0))])
    response = call(store, "Retrieve", pb.RetrieveRequest(namespace="cities", query="east"))
    assert response == pb.RetrieveResponse(
        decision=pb.DECISION_BELOW_SENTINEL, min_confidence=0.5, model_version=MODEL_VERSION, looked_up="east"
    )
    assert not response.HasField("similarity")
    assert not response.HasField("margin")


def test_a_base_without_facts_is_an_answer_too(empty_store: EdgeStore) -> None:
    response = call(empty_store, "Retrieve", pb.RetrieveRequest(query="north"))
    assert response == pb.RetrieveResponse(
        decision=pb.DECISION_EMPTY_BASE, min_confidence=0.5, model_version=MODEL_VERSION, looked_up="north"
    )


def test_a_failed_second_step_is_a_degraded_miss(store: EdgeStore) -> None:
    store.write([make_write(make_fact(), axis(0, 5.0))])
    encoder = TableEncoder()
    encoder.verifier.broken = "no numbers"
    request: dict[str, Any] = {"namespace": "cities", "query": "north"}

    async def scenario(
        stub: Stub, server: RetrieverServer, _: grpc.aio.Channel
    ) -> tuple[pb.RetrieveResponse, pb.ExplainResponse, list[str]]:
        found = await stub.Retrieve(pb.RetrieveRequest(**request))
        return found, await stub.Explain(pb.ExplainRequest(**request)), await metric_lines(server)

    found, explained, metrics = serve(store, scenario, encoder)

    assert (found.decision, found.degraded, found.confidence) == (pb.DECISION_BELOW_SENTINEL, True, 0)
    assert found.degraded_reason == "the second step of the decision failed, so no fact applies: no numbers"
    assert not found.HasField("fact")
    assert not found.HasField("prompt")
    assert (explained.decision, explained.degraded) == (pb.DECISION_BELOW_SENTINEL, True)
    assert not explained.nearest[0].HasField("confidence")
    assert "recipe_retriever_verifier_failures_total 1.0" in metrics  # Explain decides nothing
    assert 'recipe_retriever_confidence_count{decision="below_sentinel"} 0.0' in metrics


def test_the_least_confidence_is_the_requests_then_the_namespaces_then_the_servers(store: EdgeStore) -> None:
    store.write([make_write(make_fact(namespace=name), axis(0, 5.0)) for name in ("cities", "towns")])
    settings: dict[str, Any] = {"min_confidence": 0.96875, "namespace_min_confidence": {"towns": 0.9375}}
    asked: list[dict[str, Any]] = [
        {"namespace": "cities"},
        {"namespace": "towns"},
        {"namespace": "towns", "min_confidence": 1.0},
    ]

    async def scenario(stub: Stub, _: RetrieverServer, __: grpc.aio.Channel) -> list[list[tuple[int, float]]]:
        return [
            [
                (found.decision, found.min_confidence)
                for found in (
                    await stub.Retrieve(pb.RetrieveRequest(query="north", **each)),
                    (await stub.RetrieveBatch(pb.RetrieveBatchRequest(queries=["north"], **each))).responses[0],
                    await stub.Explain(pb.ExplainRequest(query="north", **each)),
                )
            ]
            for each in asked
        ]

    assert serve(store, scenario, **settings) == [  # the confidence is 0.953
        [(pb.DECISION_BELOW_SENTINEL, 0.96875)] * 3,
        [(pb.DECISION_HIT, 0.9375)] * 3,
        [(pb.DECISION_BELOW_SENTINEL, 1.0)] * 3,
    ]


def test_no_namespace_is_the_default_one(store: EdgeStore) -> None:
    store.write([make_write(make_fact(namespace="default"), axis(0, 5.0))])
    assert call(store, "Retrieve", pb.RetrieveRequest(query="north")).fact.namespace == "default"


def test_a_query_may_ask_about_another_time(store: EdgeStore) -> None:
    store.write([make_write(make_fact(), axis(0, 5.0))])
    times = [datetime(2024, 6, 1, tzinfo=UTC), datetime(2026, 6, 1, tzinfo=UTC), datetime(2031, 6, 1, tzinfo=UTC)]

    async def scenario(stub: Stub, _: RetrieverServer, __: grpc.aio.Channel) -> list[int]:
        requests = [pb.RetrieveRequest(namespace="cities", query="north", as_of=to_timestamp(time)) for time in times]
        return [(await stub.Retrieve(request)).decision for request in requests]

    assert serve(store, scenario) == [pb.DECISION_BELOW_SENTINEL, pb.DECISION_HIT, pb.DECISION_BELOW_SENTINEL]


@pytest.mark.parametrize(
    ("method", "request_", "expected"),
    [
        ("Retrieve", pb.RetrieveRequest(), ("query", "must not be empty")),
        ("Retrieve", pb.RetrieveRequest(query=" \n"), ("query", "must not be empty")),
        ("Retrieve", pb.RetrieveRequest(query="x" * 32_001), ("query", "must have at most 32000 characters")),
        (
            "Retrieve",
            pb.RetrieveRequest(query="q", as_of=Timestamp(seconds=-(10**12))),
            ("as_of", "must lie in the years 1 to 9999, with nanos from 0 to 999999999"),
        ),
        *(
            (method, request, ("min_confidence", f"must be from 0 to 1, is {given}; {FIX}"))
            for method, request, given in (
                ("Retrieve", pb.RetrieveRequest(query="q", min_confidence=-0.5), "-0.5"),
                ("Retrieve", pb.RetrieveRequest(query="q", min_confidence=math.nan), "nan"),
                ("RetrieveBatch", pb.RetrieveBatchRequest(queries=["q"], min_confidence=90), "90"),
                ("Explain", pb.ExplainRequest(query="q", min_confidence=1.5), "1.5"),
            )
        ),
        ("GetFact", pb.GetFactRequest(), ("fact_id", "must have at least 1 character")),
        ("GetFactHistory", pb.GetFactHistoryRequest(), ("fact_id", "must have at least 1 character")),
        (
            "Retrieve",
            pb.RetrieveRequest(query="x", min_position=pb.LogPosition(offset=3)),
            ("min_position.topic", "must name the topic that the event was published to"),
        ),
        (
            "Retrieve",
            pb.RetrieveRequest(query="x", min_position=pb.LogPosition(topic="t", partition=-1)),
            ("min_position.partition", "must be 0 or more"),
        ),
        (
            "ListFacts",
            pb.ListFactsRequest(page_size=1001),
            ("page_size", "must be at most 1000; page through with page_token"),
        ),
        (
            "ListFacts",
            pb.ListFactsRequest(page_token="x"),
            ("page_token", "must be empty or the token of the page before"),
        ),
    ],
)
def test_a_bad_field_is_named_with_what_it_must_be(
    empty_store: EdgeStore, method: str, request_: Any, expected: tuple[str, str]
) -> None:
    assert violations(refusal(empty_store, method, request_)) == [expected]


@pytest.mark.parametrize(
    ("method", "request_"),
    [
        ("Retrieve", pb.RetrieveRequest(query="q")),
        ("GetFact", pb.GetFactRequest(fact_id="mayor")),
        ("GetFactHistory", pb.GetFactHistoryRequest(fact_id="mayor")),
        ("ListFacts", pb.ListFactsRequest()),
    ],
)
@pytest.mark.parametrize("namespace", ["a/b", "a\nb", "x" * 257])
def test_a_bad_namespace_is_refused_everywhere(
    empty_store: EdgeStore, method: str, request_: Any, namespace: str
) -> None:
    request = type(request_)()
    request.CopyFrom(request_)
    request.namespace = namespace
    ((field, _),) = violations(refusal(empty_store, method, request))
    assert field == "namespace"


def test_a_fact_is_found_by_its_id_also_when_it_is_retracted(store: EdgeStore) -> None:
    store.write([make_write(make_fact(), axis(0))])
    request = pb.GetFactRequest(namespace="cities", fact_id="mayor")
    assert call(store, "GetFact", request).fact == FACT_MESSAGE

    store.write([retraction()])
    fact = call(store, "GetFact", request).fact
    assert (fact.retracted, fact.retract_reason, fact.statement, fact.revision) == (True, "withdrawn", "", 4)


def test_an_unbounded_validity_is_unset(store: EdgeStore) -> None:
    store.write([make_write(make_fact(valid_from=None, valid_until=None), axis(0))])
    fact = call(store, "GetFact", pb.GetFactRequest(namespace="cities", fact_id="mayor")).fact
    assert not fact.HasField("valid_from")
    assert not fact.HasField("valid_until")


def test_an_unknown_fact_is_not_found(empty_store: EdgeStore) -> None:
    error = refusal(empty_store, "GetFact", pb.GetFactRequest(namespace="cities", fact_id="mayor"))
    assert error.code() is grpc.StatusCode.NOT_FOUND
    assert error.details() == "fact_id: no fact 'mayor' was ever stored in namespace 'cities'"


def test_the_history_of_a_fact_shows_what_it_superseded(store: EdgeStore) -> None:
    store.write([make_write(make_fact(), axis(0))])
    store.write([retraction()])
    request = pb.GetFactHistoryRequest(namespace="cities", fact_id="mayor")
    newest, first = call(store, "GetFactHistory", request).revisions
    assert (newest.retracted, newest.revision) == (True, 4)
    assert first == FACT_MESSAGE


def test_an_unknown_fact_has_no_history(empty_store: EdgeStore) -> None:
    error = refusal(empty_store, "GetFactHistory", pb.GetFactHistoryRequest(namespace="cities", fact_id="mayor"))
    assert error.code() is grpc.StatusCode.NOT_FOUND
    assert error.details() == "fact_id: no fact 'mayor' was ever stored in namespace 'cities'"


def test_a_damaged_prompt_is_refused_and_counted(store: EdgeStore) -> None:
    store.write([make_write(make_fact(), axis(0, 5.0))])
    damage(store, part="prompt")

    async def scenario(stub: Stub, server: RetrieverServer, _: grpc.aio.Channel) -> tuple[grpc.aio.AioRpcError, str]:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await stub.Retrieve(pb.RetrieveRequest(namespace="cities", query="north"))
        url = f"http://127.0.0.1:{server.metrics_port}/metrics"
        shown = await asyncio.to_thread(lambda: urllib.request.urlopen(url, timeout=10).read().decode())
        return raised.value, shown

    error, shown = serve(store, scenario)
    assert error.code() is grpc.StatusCode.DATA_LOSS
    assert (error.details() or "").startswith("the stored prompt of fact 'mayor' in namespace 'cities' is corrupt")
    assert 'recipe_retriever_calls_total{code="DATA_LOSS",method="Retrieve"} 1.0' in shown


def test_damaged_token_states_are_a_degraded_miss(store: EdgeStore) -> None:
    store.write([make_write(make_fact(), axis(0, 5.0))])
    damage(store)
    request: dict[str, Any] = {"namespace": "cities", "query": "north"}

    async def scenario(
        stub: Stub, server: RetrieverServer, _: grpc.aio.Channel
    ) -> tuple[pb.RetrieveResponse, pb.ExplainResponse, list[str]]:
        found = await stub.Retrieve(pb.RetrieveRequest(**request))
        return found, await stub.Explain(pb.ExplainRequest(**request)), await metric_lines(server)

    found, explained, metrics = serve(store, scenario)

    assert (found.decision, found.degraded, found.nearest_fact_id) == (pb.DECISION_BELOW_SENTINEL, True, "")
    assert "token data of fact 'mayor' in namespace 'cities' is corrupt" in found.degraded_reason
    assert (explained.degraded, explained.degraded_reason) == (True, found.degraded_reason)
    (shown,) = explained.nearest
    assert (shown.fact, shown.verdict, shown.HasField("confidence")) == (FACT_MESSAGE, pb.VERDICT_BELOW_SENTINEL, False)
    assert "recipe_retriever_damaged_facts_total 1.0" in metrics
    assert "recipe_retriever_verifier_failures_total 0.0" in metrics


AT_FIVE = pb.LogPosition(topic="updates", partition=1, offset=5)


def test_a_query_waits_until_its_place_in_the_log_is_applied(store: EdgeStore) -> None:
    request = pb.RetrieveRequest(namespace="cities", query="north", min_position=AT_FIVE)

    async def scenario(stub: Stub, _: RetrieverServer, __: grpc.aio.Channel) -> pb.RetrieveResponse:
        asked = asyncio.ensure_future(stub.Retrieve(request, timeout=10))
        await asyncio.sleep(0.1)
        assert not asked.done()
        store.write([make_write(make_fact(), axis(0, 5.0))])
        store.advance([LogPosition("updates", 1, 7)])
        return await asked

    response = serve(store, scenario)
    assert response.fact == FACT_MESSAGE
    assert response.applied_position == pb.LogPosition(topic="updates", partition=1, offset=7)


def test_without_a_place_in_the_log_none_is_named(empty_store: EdgeStore) -> None:
    assert not call(empty_store, "Retrieve", pb.RetrieveRequest(query="north")).HasField("applied_position")


@pytest.mark.parametrize(("applied", "far"), [(None, "nothing of that partition is"), (4, "that partition is up to 4")])
def test_a_place_that_is_not_applied_in_time_says_how_far_the_log_is(
    store: EdgeStore, applied: int | None, far: str
) -> None:
    if applied is not None:
        store.advance([LogPosition("updates", 1, applied)])

    async def scenario(stub: Stub, _: RetrieverServer, __: grpc.aio.Channel) -> grpc.aio.AioRpcError:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await stub.Retrieve(pb.RetrieveRequest(query="north", min_position=AT_FIVE), timeout=0.5)
        return raised.value

    error = serve(store, scenario)
    assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert error.details() == (
        f"min_position: updates/1/5 is not applied yet, {far}; "
        "ask again with a longer deadline, and see whether the encoder runs"
    )


def test_facts_are_listed_page_by_page(store: EdgeStore) -> None:
    names = {f"fact-{number}" for number in range(5)}
    store.write([make_write(make_fact(name), axis(0)) for name in names])
    store.write([make_write(make_fact("elsewhere", namespace="towns"), axis(0))])

    async def scenario(stub: Stub, _: RetrieverServer, __: grpc.aio.Channel) -> list[list[str]]:
        pages: list[list[str]] = []
        token = ""
        while token or not pages:
            request = pb.ListFactsRequest(namespace="cities", page_size=2, page_token=token)
            response = await stub.ListFacts(request)
            pages.append([fact.fact_id for fact in response.facts])
            token = response.next_page_token
        return pages

    pages = serve(store, scenario)
    assert [len(page) for page in pages] == [2, 2, 1]
    assert {name for page in pages for name in page} == names


def test_a_page_holds_a_hundred_facts_unless_told_otherwise(store: EdgeStore) -> None:
    store.write([make_write(make_fact(f"fact-{number}"), axis(0)) for number in range(102)])
    first = call(store, "ListFacts", pb.ListFactsRequest(namespace="cities"))
    whole = call(store, "ListFacts", pb.ListFactsRequest(namespace="cities", page_size=1000))
    assert (len(first.facts), bool(first.next_page_token)) == (100, True)
    assert (len(whole.facts), whole.next_page_token) == (102, "")


def test_retracted_facts_are_listed_on_request_only(store: EdgeStore) -> None:
    store.write([make_write(make_fact("mayor"), axis(0)), make_write(make_fact("river"), axis(1))])
    store.write([retraction("mayor")])

    live = call(store, "ListFacts", pb.ListFactsRequest(namespace="cities")).facts
    every = call(store, "ListFacts", pb.ListFactsRequest(namespace="cities", include_retracted=True)).facts

    assert [fact.fact_id for fact in live] == ["river"]
    assert {fact.fact_id: fact.retracted for fact in every} == {"mayor": True, "river": False}


def test_a_store_that_does_not_answer_makes_the_service_unavailable(
    empty_store: EdgeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def search(*_: object, **__: object) -> None:
        raise StoreUnavailableError("the store is away")

    monkeypatch.setattr(empty_store, "search", search)
    error = refusal(empty_store, "Retrieve", pb.RetrieveRequest(query="north"))
    assert (error.code(), error.details()) == (grpc.StatusCode.UNAVAILABLE, "the store is away")


def test_a_started_retriever_serves_health_and_metrics(empty_store: EdgeStore) -> None:
    async def scenario(stub: Stub, server: RetrieverServer, channel: grpc.aio.Channel) -> tuple[int, list[str]]:
        check = channel.unary_unary(
            "/grpc.health.v1.Health/Check",
            request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
            response_deserializer=health_pb2.HealthCheckResponse.FromString,
        )
        health = await check(health_pb2.HealthCheckRequest(service=SERVICE))
        await stub.Retrieve(pb.RetrieveRequest(query="north"))
        return health.status, await metric_lines(server)

    status, metrics = serve(empty_store, scenario)
    assert status == health_pb2.HealthCheckResponse.SERVING
    for line in (
        'recipe_retriever_decisions_total{decision="empty_base"} 1.0',
        'recipe_retriever_calls_total{code="OK",method="Retrieve"} 1.0',
        'recipe_retriever_stage_seconds_count{stage="queue"} 1.0',
        'recipe_retriever_stage_seconds_count{stage="total"} 1.0',
        "recipe_retriever_requests_inside 0.0",
        "recipe_retriever_request_places 256.0",
        f'recipe_retriever_model_info{{model_version="{MODEL_VERSION}"}} 1.0',
    ):
        assert line in metrics


def test_who_waits_for_a_thread_is_inside(store: EdgeStore, monkeypatch: pytest.MonkeyPatch) -> None:
    search, go_on = store.search, threading.Event()

    def slow(*given: Any, **more: Any) -> Any:
        assert go_on.wait(20)
        return search(*given, **more)

    monkeypatch.setattr(store, "search", slow)

    async def scenario(stub: Stub, server: RetrieverServer, _: grpc.aio.Channel) -> list[str]:
        asked = [asyncio.ensure_future(stub.Retrieve(pb.RetrieveRequest(query="north"))) for _ in range(3)]
        line = "recipe_retriever_requests_inside 3.0"
        while line not in await metric_lines(server):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        go_on.set()
        await asyncio.gather(*asked)
        return await metric_lines(server)

    assert "recipe_retriever_requests_inside 0.0" in serve(store, scenario)
