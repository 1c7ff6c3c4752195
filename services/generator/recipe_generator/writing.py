"""One text on its way from an engine's thread to the event loop that asked for it."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress

from recipe_common.errors import RecipeError, UnavailableError
from recipe_generator.engine import Decoding, Finish, Piece
from recipe_generator.growing_text import GrowingText


class Writing:
    """Made in an event loop, continued token by token in an engine's thread."""

    def __init__(self, decode: Callable[[list[int]], str], decoding: Decoding, end_ids: frozenset[int]) -> None:
        self.over = False  # set in either thread, read in the engine's before each step
        self._text = GrowingText(decode, decoding.stop)
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
