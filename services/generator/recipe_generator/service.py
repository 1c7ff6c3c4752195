"""The gRPC face of the generator."""

import asyncio
from concurrent.futures import Executor
from typing import Any

import grpc
import numpy as np
import numpy.typing as npt

from recipe_common.clock import from_timestamp
from recipe_common.errors import FieldViolation, InvalidArgumentError
from recipe_common.requests import check_namespace, require_text
from recipe_generator.engine import Engine
from recipe_generator.knowledge import OFF, Applied, KnowledgeSource, Question
from recipe_generator.metrics import GeneratorMetrics
from recipe_model.language_model import Generation
from recipe_protos.generator.v1 import generator_pb2 as pb
from recipe_protos.generator.v1 import generator_pb2_grpc

DEFAULT_NEW_TOKENS = 32
Context = grpc.aio.ServicerContext[Any, Any]


class GeneratorService(generator_pb2_grpc.GeneratorServiceServicer):
    """Checks requests, gets the knowledge, and runs the engine off the event loop."""

    def __init__(
        self,
        engine: Engine,
        source: KnowledgeSource,
        metrics: GeneratorMetrics,
        executor: Executor,
        max_new_tokens: int,
    ) -> None:
        self._engine = engine
        self._source = source
        self._metrics = metrics
        self._executor = executor
        self._max_new_tokens = max_new_tokens

    async def Generate(self, request: pb.GenerateRequest, context: Context) -> pb.GenerateResponse:  # noqa: N802
        text, limit = self._text_and_limit(request)
        _known_enum("knowledge", request.knowledge, pb.KnowledgeMode)
        if request.knowledge == pb.KNOWLEDGE_MODE_OFF:
            return await self._answer(Applied(OFF), text, limit)
        return await self._answer(await self._look_up(request, text, context), text, limit)

    async def Compare(self, request: pb.CompareRequest, context: Context) -> pb.CompareResponse:  # noqa: N802
        text, limit = self._text_and_limit(request)
        applied = await self._look_up(request, text, context)
        return pb.CompareResponse(
            with_knowledge=await self._answer(applied, text, limit),
            without_knowledge=await self._answer(Applied(OFF), text, limit),
        )

    def _text_and_limit(self, request: pb.GenerateRequest | pb.CompareRequest) -> tuple[str, int]:
        if request.max_new_tokens > self._max_new_tokens:
            raise InvalidArgumentError(
                [FieldViolation("max_new_tokens", f"must be at most {self._max_new_tokens} on this server")]
            )
        default = min(DEFAULT_NEW_TOKENS, self._max_new_tokens)
        return require_text("prompt", request.prompt), request.max_new_tokens or default

    async def _look_up(self, request: pb.GenerateRequest | pb.CompareRequest, text: str, context: Context) -> Applied:
        _known_enum("on_retriever_failure", request.on_retriever_failure, pb.RetrieverFailurePolicy)
        as_of = request.as_of if request.HasField("as_of") else None
        if as_of is not None:
            from_timestamp(as_of, "as_of")  # refused here, so that the violation names this request's field
        question = Question(check_namespace(request.namespace), text, as_of, request.on_retriever_failure)
        with self._metrics.stage_seconds.labels("retrieve").time():
            return await self._source.look_up(question, context.time_remaining())

    async def _answer(self, applied: Applied, text: str, limit: int) -> pb.GenerateResponse:
        loop = asyncio.get_running_loop()
        written = await loop.run_in_executor(self._executor, self._generate, applied.prompt, text, limit)
        self._metrics.tokens.inc(written.generated_tokens)
        status = pb.KnowledgeStatus.Name(applied.knowledge.status)
        self._metrics.answers.labels(status.removeprefix("KNOWLEDGE_STATUS_").lower()).inc()
        return pb.GenerateResponse(
            text=written.text,
            finish_reason=pb.FINISH_REASON_END_OF_TEXT if written.ended else pb.FINISH_REASON_LENGTH,
            generated_tokens=written.generated_tokens,
            prompt_tokens=written.prompt_tokens,
            knowledge=applied.knowledge,
        )

    def _generate(self, prompt: npt.NDArray[np.float16] | None, text: str, limit: int) -> Generation:
        with self._metrics.stage_seconds.labels("generate").time():
            return self._engine.generate(prompt, text, limit)


def _known_enum(field: str, value: int, enum: Any) -> None:  # noqa: ANN401 (an enum wrapper has no public type)
    if value not in enum.values():
        raise InvalidArgumentError([FieldViolation(field, f"{value} is none of {', '.join(enum.keys())}")])
