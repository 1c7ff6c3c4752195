"""The one set of rules for a knowledge update, whatever form it came in.

The models mirror `recipe_protos.knowledge.v1.KnowledgeUpdate` in its proto3 JSON form: names in snake_case or
camelCase, null and the empty string mean absent, int64 may be a string, timestamps are RFC 3339 with a zone.
Unknown fields are refused, because they are misspellings more often than not.
"""

import json
import re
import unicodedata
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Annotated, Final, Self

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    model_validator,
)
from pydantic.alias_generators import to_camel
from pydantic_core import PydanticCustomError

from recipe_common.errors import FieldViolation
from recipe_common.knowledge_text import knowledge_text, statement_text

MAX_ID_CHARS: Final = 256
MAX_TEXT_CHARS: Final = 2_000
MAX_REASON_CHARS: Final = 1_000
MAX_URI_CHARS: Final = 2_048
MAX_ALIASES: Final = 64
MAX_LABELS: Final = 64
MAX_VIOLATIONS: Final = 10
MAX_REVISION: Final = 2**63 - 1
DEFAULT_NAMESPACE: Final = "default"

_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?(Z|[+-]\d\d:\d\d)", re.ASCII)
_DIGITS = re.compile(r"\d{1,19}", re.ASCII)
# pydantic's kinds of errors in the words of a publisher of events.
_DESCRIPTIONS: Final = {
    "dict_type": "must be a JSON object",
    "extra_forbidden": "is not a field of a knowledge update; remove it or correct its name",
    "missing": "must be given",
    "model_type": "must be a JSON object",
    "string_too_long": "must have at most {max_length} characters",
    "string_too_short": "must have at least {min_length} character",
    "string_type": "must be a string",
    "string_unicode": "must be valid Unicode text",
    "too_long": "must have at most {max_length} entries",
    "tuple_type": "must be a JSON array",
}


def _rule(message: str) -> PydanticCustomError:
    return PydanticCustomError("knowledge_update", "{message}", {"message": message})


def _check_printable(value: str) -> str:
    if any(unicodedata.category(character) == "Cc" for character in value):
        raise _rule("must not contain control characters")
    return value


def _check_readable(value: str) -> str:
    if any(unicodedata.category(character) == "Cc" and character not in "\t\n\r" for character in value):
        raise _rule("must not contain control characters other than tabs and line breaks")
    return value


def _check_namespace(value: str) -> str:
    if "/" in value:
        raise _rule("must not contain '/', which ends the namespace in the record's key")
    return value or DEFAULT_NAMESPACE


def _check_time(value: object) -> object:
    if not isinstance(value, str) or not _TIME.fullmatch(value):
        raise _rule("must be an RFC 3339 time with a zone, for example 2026-01-31T12:00:00Z")
    return value


def _to_utc(value: datetime) -> datetime:
    try:
        return value.astimezone(UTC)
    except OverflowError:
        raise _rule("must lie in the years 1 to 9999 in UTC") from None


def _check_spec_version(value: str) -> str:
    if value != "1.0":
        raise _rule("must be 1.0, the version of CloudEvents that is understood here")
    return value


def _check_revision(value: object) -> object:
    text = str(value) if isinstance(value, int | str) and not isinstance(value, bool) else ""
    if not _DIGITS.fullmatch(text) or int(text) > MAX_REVISION:
        raise _rule(f"must be an integer from 0 to {MAX_REVISION}, or a string of its digits")
    return int(text)


Name = Annotated[str, Field(max_length=MAX_ID_CHARS), AfterValidator(_check_printable)]
FactId = Annotated[str, Field(min_length=1, max_length=MAX_ID_CHARS), AfterValidator(_check_printable)]
Namespace = Annotated[Name, AfterValidator(_check_namespace)]
Text = Annotated[str, Field(max_length=MAX_TEXT_CHARS), AfterValidator(_check_readable)]
Time = Annotated[AwareDatetime, BeforeValidator(_check_time), AfterValidator(_to_utc)]
SpecVersion = Annotated[str, AfterValidator(_check_spec_version)]
Revision = Annotated[int, BeforeValidator(_check_revision)]


class _Message(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, loc_by_alias=False)

    @model_validator(mode="before")
    @classmethod
    def _unify_names(cls, data: object) -> object:
        """Brings both spellings of a name to snake_case and leaves out what is null."""
        if not isinstance(data, dict):
            return data
        spellings = {to_camel(name): name for name in cls.model_fields}
        unified: dict[object, object] = {}
        for given, value in data.items():
            name = spellings.get(given, given)
            if value is None:
                continue
            if name in unified:
                raise _rule(f"must give {name} only once, not in two spellings")
            unified[name] = value
        return unified


class Source(_Message):
    """Where a fact comes from."""

    publisher: Name = ""
    uri: Annotated[str, Field(max_length=MAX_URI_CHARS), AfterValidator(_check_printable)] = ""


class Retract(_Message):
    """The fact no longer holds."""

    reason: Annotated[str, Field(max_length=MAX_REASON_CHARS), AfterValidator(_check_readable)] = ""


class Upsert(_Message):
    """The complete new content of a fact: `statement`, or `prompt` and `answer`."""

    statement: Text = ""
    prompt: Text = ""
    answer: Text = ""
    subject: Name = ""
    aliases: Annotated[tuple[Name, ...], Field(max_length=MAX_ALIASES)] = ()
    valid_from: Time | None = None
    valid_until: Time | None = None
    labels: Annotated[dict[FactId, Name], Field(max_length=MAX_LABELS)] = Field(default_factory=dict)

    @property
    def text(self) -> str:
        """The fact as a sentence."""
        return self.statement or f"{self.prompt} {self.answer}"

    @property
    def knowledge(self) -> str:
        """The text to be encoded; the model finds answer and other names of the subject best where they are marked."""
        if self.statement:
            return statement_text(self.statement, self.aliases)
        return knowledge_text(self.prompt, self.answer, self.aliases)

    @model_validator(mode="after")
    def _check_text(self) -> Self:
        given = (bool(self.statement.strip()), bool(self.prompt.strip()), bool(self.answer.strip()))
        if given not in ((True, False, False), (False, True, True)):
            raise _rule("must have either statement, or prompt and answer, and they must not be blank")
        if len(self.text) > MAX_TEXT_CHARS:
            raise _rule(f"must have at most {MAX_TEXT_CHARS} characters in prompt and answer together")
        return self

    @model_validator(mode="after")
    def _check_validity(self) -> Self:
        if self.valid_from and self.valid_until and self.valid_from >= self.valid_until:
            raise _rule("must have valid_from before valid_until")
        return self


class Update(_Message):
    """One change of one fact."""

    event_id: Name = ""
    namespace: Namespace = DEFAULT_NAMESPACE
    fact_id: FactId
    revision: Revision = 0
    event_time: Time | None = None
    upsert: Upsert | None = None
    retract: Retract | None = None
    source: Source = Source()

    @model_validator(mode="after")
    def _check_change(self) -> Self:
        if (self.upsert is None) == (self.retract is None):
            raise _rule("must have exactly one of upsert and retract")
        return self


class CloudEvent(BaseModel):
    """What is used of the attributes of a CloudEvent in binary mode; the rest is ignored."""

    model_config = ConfigDict(frozen=True)

    ce_specversion: SpecVersion = "1.0"
    ce_id: Name = ""
    ce_time: Time | None = None
    ce_source: Name = ""


NAMESPACE: Final = TypeAdapter[str](Namespace)
FACT_ID: Final = TypeAdapter[str](FactId)


def decode_json(text: bytes) -> object:
    """The value of a JSON text. Raises ValueError if it is none, gives a field twice or is nested too deeply."""
    try:
        value: object = json.loads(text.decode(), object_pairs_hook=_unique_names)
    except RecursionError:
        raise ValueError("must not be nested that deeply") from None
    except ValueError as error:
        raise ValueError(f"must be JSON in UTF-8: {error}") from error
    return value


def violations(error: ValidationError, field: str) -> list[FieldViolation]:
    """What pydantic found, as one line each; `field` names the whole. At most `MAX_VIOLATIONS` of them."""
    return list(_violations(error, field))[:MAX_VIOLATIONS]


def _unique_names(pairs: list[tuple[str, object]]) -> dict[str, object]:
    decoded: dict[str, object] = {}
    for name, value in pairs:
        if name in decoded:
            raise ValueError(f"the field {name[:64]!r} is given twice")
        decoded[name] = value
    return decoded


def _violations(error: ValidationError, field: str) -> Iterator[FieldViolation]:
    for detail in error.errors(include_url=False, include_input=False):
        path = ".".join(_short(str(step)) for step in detail["loc"])
        description = _DESCRIPTIONS.get(detail["type"], detail["msg"])
        yield FieldViolation(path or field, description.format(**detail.get("ctx", {})))


def _short(name: str, limit: int = 64) -> str:
    """A name out of an event, fit for one line of an error message."""
    printable = "".join(character if character.isprintable() else "?" for character in name)
    return printable if len(printable) <= limit else f"{printable[:limit]}..."
