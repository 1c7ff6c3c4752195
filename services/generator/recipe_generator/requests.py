"""What a request asks for, checked."""

import secrets
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np

from recipe_common.clock import from_timestamp
from recipe_common.errors import FieldViolation, InvalidArgumentError
from recipe_common.requests import (
    MAX_TEXT_CHARACTERS,
    check_min_confidence,
    check_namespace,
    check_position,
    require_text,
)
from recipe_generator.engine import Decoding, Text, Turn
from recipe_generator.knowledge import Question
from recipe_protos.generator.v1 import generator_pb2 as pb

Request: TypeAlias = pb.GenerateRequest | pb.CompareRequest

DEFAULT_NEW_TOKENS: Final = 32
LEAST_TEMPERATURE: Final = float(np.float32(0.01))  # as a message carries it, which is a little less
MAX_TEMPERATURE: Final = 2.0
MAX_STOPS: Final = 8
MAX_STOP_CHARACTERS: Final = 64
_ROLES: Final = {pb.ROLE_SYSTEM: "system", pb.ROLE_USER: "user", pb.ROLE_ASSISTANT: "assistant"}


@dataclass(frozen=True, slots=True)
class Asked:
    """A request, checked."""

    text: Text
    text_field: str  # where the text came from, to name in an error
    decoding: Decoding
    question: Question | None  # None if knowledge is off
    confirm: bool  # that an edited text states its answer
    copying: bool

    @property
    def form(self) -> pb.Form.ValueType:
        """In which form the LLM gets the text."""
        return pb.FORM_COMPLETION if isinstance(self.text, str) else pb.FORM_CHAT


def parse(request: Request, mode: pb.KnowledgeMode.ValueType, max_new_tokens: int, *, chats: bool) -> Asked:
    """Everything that a request asks for; the server allows `max_new_tokens`, and `chats` if its LLM has a template.

    Raises InvalidArgumentError.
    """
    _require_known("knowledge", mode, pb.KnowledgeMode)
    _require_known("answer_policy", request.answer_policy, pb.AnswerPolicy)
    _require_known("copying", request.copying, pb.Copying)
    _require_known("form", request.form, pb.Form)
    text = _text(request, chats=chats)
    return Asked(
        text,
        "messages" if request.messages else "prompt",
        _decoding(request, max_new_tokens),
        None if mode == pb.KNOWLEDGE_MODE_OFF else _question(request, text),
        request.answer_policy != pb.ANSWER_POLICY_AS_IS,
        request.copying != pb.COPYING_OFF,
    )


def _text(request: Request, *, chats: bool) -> Text:
    if request.messages:
        return _conversation(request)
    prompt = require_text("prompt", request.prompt)
    in_chat = request.form == pb.FORM_CHAT or (request.form == pb.FORM_CHAT_IF_POSSIBLE and chats)
    return (Turn("user", prompt),) if in_chat else prompt


def _conversation(request: Request) -> tuple[Turn, ...]:
    if request.prompt:
        raise _wrong("messages", "give either prompt or messages")
    if request.form:
        raise _wrong("form", "goes with prompt; messages are a conversation as they are")
    if request.messages[-1].role != pb.ROLE_USER:
        raise _wrong("messages", "the last one must have ROLE_USER")
    if sum(len(message.content) for message in request.messages) > MAX_TEXT_CHARACTERS:
        raise _wrong("messages", f"must have at most {MAX_TEXT_CHARACTERS} characters together")
    return tuple(_turn(f"messages[{place}]", message) for place, message in enumerate(request.messages))


def _question(request: Request, text: Text) -> Question:
    _require_known("on_retriever_failure", request.on_retriever_failure, pb.RetrieverFailurePolicy)
    asked = text if isinstance(text, str) else text[-1].content
    if request.HasField("as_of"):
        from_timestamp(request.as_of, "as_of")  # refused here, so that the violation names this request's field
    if request.HasField("min_position"):
        check_position("min_position", request.min_position)
    if request.HasField("min_confidence"):
        check_min_confidence(request.min_confidence)
    return Question(
        check_namespace(request.namespace),
        require_text("query", request.query) if request.query else asked,
        request.as_of if request.HasField("as_of") else None,
        request.min_position if request.HasField("min_position") else None,
        request.min_confidence if request.HasField("min_confidence") else None,
        request.on_retriever_failure,
    )


def _decoding(request: Request, max_new_tokens: int) -> Decoding:
    """How to decode, with a seed in any case."""
    asked = request.decoding
    if request.max_new_tokens > max_new_tokens:
        raise _wrong("max_new_tokens", f"must be at most {max_new_tokens} on this server")
    if asked.temperature != 0 and not LEAST_TEMPERATURE <= asked.temperature <= MAX_TEMPERATURE:
        raise _wrong("decoding.temperature", "must be 0, or from 0.01 to 2")
    if not 0 <= asked.top_p <= 1:
        raise _wrong("decoding.top_p", "must be greater than 0 and at most 1")
    if len(asked.stop) > MAX_STOPS or not all(1 <= len(stop) <= MAX_STOP_CHARACTERS for stop in asked.stop):
        raise _wrong("decoding.stop", f"must be at most {MAX_STOPS} texts of 1 to {MAX_STOP_CHARACTERS} characters")
    return Decoding(
        max_new_tokens=request.max_new_tokens or min(DEFAULT_NEW_TOKENS, max_new_tokens),
        temperature=asked.temperature,
        top_p=asked.top_p or 1.0,
        seed=asked.seed if asked.HasField("seed") else secrets.randbits(64),
        stop=tuple(asked.stop),
    )


def _require_known(field: str, value: int, enum: Any) -> None:  # noqa: ANN401 (an enum wrapper has no public type)
    """Raises InvalidArgumentError unless the enum has the value."""
    if value not in enum.values():
        raise _wrong(field, f"{value} is none of {', '.join(enum.keys())}")


def _turn(field: str, message: pb.Message) -> Turn:
    if message.role not in _ROLES:
        raise _wrong(f"{field}.role", "must be ROLE_SYSTEM, ROLE_USER or ROLE_ASSISTANT")
    return Turn(_ROLES[message.role], require_text(f"{field}.content", message.content))


def _wrong(field: str, description: str) -> InvalidArgumentError:
    return InvalidArgumentError([FieldViolation(field, description)])
