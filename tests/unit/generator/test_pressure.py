"""Too many requests, too little time, a model or a retriever that fails, and an orderly end."""

import asyncio
from threading import Event
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]
from grpc_health.v1 import health_pb2
from pydantic import ValidationError

from generation_harness import MISS, TEXT, FakeRetriever, Gate, Setup, Stub, health
from recipe_common.errors import UnavailableError
from recipe_generator import server as server_module
from recipe_generator.server import GeneratorServer
from recipe_generator.settings import GeneratorSettings
from recipe_model.language_model import LanguageModel
from recipe_protos.generator.v1 import generator_pb2 as pb
from recipe_protos.retriever.v1 import retriever_pb2
from tiny_models import make_language_model

OFF = pb.GenerateRequest(prompt=TEXT, max_new_tokens=4, knowledge=pb.KNOWLEDGE_MODE_OFF)
LONG = pb.GenerateRequest(prompt=TEXT, max_new_tokens=200, knowledge=pb.KNOWLEDGE_MODE_OFF)
SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


@pytest.fixture
def llm() -> LanguageModel:
    return make_language_model()


@pytest.fixture
def setup(llm: LanguageModel) -> Setup:
    return Setup(llm)


def codes(results: list[Any]) -> list[grpc.StatusCode]:
    return [result.code() if isinstance(result, grpc.aio.AioRpcError) else grpc.StatusCode.OK for result in results]


def test_one_request_too_many_is_told_when_to_come_back_and_the_others_are_answered(setup: Setup) -> None:
    setup.settings = {"max_rows": 2, "max_waiting": 1}

    async def scenario(stub: Stub, _: GeneratorServer, __: grpc.aio.Channel) -> tuple[list[Any], Any]:
        gate = Gate(setup.llm)
        accepted = [asyncio.ensure_future(stub.Generate(OFF)) for _ in range(3)]
        await gate.until_begun(1)
        while True:  # until the third one has come in
            try:
                await stub.Generate(LONG, timeout=0.2)
            except grpc.aio.AioRpcError as error:
                if error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED:
                    gate.open()
                    answers = await asyncio.gather(*accepted)
                    return [answer.text for answer in answers], error

    texts, error = setup.run(scenario)

    assert texts == [make_language_model().generate(None, TEXT, 4).text] * 3
    (packed,) = [value for key, value in error.trailing_metadata() if key == "grpc-status-details-bin"]
    (detail,) = status_pb2.Status.FromString(packed).details
    retry = error_details_pb2.RetryInfo()
    assert detail.Unpack(retry)
    assert retry.retry_delay.ToMilliseconds() >= 100


def test_a_comparison_needs_a_place_for_each_of_its_texts(setup: Setup) -> None:
    setup.settings = {"max_rows": 1, "max_waiting": 1}
    both = pb.CompareRequest(prompt=TEXT, max_new_tokens=4)

    async def scenario(stub: Stub, _: GeneratorServer, __: grpc.aio.Channel) -> list[Any]:
        gate = Gate(setup.llm)
        inside = asyncio.ensure_future(stub.Generate(OFF))
        await gate.until_begun(1)
        refused = await asyncio.gather(stub.Compare(both), return_exceptions=True)
        gate.open()
        await inside
        return [*refused, await stub.Compare(both)]

    refused, compared = setup.run(scenario)

    assert refused.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert compared.without_knowledge.text == make_language_model().generate(None, TEXT, 4).text


def test_a_generator_has_places_for_a_comparison() -> None:
    with pytest.raises(ValidationError, match="MAX_ROWS and RECIPE_GENERATOR_MAX_WAITING must be at least 2"):
        GeneratorSettings(max_rows=1, max_waiting=0)


def test_a_request_that_takes_longer_than_the_server_allows_is_ended(setup: Setup) -> None:
    setup.settings = {"request_seconds": 0.3}

    async def scenario(stub: Stub, _: GeneratorServer, __: grpc.aio.Channel) -> tuple[grpc.aio.AioRpcError, int]:
        gate = Gate(setup.llm)
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await stub.Generate(LONG)
        gate.open()
        await stub.Generate(pb.GenerateRequest(prompt=TEXT, max_new_tokens=1, knowledge=pb.KNOWLEDGE_MODE_OFF))
        return raised.value, gate.begun

    error, passes = setup.run(scenario)

    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert (error.details() or "").startswith(
        "the answer was not finished within 0.3 s; allow more time, at most 0.3 s"
    )
    assert passes == 2  # the one that was running, and the next request's


def test_a_request_whose_deadline_passes_while_it_waits_is_never_begun(setup: Setup) -> None:
    setup.settings = {"max_rows": 1}

    async def scenario(stub: Stub, server: GeneratorServer, _: grpc.aio.Channel) -> int:
        gate = Gate(setup.llm)
        first = asyncio.ensure_future(stub.Generate(OFF))
        await gate.until_begun(1)
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await stub.Generate(LONG, timeout=0.2)
        assert raised.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        gate.open()
        await first
        assert server._admission is not None
        await server._admission.until_empty()
        return gate.begun

    assert setup.run(scenario) == 4  # the first request's tokens


def test_health_is_answered_while_the_model_computes(setup: Setup) -> None:
    async def scenario(stub: Stub, _: GeneratorServer, channel: grpc.aio.Channel) -> int:
        gate = Gate(setup.llm)
        asked = asyncio.ensure_future(stub.Generate(OFF))
        await gate.until_begun(1)
        status = await health(channel)  # the pass goes on only after this
        gate.open()
        await asked
        return status

    assert setup.run(scenario) == SERVING


def test_health_follows_the_model(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "_PROBE_SECONDS", 0.01)
    broken = True

    def fail(*_: object) -> None:
        if broken:
            raise RuntimeError("out of memory")

    async def scenario(stub: Stub, _: GeneratorServer, channel: grpc.aio.Channel) -> list[Any]:
        nonlocal broken
        setup.llm.model.register_forward_pre_hook(fail)
        failed = await asyncio.gather(stub.Generate(OFF), return_exceptions=True)
        while await health(channel) == SERVING:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        broken = False
        while await health(channel) == NOT_SERVING:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        return [*failed, await stub.Generate(OFF)]

    results = setup.run(scenario)

    assert codes(results) == [grpc.StatusCode.INTERNAL, grpc.StatusCode.OK]
    assert results[0].details() == "the LLM failed; the log of the generator has the cause"


def test_a_model_that_hangs_when_it_is_tried_is_not_serving(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "_PROBE_SECONDS", 0.01)
    setup.settings = {"request_seconds": 0.5}
    failed, goes_on = Event(), Event()

    def fail_and_hang(*_: object) -> None:
        if not failed.is_set():
            failed.set()
            raise RuntimeError("out of memory")
        assert goes_on.wait(20)

    async def scenario(stub: Stub, _: GeneratorServer, channel: grpc.aio.Channel) -> Any:
        setup.llm.model.register_forward_pre_hook(fail_and_hang)
        await asyncio.gather(stub.Generate(OFF), return_exceptions=True)
        async with asyncio.timeout(10):
            while await health(channel) == SERVING:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        goes_on.set()
        while await health(channel) == NOT_SERVING:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        return await stub.Generate(OFF)

    assert setup.run(scenario).text == make_language_model().generate(None, TEXT, 4).text


def test_a_stop_lets_those_inside_end_and_refuses_others(setup: Setup) -> None:
    setup.settings = {"drain_seconds": 20}

    async def scenario(stub: Stub, server: GeneratorServer, channel: grpc.aio.Channel) -> list[Any]:
        gate = Gate(setup.llm)
        inside = asyncio.ensure_future(stub.Generate(OFF))
        stream = aiter(stub.GenerateStream(pb.GenerateStreamRequest(request=OFF)))
        assert (await anext(stream)).HasField("knowledge")
        await gate.until_begun(1)
        stopping = asyncio.create_task(server.stop())
        while await health(channel) == SERVING:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        refused = await asyncio.gather(stub.Generate(OFF), return_exceptions=True)
        assert not stopping.done()
        gate.open()
        events = [event async for event in stream]
        results = [*refused, await inside, events[-1].answer]
        await stopping
        return results

    refused, answer, streamed = setup.run(scenario)

    assert (refused.code(), refused.details()) == (
        grpc.StatusCode.UNAVAILABLE,
        "the service is warming up or draining; retry",
    )
    assert answer == streamed
    assert answer.text == make_language_model().generate(None, TEXT, 4).text


def test_who_is_still_inside_when_the_drain_is_over_is_told_to_retry(setup: Setup) -> None:
    setup.settings = {"drain_seconds": 0.1}

    async def scenario(stub: Stub, server: GeneratorServer, _: grpc.aio.Channel) -> list[Any]:
        gate = Gate(setup.llm)
        asked = asyncio.gather(*(stub.Generate(LONG) for _ in range(2)), return_exceptions=True)
        await gate.until_begun(1)
        stopping = asyncio.create_task(server.stop())
        await asyncio.sleep(0.3)
        gate.open()
        results = await asked
        await stopping
        return list(results)

    results = setup.run(scenario)

    assert codes(results) == [grpc.StatusCode.UNAVAILABLE] * 2
    assert results[0].details() == "the generator is stopping; retry"


class StumblingRetriever(FakeRetriever):
    """Fails a number of times before it answers."""

    def __init__(self, failures: int) -> None:
        super().__init__()
        self.failures = failures

    async def Retrieve(  # noqa: N802
        self, request: retriever_pb2.RetrieveRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> retriever_pb2.RetrieveResponse:
        self.answer = UnavailableError("restarting") if len(self.requests) < self.failures else MISS
        return await super().Retrieve(request, context)


def test_a_retriever_that_is_away_for_a_moment_is_asked_again(setup: Setup) -> None:
    setup.retriever = StumblingRetriever(2)
    answer = setup.generate()
    assert answer.knowledge.status == pb.KNOWLEDGE_STATUS_UNEDITED_NO_MATCH
    assert len(setup.retriever.requests) == 3


def test_a_retriever_that_stays_away_is_not_asked_for_ever(setup: Setup) -> None:
    setup.retriever = StumblingRetriever(1000)
    assert setup.refusal().code() is grpc.StatusCode.UNAVAILABLE
    assert len(setup.retriever.requests) == 3
