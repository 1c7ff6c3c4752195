"""What a request asks for, checked."""

import secrets
from typing import Any, Final, TypeAlias

import numpy as np
from google.protobuf.timestamp_pb2 import Timestamp

from recipe_common.clock import from_timestamp
from recipe_common.errors import FieldViolation, InvalidArgumentError
from recipe_common.requests import MAX_TEXT_CHARACTERS, check_min_confidence, check_position, require_text
from recipe_generator.engine import Decoding, Text, Turn
from recipe_protos.generator.v1 import generator_pb2 as pb
from recipe_protos.retriever.v1 import retriever_pb2

Request: TypeAlias = pb.GenerateRequest | pb.CompareRequest

DEFAULT_NEW_TOKENS: Final = 32
LEAST_TEMPERATURE: Final = float(np.float32(0.01))  # as a message carries it, which is a little less
MAX_TEMPERATURE: Final = 2.0
MAX_STOPS: Final = 8
MAX_STOP_CHARACTERS: Final = 64
_ROLES: Final = {pb.ROLE_SYSTEM: "system", pb.ROLE_USER: "user", pb.ROLE_ASSISTANT: "assistant"}


def asked_text(request: Request) -> Text:
    """The text or the conversation to continue. Raises InvalidArgumentError."""
    if not request.messages:
        return require_text("prompt", request.prompt)
    if request.prompt:
        raise _wrong("messages", "give either prompt or messages")
    if request.messages[-1].role != pb.ROLE_USER:
        raise _wrong("messages", "the last one must have ROLE_USER")
    if sum(len(message.content) for message in request.messages) > MAX_TEXT_CHARACTERS:
        raise _wrong("messages", f"must have at most {MAX_TEXT_CHARACTERS} characters together")
    return tuple(_turn(f"messages[{place}]", message) for place, message in enumerate(request.messages))


def looked_up_text(text: Text) -> str:
    """What knowledge is looked up for: the text, or the user's last message."""
    return text if isinstance(text, str) else text[-1].content


def asked_decoding(request: Request, max_new_tokens: int) -> Decoding:
    """How to decode, with a seed in any case. Raises InvalidArgumentError; the server allows `max_new_tokens`."""
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


def asked_time(request: Request) -> Timestamp | None:
    """The instant of the knowledge; None means now. Raises InvalidArgumentError."""
    if not request.HasField("as_of"):
        return None
    from_timestamp(request.as_of, "as_of")  # refused here, so that the violation names this request's field
    return request.as_of


def asked_position(request: Request) -> retriever_pb2.LogPosition | None:
    """The place in the log that must be applied first; None asks for none. Raises InvalidArgumentError."""
    if not request.HasField("min_position"):
        return None
    check_position("min_position", request.min_position)
    return request.min_position


def asked_confidence(request: Request) -> float | None:
    """The least confidence of a fact that is applied; None means the namespace's. Raises InvalidArgumentError."""
    return check_min_confidence(request.min_confidence) if request.HasField("min_confidence") else None


def require_known(field: str, value: int, enum: Any) -> None:  # noqa: ANN401 (an enum wrapper has no public type)
    """Raises InvalidArgumentError unless the enum has the value."""
    if value not in enum.values():
        raise _wrong(field, f"{value} is none of {', '.join(enum.keys())}")


def _turn(field: str, message: pb.Message) -> Turn:
    if message.role not in _ROLES:
        raise _wrong(f"{field}.role", "must be ROLE_SYSTEM, ROLE_USER or ROLE_ASSISTANT")
    return Turn(_ROLES[message.role], require_text(f"{field}.content", message.content))


def _wrong(field: str, description: str) -> InvalidArgumentError:
    return InvalidArgumentError([FieldViolation(field, description)])
