"""What the generator's tests are made of: a retriever that answers as it is told, and a generator in front of it."""

import asyncio
import hashlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from threading import Condition, Event
from typing import Any, TypeAlias, TypeVar

import grpc
import numpy as np
import pytest
import torch
from grpc_health.v1 import health_pb2
from numpy.typing import NDArray

from recipe_common.errors import RecipeError
from recipe_common.grpc_server import build_server
from recipe_generator import text_stream
from recipe_generator.engine import Edit, Engine
from recipe_generator.server import SERVICE, GeneratorServer
from recipe_generator.settings import GeneratorSettings
from recipe_generator.transformers_engine import TransformersEngine
from recipe_model.checkpoint import Checkpoint
from recipe_model.language_model import LanguageModel
from recipe_model.llm_tokens import LlmTokens
from recipe_protos.generator.v1 import generator_pb2, generator_pb2_grpc
from recipe_protos.retriever.v1 import retriever_pb2 as pb
from recipe_protos.retriever.v1 import retriever_pb2_grpc
from tiny_models import SIZES, checkpoint_config

Stub: TypeAlias = "generator_pb2_grpc.GeneratorServiceAsyncStub"  # known to type checkers only
Result = TypeVar("Result")

MODEL_VERSION = "recipe-tiny"
TEXT = "The mayor of Aville is"
ASKED: dict[str, Any] = {"prompt": TEXT, "max_new_tokens": 8}
MISS = pb.RetrieveResponse(
    decision=pb.DECISION_BELOW_SENTINEL,
    similarity=0.5,
    margin=-2.0,
    confidence=0.25,
    min_confidence=0.75,
    nearest_fact_id="river",
    model_version=MODEL_VERSION,
)


def some_prompt(seed: int = 0, tokens: int = SIZES.prompt_tokens) -> NDArray[np.float16]:
    """A continuous prompt [tokens, d] that changes what the tiny LLM writes."""
    values = np.random.default_rng(seed).normal(size=(tokens, SIZES.llm_hidden))
    return values.astype(np.float16)


class Spelled:
    """Decodes a token to its number. What a random model writes are often halves of characters, which are held back."""

    def __init__(self, **_: object) -> None:
        pass

    def step(self, _: object, token: int) -> str:
        return f"<{token}>"


def spell_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let texts show their tokens."""
    monkeypatch.setattr(text_stream, "DecodeStream", Spelled)
    monkeypatch.setattr(LlmTokens, "text", lambda _, ids: "".join(f"<{token}>" for token in ids))


def in_front(llm: LanguageModel, edit: Edit) -> torch.Tensor:
    """What stands in front of a text [l + n, d] for an edit that has a prompt."""
    assert edit.prompt is not None
    return llm.told(edit.statement, torch.from_numpy(edit.prompt.copy()))


def hit(prompt: NDArray[np.float16], **changes: Any) -> pb.RetrieveResponse:
    """The retriever's answer when a fact applies; `changes` are to the message of its prompt."""
    values = prompt.astype("<f2").tobytes()
    message = pb.Prompt(
        values=values, tokens=prompt.shape[0], hidden_size=prompt.shape[1], sha256=hashlib.sha256(values).digest()
    )
    for name, value in changes.items():
        setattr(message, name, value)
    return pb.RetrieveResponse(
        decision=pb.DECISION_HIT,
        similarity=0.875,
        margin=3.0,
        confidence=0.9375,
        min_confidence=0.75,
        fact=pb.Fact(namespace="cities", fact_id="mayor", revision=7, statement="The mayor of Aville is Ann"),
        prompt=message,
        model_version=MODEL_VERSION,
    )


class FakeRetriever(retriever_pb2_grpc.RetrieverServiceServicer):
    """Answers every query with `answer`, or raises it; keeps the requests and the time that each was given."""

    def __init__(self, answer: pb.RetrieveResponse | RecipeError = MISS) -> None:
        self.answer = answer
        self.requests: list[pb.RetrieveRequest] = []
        self.seconds: list[float] = []

    async def Retrieve(  # noqa: N802
        self, request: pb.RetrieveRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.RetrieveResponse:
        self.requests.append(request)
        self.seconds.append(context.time_remaining() or 0.0)
        if isinstance(self.answer, RecipeError):
            raise self.answer
        return self.answer

    async def RetrieveBatch(  # noqa: N802
        self, request: pb.RetrieveBatchRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.RetrieveBatchResponse:
        raise NotImplementedError

    async def Explain(  # noqa: N802
        self, request: pb.ExplainRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.ExplainResponse:
        raise NotImplementedError

    async def GetFact(  # noqa: N802
        self, request: pb.GetFactRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.GetFactResponse:
        raise NotImplementedError

    async def GetFactHistory(  # noqa: N802
        self, request: pb.GetFactHistoryRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.GetFactHistoryResponse:
        raise NotImplementedError

    async def ListFacts(  # noqa: N802
        self, request: pb.ListFactsRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.ListFactsResponse:
        raise NotImplementedError


@asynccontextmanager
async def served(retriever: FakeRetriever) -> AsyncIterator[str]:
    """The address of a server that serves the retriever."""
    server = build_server(
        port=0,
        port_setting="PORT",
        service_names=[],
        register=lambda target: retriever_pb2_grpc.add_RetrieverServiceServicer_to_server(retriever, target),
    )
    await server.start()
    await server.set_serving(True)
    try:
        yield f"127.0.0.1:{server.port}"
    finally:
        await server.stop(0)


@asynccontextmanager
async def generator(engine: Engine, retriever: str, **settings: Any) -> AsyncIterator[tuple[GeneratorServer, str]]:
    """A started generator that asks the retriever at that address, and its own address."""
    checkpoint = Checkpoint(Path("recipe.safetensors"), checkpoint_config(), MODEL_VERSION, {})
    defaults: dict[str, Any] = {"port": 0, "metrics_port": 0, "drain_seconds": 0, "retriever": retriever}
    chosen = GeneratorSettings(**(defaults | settings))
    server = GeneratorServer(chosen, engine, checkpoint)
    try:
        yield server, f"127.0.0.1:{await server.start()}"
    finally:
        await server.stop()


async def health(channel: grpc.aio.Channel, service: str = SERVICE) -> int:
    """The health of the generator, or another service, behind a channel."""
    check = channel.unary_unary(
        "/grpc.health.v1.Health/Check",
        request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
        response_deserializer=health_pb2.HealthCheckResponse.FromString,
    )
    status: int = (await check(health_pb2.HealthCheckRequest(service=service))).status
    return status


@contextmanager
def silent_address() -> Iterator[str]:
    """An address that accepts connections and never says a word, as a hung retriever does."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"127.0.0.1:{listener.getsockname()[1]}"


def closed_address() -> str:
    """An address where nobody listens."""
    with silent_address() as address:
        return address


class Gate:
    """Holds an LLM's forward passes: each one waits until it is let pass."""

    def __init__(self, llm: LanguageModel) -> None:
        self.begun = 0
        self._changed = Condition()
        self._open = False
        self._turn = Event()
        llm.model.register_forward_pre_hook(self._wait)

    async def until_begun(self, count: int) -> None:
        """Returns when so many forward passes have begun."""
        await asyncio.to_thread(self._wait_for_begun, count)

    def let_one_pass(self) -> None:
        """End the waiting of the pass that has begun."""
        self._turn.set()

    def open(self) -> None:
        """Let all pass."""
        self._open = True
        self._turn.set()

    def _wait_for_begun(self, count: int) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: self.begun >= count, 20)

    def _wait(self, *_: object) -> None:
        with self._changed:
            self.begun += 1
            self._changed.notify_all()
        if not self._open:
            assert self._turn.wait(20)
            self._turn.clear()


class Setup:
    """A generator in front of a retriever, started for one scenario."""

    def __init__(self, llm: LanguageModel, answer: pb.RetrieveResponse | RecipeError = MISS) -> None:
        self.llm = llm
        self.retriever = FakeRetriever(answer)
        self.settings: dict[str, Any] = {}

    def run(self, scenario: Callable[[Stub, GeneratorServer, grpc.aio.Channel], Awaitable[Result]]) -> Result:
        async def started() -> Result:
            async with (
                served(self.retriever) as asked,
                generator(TransformersEngine(self.llm), **{"retriever": asked} | self.settings) as (server, address),
                grpc.aio.insecure_channel(address) as channel,
            ):
                return await scenario(generator_pb2_grpc.GeneratorServiceStub(channel), server, channel)

        return asyncio.run(started())

    def generate(self, **fields: Any) -> generator_pb2.GenerateResponse:
        request = generator_pb2.GenerateRequest(**(ASKED | fields))

        async def scenario(stub: Stub, _: GeneratorServer, __: grpc.aio.Channel) -> generator_pb2.GenerateResponse:
            return await stub.Generate(request)

        return self.run(scenario)

    def compare(self, **fields: Any) -> generator_pb2.CompareResponse:
        request = generator_pb2.CompareRequest(**(ASKED | fields))

        async def scenario(stub: Stub, _: GeneratorServer, __: grpc.aio.Channel) -> generator_pb2.CompareResponse:
            return await stub.Compare(request)

        return self.run(scenario)

    def refusal(self, **fields: Any) -> grpc.aio.AioRpcError:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            self.generate(**fields)
        return raised.value
