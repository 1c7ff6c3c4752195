"""What runs an LLM: token ids behind a fact's continuous prompt in, a text in pieces out."""

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from enum import Enum
from typing import Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from recipe_model.llm_tokens import LlmTokens


@dataclass(frozen=True, slots=True)
class Turn:
    """One message of a conversation."""

    role: str  # as chat templates name it: system, user, assistant
    content: str


Text: TypeAlias = str | tuple[Turn, ...]


@dataclass(frozen=True, slots=True)
class Edit:
    """The fact that a text is written with: its continuous prompt [l, d] stands in front, then its words.

    Without a prompt nothing does: the text tells the fact then.

    What it states the text is likely to say; an engine may use that to write faster, and writes nothing else for it.
    An answer, if one is given, is one that the text is helped to state, unless `copying` is off.
    """

    prompt: npt.NDArray[np.float16] | None
    statement: str
    answer: str = ""
    copying: bool = True


@dataclass(frozen=True, slots=True)
class Decoding:
    """How tokens are chosen, and what ends a text besides the LLM."""

    max_new_tokens: int
    temperature: float = 0.0  # 0 takes the most likely token
    top_p: float = 1.0
    seed: int = 0
    stop: tuple[str, ...] = ()


class Finish(Enum):
    """Why a text ended."""

    LENGTH = "length"
    END_OF_TEXT = "end_of_text"
    STOP_SEQUENCE = "stop_sequence"


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a text that is being written."""

    text: str
    tokens: int  # generated so far, without an end-of-text token
    finish: Finish | None = None  # set in the last piece


def tokens_in_front(llm: LlmTokens, edit: Edit) -> int:
    """How many places an edit takes in front of a text."""
    if edit.prompt is None:
        return 0
    return len(llm.sentence_ids(edit.statement)) + len(edit.prompt)


class Engine(Protocol):
    """Whatever runs the LLM. The same ids, edit and decoding give the same text, whatever else is being written."""

    @property
    def max_tokens(self) -> int:
        """The longest sequence, with prompt and answer, that the LLM can handle in the memory that it was given."""
        ...

    @property
    def kv_tokens(self) -> int:
        """For how many tokens it has room to keep keys and values; 0 if it leaves that to others."""
        ...

    @property
    def kv_tokens_taken(self) -> int:
        """For how many of them texts that are being written have taken the room."""
        ...

    @property
    def chats(self) -> bool:
        """Whether the LLM has a chat template."""
        ...

    def token_ids(self, text: Text) -> list[int]:
        """A text's or a conversation's token ids; blocks, so call it off the event loop.

        Raises FailedPreconditionError for a conversation if the LLM has no chat template.
        """
        ...

    def tokens_in_front(self, edit: Edit) -> int:
        """How many places an edit takes in front of a text; blocks, so call it off the event loop."""
        ...

    def write(self, edit: Edit | None, ids: list[int], decoding: Decoding) -> AsyncGenerator[Piece, None]:
        """Continue the ids behind an edit's continuous prompt; without one, as the plain LLM.

        Closing the generator ends the work within one step. Raises UnavailableError when the engine is stopped.
        """
        ...

    async def failure(self) -> None:
        """Returns when the LLM has failed at something since the last time this returned."""
        ...

    def stop(self) -> None:
        """End what is being written after its current step; nothing can be written afterwards. Blocks until then."""
        ...
