"""One text on its way from an engine's thread, as tokens, to the event loop that asked for it."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import suppress
from typing import Final

from tokenizers.decoders import DecodeStream

from recipe_common.errors import RecipeError, UnavailableError
from recipe_generator.engine import Decoding, Finish, Piece
from recipe_model.llm_tokens import LlmTokens

_REVOKED: Final = "Invalid prefix"  # how `tokenizers` begins to say that a token changes what was decoded before it


class Detokenizer:
    """Turns tokens into text, in time that grows with their number, and ends it in front of the first stop sequence.

    Gives out only what no later token can change: neither an unfinished character, nor what may begin a stop sequence.
    """

    def __init__(self, llm: LlmTokens, stop: Sequence[str]) -> None:
        self._llm = llm
        self._stop = stop
        self._ids: list[int] = []
        self._stream = DecodeStream(skip_special_tokens=True)
        self._decoded = 0  # characters
        self._held = ""  # decoded, but perhaps a stop sequence's beginning
        self.stopped = False

    def add(self, token: int) -> str:
        """What has become certain with one more token."""
        self._ids.append(token)
        self._held += self._step(token)
        places = [at for stop in self._stop if (at := self._held.find(stop)) >= 0]
        self.stopped = bool(places)
        return self._give(min(places) if places else self._certain())

    def rest(self) -> str:
        """What was held back and is certain now that no token follows."""
        return "" if self.stopped else self._held + self._undecoded()

    def _step(self, token: int) -> str:
        """What the stream decodes with one more token; it keeps unfinished characters to itself."""
        try:
            text = self._stream.step(self._llm.backend, token) or ""
        except Exception as error:  # `tokenizers` raises nothing narrower
            if not str(error).startswith(_REVOKED):
                raise
            # Behind a byte that completes no character, some tokenizers decode the bytes in front of it as none either.
            self._stream = DecodeStream([token], skip_special_tokens=True)
            text = self._undecoded()
        self._decoded += len(text)
        return text

    def _undecoded(self) -> str:
        return self._llm.text(self._ids)[self._decoded :]

    def _give(self, end: int) -> str:
        piece, self._held = self._held[:end], self._held[end:]
        return piece

    def _certain(self) -> int:
        """Where the part ends that does not begin a stop sequence."""
        longest = max(map(len, self._stop), default=1) - 1
        for start in range(max(0, len(self._held) - longest), len(self._held)):
            if any(stop.startswith(self._held[start:]) for stop in self._stop):
                return start
        return len(self._held)


class TextStream:
    """Made in an event loop, continued token by token in an engine's thread."""

    def __init__(self, llm: LlmTokens, decoding: Decoding, end_ids: frozenset[int]) -> None:
        self.over = False  # set in either thread, read in the engine's before each step
        self._text = Detokenizer(llm, decoding.stop)
        self._max_new_tokens = decoding.max_new_tokens
        self._end_ids = end_ids
        self._tokens = 0
        self._pieces: asyncio.Queue[Piece | RecipeError] = asyncio.Queue()
        self._loop = asyncio.get_running_loop()

    @property
    def tokens_left(self) -> int:
        """How many tokens the text may still get."""
        return self._max_new_tokens - self._tokens

    async def pieces(self) -> AsyncGenerator[Piece, None]:
        """The text as it comes, in the event loop; raises what went wrong."""
        finish = None
        while finish is None:
            piece = await self._pieces.get()
            if isinstance(piece, RecipeError):
                raise piece
            yield piece
            finish = piece.finish

    def add(self, token: int) -> None:
        """Append a token, in the engine's thread, and tell what it adds; sets `over` if the text ends with it."""
        if token in self._end_ids:
            self._finish(self._text.rest(), Finish.END_OF_TEXT)
            return
        self._tokens += 1
        text = self._text.add(token)
        if self._text.stopped:
            self._finish(text, Finish.STOP_SEQUENCE)
        elif self._tokens == self._max_new_tokens:
            self._finish(text + self._text.rest(), Finish.LENGTH)
        elif text:
            self._tell(Piece(text, self._tokens))

    def fail(self, error: RecipeError) -> None:
        """End the text with an error, unless it has ended."""
        if not self.over:
            self.over = True
            self._tell(error)

    def in_loop(self, call: Callable[[], object]) -> None:
        """Have the text's event loop call this; a loop that is closed has nobody who waits."""
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(call)

    def _finish(self, text: str, finish: Finish) -> None:
        self.over = True
        self._tell(Piece(text, self._tokens, finish))

    def _tell(self, piece: Piece | RecipeError) -> None:
        self.in_loop(lambda: self._pieces.put_nowait(piece))


def failed() -> RecipeError:
    """What a client is told when the LLM fails."""
    return RecipeError("the LLM failed; the log of the generator has the cause")


def stopping() -> UnavailableError:
    """What a client is told when the engine is being stopped."""
    return UnavailableError("the generator is stopping; retry")
