"""The gRPC face of the generator."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import Executor
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any, Final

import grpc

from recipe_common.admission import Admission
from recipe_common.errors import DeadlineExceededError, FieldViolation, InvalidArgumentError
from recipe_common.requests import check_namespace
from recipe_common.tracing import stage
from recipe_generator.engine import Decoding, Engine, Finish, Piece
from recipe_generator.knowledge import OFF, Applied, KnowledgeSource, Question
from recipe_generator.metrics import GeneratorMetrics, Pace
from recipe_generator.requests import (
    Request,
    asked_confidence,
    asked_decoding,
    asked_position,
    asked_text,
    asked_time,
    looked_up_text,
    require_known,
)
from recipe_protos.generator.v1 import generator_pb2 as pb
from recipe_protos.generator.v1 import generator_pb2_grpc

Context = grpc.aio.ServicerContext[Any, Any]

_FINISH: Final = {
    Finish.LENGTH: pb.FINISH_REASON_LENGTH,
    Finish.END_OF_TEXT: pb.FINISH_REASON_END_OF_TEXT,
    Finish.STOP_SEQUENCE: pb.FINISH_REASON_STOP_SEQUENCE,
}


@dataclass(frozen=True, slots=True)
class Limits:
    """What a server allows each request."""

    max_new_tokens: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Asked:
    """A checked request, and the knowledge for it."""

    at: float  # when it came in, by the metrics' clock
    ids: list[int]
    decoding: Decoding
    applied: Applied


class GeneratorService(generator_pb2_grpc.GeneratorServiceServicer):
    """Checks requests, gets the knowledge, and passes on what the engine writes.

    `tokenizing` is where texts become token ids, off the event loop.
    """

    def __init__(
        self,
        engine: Engine,
        source: KnowledgeSource,
        metrics: GeneratorMetrics,
        admission: Admission,
        tokenizing: Executor,
        limits: Limits,
    ) -> None:
        self._engine = engine
        self._source = source
        self._metrics = metrics
        self._admission = admission
        self._tokenizing = tokenizing
        self._limits = limits

    async def Generate(self, request: pb.GenerateRequest, context: Context) -> pb.GenerateResponse:  # noqa: N802
        async with self._let_in(context):
            return await self._answer(await self._asked(request, request.knowledge, context))

    # A coroutine that writes its responses, so that it is the one to see that time is up or the client gone.
    async def GenerateStream(  # type: ignore[override]  # noqa: N802
        self, request: pb.GenerateStreamRequest, context: Context
    ) -> None:
        async with self._let_in(context):
            asked = await self._asked(request.request, request.request.knowledge, context)
            await context.write(pb.GenerateStreamResponse(knowledge=asked.applied.knowledge))
            answer = await self._answer(asked, lambda text: context.write(pb.GenerateStreamResponse(text=text)))
            await context.write(pb.GenerateStreamResponse(answer=answer))

    async def Compare(self, request: pb.CompareRequest, context: Context) -> pb.CompareResponse:  # noqa: N802
        async with self._let_in(context):
            asked = await self._asked(request, pb.KNOWLEDGE_MODE_ON, context)
            plain = replace(asked, applied=Applied(OFF))
            with_knowledge, without = await asyncio.gather(self._answer(asked), self._answer(plain))
            return pb.CompareResponse(with_knowledge=with_knowledge, without_knowledge=without)

    @asynccontextmanager
    async def _let_in(self, context: Context) -> AsyncIterator[None]:
        """A place and a time for one request; what it does is cancelled when the time is up."""
        remaining = context.time_remaining()
        seconds = min(self._limits.seconds, self._limits.seconds if remaining is None else remaining)
        if seconds <= 0:
            raise DeadlineExceededError("the deadline had passed before the request was read; allow more time")
        with self._admission.admit():
            try:
                async with asyncio.timeout(seconds):
                    yield
            except TimeoutError as error:
                raise DeadlineExceededError(
                    f"the answer was not finished within {seconds:.3g} s; allow more time, at most "
                    f"{self._limits.seconds:g} s, or set a smaller max_new_tokens"
                ) from error

    async def _asked(self, request: Request, mode: pb.KnowledgeMode.ValueType, context: Context) -> Asked:
        came = self._metrics.clock()
        text = asked_text(request)
        decoding = asked_decoding(request, self._limits.max_new_tokens)
        require_known("knowledge", mode, pb.KnowledgeMode)
        loop = asyncio.get_running_loop()
        ids = await loop.run_in_executor(self._tokenizing, self._engine.token_ids, text)
        applied = Applied(OFF)
        if mode != pb.KNOWLEDGE_MODE_OFF:
            applied = await self._look_up(request, looked_up_text(text), context)
        tokens = len(ids) + (0 if applied.edit is None else len(applied.edit.prompt))
        self._require_room(request, tokens, decoding.max_new_tokens)
        return Asked(came, ids, decoding, applied)

    def _require_room(self, request: Request, tokens: int, new_tokens: int) -> None:
        if tokens + new_tokens > self._engine.max_tokens:
            field = "messages" if request.messages else "prompt"
            problem = (
                f"has {tokens} tokens; with max_new_tokens {new_tokens} that exceeds the LLM's "
                f"{self._engine.max_tokens}; shorten one of them"
            )
            raise InvalidArgumentError([FieldViolation(field, problem)])

    async def _look_up(self, request: Request, text: str, context: Context) -> Applied:
        require_known("on_retriever_failure", request.on_retriever_failure, pb.RetrieverFailurePolicy)
        namespace, as_of = check_namespace(request.namespace), asked_time(request)
        position, confidence = asked_position(request), asked_confidence(request)
        question = Question(namespace, text, as_of, position, confidence, request.on_retriever_failure)
        with stage("retrieve", self._metrics.stage_seconds.labels("retrieve")):
            return await self._source.look_up(question, context.time_remaining())

    async def _answer(self, asked: Asked, tell: Callable[[str], Awaitable[None]] | None = None) -> pb.GenerateResponse:
        """The whole answer; `tell` gets each piece of its text as soon as it is there."""
        texts = []
        piece = Piece("", 0)
        with stage("generate", self._metrics.stage_seconds.labels("generate")) as span:
            pace = Pace(self._metrics, asked.at)
            async with aclosing(self._engine.write(asked.applied.edit, asked.ids, asked.decoding)) as pieces:
                async for piece in pieces:
                    pace.reached(piece.tokens)
                    texts.append(piece.text)
                    if tell is not None and piece.text:
                        await tell(piece.text)
            pace.finished()
            knowledge = asked.applied.knowledge
            status = pb.KnowledgeStatus.Name(knowledge.status).removeprefix("KNOWLEDGE_STATUS_").lower()
            span.set_attributes({"recipe.knowledge": status, "recipe.tokens": piece.tokens})
        self._metrics.answers.labels(status).inc()
        return pb.GenerateResponse(
            text="".join(texts),
            finish_reason=_FINISH[piece.finish] if piece.finish else pb.FINISH_REASON_UNSPECIFIED,
            generated_tokens=piece.tokens,
            prompt_tokens=len(asked.ids),
            knowledge=knowledge,
        )
