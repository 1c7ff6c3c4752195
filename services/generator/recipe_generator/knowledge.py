"""The knowledge behind an answer: asked of the retriever, checked, and accounted for."""

import hashlib
from dataclasses import dataclass
from typing import Final

import grpc
import numpy as np
import numpy.typing as npt
from google.protobuf.timestamp_pb2 import Timestamp

from recipe_common.errors import (
    DataLossError,
    FailedPreconditionError,
    FieldViolation,
    InvalidArgumentError,
    RecipeError,
    UnavailableError,
)
from recipe_common.tracing import carried_by
from recipe_generator.engine import Edit
from recipe_protos.generator.v1 import generator_pb2 as pb
from recipe_protos.retriever.v1 import retriever_pb2, retriever_pb2_grpc

MAX_PROMPT_TOKENS: Final = 256

OFF = pb.Knowledge(status=pb.KNOWLEDGE_STATUS_UNEDITED_OFF)


@dataclass(frozen=True, slots=True)
class Applied:
    """The decision about one text and, on a hit, the edit to apply."""

    knowledge: pb.Knowledge
    edit: Edit | None = None


@dataclass(frozen=True, slots=True)
class Question:
    """What a request asks the retriever."""

    namespace: str
    text: str
    as_of: Timestamp | None
    min_position: retriever_pb2.LogPosition | None
    min_confidence: float | None
    on_failure: pb.RetrieverFailurePolicy.ValueType


class KnowledgeSource:
    """Asks the retriever, and refuses what does not fit the loaded model."""

    def __init__(
        self,
        channel: grpc.aio.Channel,
        model_version: str,
        prompt_width: int,
        timeout_seconds: float,
    ) -> None:
        self._stub: retriever_pb2_grpc.RetrieverServiceAsyncStub = retriever_pb2_grpc.RetrieverServiceStub(channel)
        self._model_version = model_version
        self._prompt_width = prompt_width
        self._timeout_seconds = timeout_seconds

    async def look_up(self, question: Question, time_remaining: float | None) -> Applied:
        """The knowledge for a text, within the caller's remaining time in seconds.

        Raises InvalidArgumentError when the retriever refuses the text itself; any other failure is raised or
        turned into a degraded answer, as the request's policy says.
        """
        try:
            return self._applied(await self._retrieve(question, self._patience(question, time_remaining)))
        except InvalidArgumentError:
            raise
        except RecipeError as error:
            # Waiting or asking elsewhere helps against a retriever that is away, not against a damaged prompt.
            if isinstance(error, DataLossError) or question.on_failure == pb.RETRIEVER_FAILURE_POLICY_ANSWER_UNEDITED:
                return Applied(pb.Knowledge(status=pb.KNOWLEDGE_STATUS_UNEDITED_DEGRADED, degraded_reason=str(error)))
            raise

    def _patience(self, question: Question, time_remaining: float | None) -> float | None:
        """Seconds for the retriever; who reads an own write may spend all of the time on waiting for it."""
        if question.min_position is not None:
            return time_remaining  # the retriever gives up by itself
        return self._timeout_seconds if time_remaining is None else min(self._timeout_seconds, time_remaining)

    async def _retrieve(self, question: Question, seconds: float | None) -> retriever_pb2.RetrieveResponse:
        request = retriever_pb2.RetrieveRequest(
            namespace=question.namespace,
            query=question.text,
            as_of=question.as_of,
            min_position=question.min_position,
            min_confidence=question.min_confidence,
        )
        try:
            return await self._stub.Retrieve(request, timeout=seconds, metadata=carried_by())
        except grpc.aio.AioRpcError as error:
            details = error.details() or error.code().name
            if error.code() is grpc.StatusCode.INVALID_ARGUMENT:
                raise InvalidArgumentError(
                    [FieldViolation("prompt", f"the retriever refuses it: {details}")]
                ) from error
            if error.code() is grpc.StatusCode.FAILED_PRECONDITION:
                raise FailedPreconditionError(f"retriever: {details}") from error
            if error.code() is grpc.StatusCode.DATA_LOSS:
                raise DataLossError(f"retriever: {details}") from error
            what = f"failed ({error.code().name}: {details})"
            if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED and seconds is not None:
                what = f"did not answer within {seconds:g} s"
            raise UnavailableError(
                f"the retriever {what}; retry, or set on_retriever_failure to ANSWER_UNEDITED"
            ) from error

    def _applied(self, response: retriever_pb2.RetrieveResponse) -> Applied:
        if response.model_version != self._model_version:
            raise FailedPreconditionError(
                f"the retriever serves model version {response.model_version}, this generator's checkpoint "
                f"is {self._model_version}; deploy the same checkpoint to both"
            )
        knowledge = _decision(response)
        if response.decision != retriever_pb2.DECISION_HIT:
            return Applied(knowledge)
        knowledge.status = pb.KNOWLEDGE_STATUS_EDITED
        knowledge.fact_id = response.fact.fact_id
        knowledge.revision = response.fact.revision
        knowledge.statement = response.fact.statement
        knowledge.answer = response.fact.answer
        return Applied(knowledge, Edit(self._decode(response.prompt), response.fact.statement, response.fact.answer))

    def _decode(self, prompt: retriever_pb2.Prompt) -> npt.NDArray[np.float16]:
        shape = (prompt.tokens, prompt.hidden_size)
        fits = 1 <= prompt.tokens <= MAX_PROMPT_TOKENS and prompt.hidden_size == self._prompt_width
        if not fits or len(prompt.values) != 2 * shape[0] * shape[1]:
            raise FailedPreconditionError(
                f"the retriever sent a prompt of shape {shape} in {len(prompt.values)} bytes; the checkpoint makes "
                f"1 to {MAX_PROMPT_TOKENS} tokens of width {self._prompt_width}; deploy the same checkpoint to both"
            )
        if hashlib.sha256(prompt.values).digest() != prompt.sha256:
            raise UnavailableError("the retriever sent a prompt whose bytes do not match their digest; retry")
        return np.frombuffer(prompt.values, dtype="<f2").reshape(shape)


def _decision(response: retriever_pb2.RetrieveResponse) -> pb.Knowledge:
    """What the retriever says, whether or not a fact applies."""
    degraded, no_match = pb.KNOWLEDGE_STATUS_UNEDITED_DEGRADED, pb.KNOWLEDGE_STATUS_UNEDITED_NO_MATCH
    return pb.Knowledge(
        status=degraded if response.degraded else no_match,
        decision=response.decision,
        similarity=response.similarity if response.HasField("similarity") else None,
        margin=response.margin if response.HasField("margin") else None,
        confidence=response.confidence,
        min_confidence=response.min_confidence,
        nearest_fact_id=response.nearest_fact_id,
        degraded=response.degraded,
        degraded_reason=response.degraded_reason,
        looked_up=response.looked_up,
        model_version=response.model_version,
    )
