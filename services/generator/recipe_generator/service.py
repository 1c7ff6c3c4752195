"""The gRPC face of the generator."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from concurrent.futures import Executor
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Final

import grpc

from recipe_common.admission import Admission
from recipe_common.answers import states, states_already
from recipe_common.errors import DeadlineExceededError, FieldViolation, InvalidArgumentError
from recipe_common.tracing import stage
from recipe_generator.engine import Edit, Engine, Finish, Piece, Text
from recipe_generator.knowledge import OFF, Applied, KnowledgeSource
from recipe_generator.metrics import GeneratorMetrics, Pace
from recipe_generator.requests import Asked, Request, parse
from recipe_generator.telling import told_first
from recipe_protos.generator.v1 import generator_pb2 as pb
from recipe_protos.generator.v1 import generator_pb2_grpc

Context = grpc.aio.ServicerContext[Any, Any]

_FINISH: Final = {
    Finish.LENGTH: pb.FINISH_REASON_LENGTH,
    Finish.END_OF_TEXT: pb.FINISH_REASON_END_OF_TEXT,
    Finish.STOP_SEQUENCE: pb.FINISH_REASON_STOP_SEQUENCE,
}
_STATED: Final = {True: "stated", False: "not_stated", None: "unknown"}


@dataclass(frozen=True, slots=True)
class Limits:
    """What a server allows each request."""

    max_new_tokens: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Work:
    """A request that is being answered: what it asks, its tokens, and the knowledge for it."""

    since: float  # when it came in, by the metrics' clock
    asked: Asked
    ids: list[int]
    applied: Applied

    @property
    def to_confirm(self) -> str:
        """The answer that the text must state; "" if none is known, or nobody asked."""
        return self.applied.knowledge.answer if self.applied.edit is not None and self.asked.confirm else ""


@dataclass(slots=True)
class Written:
    """A text as far as it is written."""

    text: str = ""
    last: Piece = field(default_factory=lambda: Piece("", 0))


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
            return await self._answer(await self._work(request, request.knowledge, context))

    # A coroutine that writes its responses, so that it is the one to see that time is up or the client gone.
    async def GenerateStream(  # type: ignore[override]  # noqa: N802
        self, request: pb.GenerateStreamRequest, context: Context
    ) -> None:
        async with self._let_in(context):
            work = await self._work(request.request, request.request.knowledge, context)
            async with aclosing(self._events(work)) as events:
                async for event in events:
                    await context.write(event)

    async def Compare(self, request: pb.CompareRequest, context: Context) -> pb.CompareResponse:  # noqa: N802
        async with self._let_in(context, places=2):
            work = await self._work(request, pb.KNOWLEDGE_MODE_ON, context)
            plain = replace(work, applied=Applied(OFF))
            with_knowledge, without = await asyncio.gather(self._answer(work), self._answer(plain))
            return pb.CompareResponse(with_knowledge=with_knowledge, without_knowledge=without)

    @asynccontextmanager
    async def _let_in(self, context: Context, places: int = 1) -> AsyncIterator[None]:
        """A place for each text of one request, and a time; what it does is cancelled when the time is up."""
        remaining = context.time_remaining()
        seconds = min(self._limits.seconds, self._limits.seconds if remaining is None else remaining)
        if seconds <= 0:
            raise DeadlineExceededError("the deadline had passed before the request was read; allow more time")
        with self._admission.admit(places):
            try:
                async with asyncio.timeout(seconds):
                    yield
            except TimeoutError as error:
                raise DeadlineExceededError(
                    f"the answer was not finished within {seconds:.3g} s; allow more time, at most "
                    f"{self._limits.seconds:g} s, or set a smaller max_new_tokens"
                ) from error

    async def _work(self, request: Request, mode: pb.KnowledgeMode.ValueType, context: Context) -> Work:
        came = self._metrics.clock()
        asked = parse(request, mode, self._limits.max_new_tokens, chats=self._engine.chats)
        ids = await self._token_ids(asked.text)
        applied = Applied(OFF)
        if asked.question is not None:
            with stage("retrieve", self._metrics.stage_seconds.labels("retrieve")):
                applied = await self._source.look_up(asked.question, context.time_remaining())
        work = Work(came, asked, ids, applied)
        tokens = len(ids) + await self._tokens_in_front(applied.edit)
        if tokens + asked.decoding.max_new_tokens > self._engine.max_tokens:
            problem = (
                f"has {tokens} tokens; with max_new_tokens {asked.decoding.max_new_tokens} that exceeds the "
                f"{self._engine.max_tokens} that the LLM has room for; shorten one of them"
            )
            raise InvalidArgumentError([FieldViolation(asked.text_field, problem)])
        return work

    async def _token_ids(self, text: Text) -> list[int]:
        return await asyncio.get_running_loop().run_in_executor(self._tokenizing, self._engine.token_ids, text)

    async def _tokens_in_front(self, edit: Edit | None) -> int:
        if edit is None:
            return 0
        return await asyncio.get_running_loop().run_in_executor(self._tokenizing, self._engine.tokens_in_front, edit)

    async def _answer(self, work: Work) -> pb.GenerateResponse:
        """The whole answer."""
        async with aclosing(self._events(work)) as events:
            async for event in events:
                if event.HasField("answer"):
                    return event.answer
        raise RuntimeError("an answer ended without its last event")

    async def _events(self, work: Work) -> AsyncGenerator[pb.GenerateStreamResponse, None]:
        """The answer as a stream tells it: its knowledge, its text piece by piece, and all of it.

        Nothing is told before it is certain: where an answer must be confirmed, not before the text states it.
        """
        knowledge, edit, told = work.applied.knowledge, work.applied.edit, 0
        with stage("generate", self._metrics.stage_seconds.labels("generate")) as span:
            pace = Pace(self._metrics, work.since)
            written = Written()
            certain = not work.to_confirm
            async with aclosing(self._writing(written, edit, work.ids, work.asked)) as pieces:
                if certain:
                    yield pb.GenerateStreamResponse(knowledge=knowledge)
                async for piece in pieces:
                    pace.reached(piece.tokens)
                    if not certain and states_already(written.text, work.to_confirm):
                        certain = True
                        yield pb.GenerateStreamResponse(knowledge=knowledge)
                    if certain and told < len(written.text):
                        yield pb.GenerateStreamResponse(text=written.text[told:])
                        told = len(written.text)
            if not certain:
                knowledge, written = await self._confirmed(work, written)
                yield pb.GenerateStreamResponse(knowledge=knowledge)
                if written.text:
                    yield pb.GenerateStreamResponse(text=written.text)
            pace.finished()
            status = pb.KnowledgeStatus.Name(knowledge.status).removeprefix("KNOWLEDGE_STATUS_").lower()
            span.set_attributes({"recipe.knowledge": status, "recipe.tokens": written.last.tokens})
        self._metrics.answers.labels(status).inc()
        yield pb.GenerateStreamResponse(answer=self._response(work, knowledge, written))

    async def _confirmed(self, work: Work, first: Written) -> tuple[pb.Knowledge, Written]:
        """The first text if it states the answer, else one with the fact in words in front, if that one does."""
        knowledge, answer = pb.Knowledge(), work.to_confirm
        knowledge.CopyFrom(work.applied.knowledge)
        if states(first.text, answer):
            return knowledge, first
        second = Written()
        ids = await self._token_ids(told_first(knowledge.statement, work.asked.text))
        if len(ids) + work.asked.decoding.max_new_tokens <= self._engine.max_tokens:
            edit = Edit(None, knowledge.statement, answer)
            async with aclosing(self._writing(second, edit, ids, work.asked)) as pieces:
                async for _ in pieces:
                    pass
        if states(second.text, answer):
            knowledge.status = pb.KNOWLEDGE_STATUS_EDITED_AS_TEXT
            return knowledge, second
        knowledge.status = pb.KNOWLEDGE_STATUS_EDITED_UNCONFIRMED
        return knowledge, first if first.text.strip() else second

    async def _writing(
        self, written: Written, edit: Edit | None, ids: list[int], asked: Asked
    ) -> AsyncGenerator[Piece, None]:
        """What the engine writes, kept in `written` as well."""
        if edit is not None and not asked.copying:
            edit = replace(edit, copying=False)
        async with aclosing(self._engine.write(edit, ids, asked.decoding)) as pieces:
            async for piece in pieces:
                written.text += piece.text
                written.last = piece
                yield piece

    def _response(self, work: Work, knowledge: pb.Knowledge, written: Written) -> pb.GenerateResponse:
        answer, finish = knowledge.answer, written.last.finish
        stated = states(written.text, answer) if answer else None
        if work.applied.edit is not None:
            self._metrics.stated.labels(_STATED[stated]).inc()
        return pb.GenerateResponse(
            text=written.text,
            finish_reason=_FINISH[finish] if finish else pb.FINISH_REASON_UNSPECIFIED,
            generated_tokens=written.last.tokens,
            prompt_tokens=len(work.ids),
            knowledge=knowledge,
            answer_stated=stated,
            form=work.asked.form,
        )
