"""Rules for the fields that requests of several services share."""

from typing import Final

from pydantic import TypeAdapter, ValidationError

from recipe_common.errors import FieldViolation, InvalidArgumentError
from recipe_common.knowledge_update import FACT_ID, NAMESPACE, violations
from recipe_protos.retriever.v1.retriever_pb2 import LogPosition

MAX_TEXT_CHARACTERS: Final = 32_000


def check_namespace(namespace: str) -> str:
    """The namespace a request means; empty means "default". Raises InvalidArgumentError."""
    return _checked(NAMESPACE, "namespace", namespace)


def check_fact_id(fact_id: str) -> str:
    """The id, if events may carry it. Raises InvalidArgumentError."""
    return _checked(FACT_ID, "fact_id", fact_id)


def check_min_confidence(confidence: float) -> float:
    """The least confidence a request asks for, if it is a probability. Raises InvalidArgumentError."""
    if not 0 <= confidence <= 1:  # as of what is not a number
        description = f"must be from 0 to 1, is {confidence:g}; leave it out for the namespace's default"
        raise InvalidArgumentError([FieldViolation("min_confidence", description)])
    return confidence


def check_position(field: str, position: LogPosition) -> None:
    """Raises InvalidArgumentError unless the field `field` of a request can be a place in the log."""
    wrong = {
        "topic": "must name the topic that the event was published to" if not position.topic else "",
        "partition": "must be 0 or more" if position.partition < 0 else "",
        "offset": "must be 0 or more" if position.offset < 0 else "",
    }
    if found := [FieldViolation(f"{field}.{name}", description) for name, description in wrong.items() if description]:
        raise InvalidArgumentError(found)


def require_text(field: str, text: str) -> str:
    """The text, if there is one and it is not too long to handle. Raises InvalidArgumentError."""
    if not text.strip():
        raise InvalidArgumentError([FieldViolation(field, "must not be empty")])
    if len(text) > MAX_TEXT_CHARACTERS:
        raise InvalidArgumentError([FieldViolation(field, f"must have at most {MAX_TEXT_CHARACTERS} characters")])
    return text


def _checked(rule: TypeAdapter[str], field: str, value: str) -> str:
    try:
        return rule.validate_python(value)
    except ValidationError as error:
        raise InvalidArgumentError(violations(error, field)) from error
