"""The LLM in this process, through transformers: texts join and leave a batch between two steps.

One joins at a time, and while it is read, the others have steps: no text waits for another one's length.
"""

import asyncio
import logging
from collections import deque
from collections.abc import AsyncGenerator
from dataclasses import asdict
from threading import Condition, Thread

import torch
from torch import Tensor
from transformers import DynamicCache

from recipe_generator.batch_invariant_decoding import READ_AT_ONCE, RowDecoder, take_back
from recipe_generator.draft import Draft
from recipe_generator.engine import Decoding, Edit, Piece, Text, tokens_in_front
from recipe_generator.kv_cache import tokens_of
from recipe_generator.sampling import Sampler
from recipe_generator.text_stream import TextStream, failed, stopping
from recipe_model.copying import Copying
from recipe_model.language_model import LanguageModel

logger = logging.getLogger(__name__)


class TransformersEngine:
    """Writes up to `max_rows` texts at once in a thread of its own, whose keys and values share `kv_cache_gib`.

    Further ones wait for their turn; none overtakes another, so that a long one gets its room.
    """

    def __init__(self, llm: LanguageModel, max_rows: int = 32, kv_cache_gib: float = 1.0) -> None:
        self._llm = llm
        self._max_rows = max_rows
        self._kv_tokens = tokens_of(kv_cache_gib, llm.model)
        self._decoder = RowDecoder(llm)
        self._end_ids = frozenset(llm.end_ids)
        self._rows: list[_Row] = []  # the batch; the thread's own
        self._waiting: deque[_Row] = deque()
        self._changed = Condition()  # guards _waiting and _stopped
        self._stopped = False
        self._failed = asyncio.Event()
        self._thread = Thread(target=self._run, name="generate", daemon=True)
        self._thread.start()

    @property
    def max_tokens(self) -> int:
        """As the protocol says."""
        return min(self._llm.max_tokens, self.kv_tokens)

    @property
    def kv_tokens(self) -> int:
        """As the protocol says."""
        return self._kv_tokens

    @property
    def kv_tokens_taken(self) -> int:
        """As the protocol says."""
        return sum(row.need for row in self._rows if not row.over)

    def token_ids(self, text: Text) -> list[int]:
        """As the protocol says."""
        if isinstance(text, str):
            return self._llm.token_ids(text)
        return self._llm.chat_ids([asdict(turn) for turn in text])

    @property
    def chats(self) -> bool:
        """As the protocol says."""
        return self._llm.chats

    def tokens_in_front(self, edit: Edit) -> int:
        """As the protocol says."""
        return tokens_in_front(self._llm, edit)

    async def write(self, edit: Edit | None, ids: list[int], decoding: Decoding) -> AsyncGenerator[Piece, None]:
        """As the protocol says."""
        in_front = 0 if edit is None else await asyncio.to_thread(self.tokens_in_front, edit)
        row = _Row(edit, ids, decoding, self._llm, self._end_ids, in_front + len(ids))
        self._submit(row)
        try:
            async for piece in row.pieces():
                yield piece
        finally:
            row.over = True

    async def failure(self) -> None:
        """As the protocol says."""
        await self._failed.wait()
        self._failed.clear()

    def stop(self) -> None:
        """As the protocol says."""
        with self._changed:
            self._stopped = True
            self._changed.notify()
        self._thread.join()

    def _submit(self, row: "_Row") -> None:
        with self._changed:
            if self._stopped:
                raise stopping()
            self._waiting.append(row)
            self._changed.notify()

    def _run(self) -> None:
        while not self._stopped:
            self._join()
            self._step(self._rows)
        for row in (*self._rows, *self._waiting):
            row.fail(stopping())

    def _join(self) -> None:
        """Whoever waits and has room, as many as are read quickly: the others are to go on."""
        read = 0
        while read < READ_AT_ONCE and (row := self._next()) is not None:
            self._rows.append(row)
            self._begin(row)
            read += row.to_read

    def _next(self) -> "_Row | None":
        """Who has waited longest, if there is room beside the batch; waits for somebody if that is empty."""
        self._rows = [row for row in self._rows if not row.over]
        with self._changed:
            self._changed.wait_for(lambda: self._rows or self._waiting or self._stopped)
            while self._waiting and self._waiting[0].over:  # given up while it waited
                self._waiting.popleft()
            return self._waiting.popleft() if self._waiting and self._has_room(self._waiting[0]) else None

    def _has_room(self, row: "_Row") -> bool:
        """Whether a text can be written to its end beside the batch; alone it can, as `max_tokens` sees to it."""
        fits = self.kv_tokens_taken + row.need <= self.kv_tokens
        return not self._rows or (len(self._rows) < self._max_rows and fits)

    def _begin(self, row: "_Row") -> None:
        try:
            if row.edit is not None and self._decoder.free_places(1):
                row.draft = Draft(self._llm.sentence_ids(row.edit.statement))
            if row.edit is not None and row.edit.answer and row.edit.copying:
                row.copying = self._llm.copying(row.edit.statement, row.edit.answer, self._llm.end_ids)
            row.cache, logits = self._decoder.read(self._in_front(row.edit), row.ids, lambda: self._meanwhile(row))
            row.choose(logits)
        except _GivenUpError:
            row.fail(stopping())
        except Exception:  # noqa: BLE001 (the thread's boundary: the row fails, others live on)
            self._fail([row])

    def _meanwhile(self, row: "_Row") -> None:
        """A step of the others while a text is read. Raises _GivenUpError if nobody needs that text any more."""
        if row.over or self._stopped:
            raise _GivenUpError
        self._step([other for other in self._rows if other is not row])

    def _in_front(self, edit: Edit | None) -> Tensor | None:
        """What is told of the fact [l + n, d]."""
        if edit is None or edit.prompt is None:
            return None
        with torch.inference_mode():
            return self._llm.told(edit.statement, torch.from_numpy(edit.prompt.copy()))

    def _step(self, batch: "list[_Row]") -> None:
        rows = [row for row in batch if not row.over]
        if not rows:
            return
        try:
            places = self._decoder.free_places(len(rows))
            runs = []
            for row in rows:
                runs.append(row.run(places))
                places -= len(runs[-1]) - 1
            logits = self._decoder.step([row.cache for row in rows], runs)
            for row, run, of_run in zip(rows, runs, logits, strict=True):
                row.accept(run, of_run)
        except Exception:  # noqa: BLE001 (the thread's boundary)
            self._fail(rows)

    def _fail(self, rows: "list[_Row]") -> None:
        logger.exception("the LLM failed on a batch of %d", len(rows))
        for row in rows:
            row.fail(failed())
        rows[0].in_loop(self._failed.set)


class _GivenUpError(Exception):
    """A text is not needed any more."""


class _Row(TextStream):
    """One text of the batch."""

    cache: DynamicCache
    token: int  # the last one chosen

    def __init__(
        self,
        edit: Edit | None,
        ids: list[int],
        decoding: Decoding,
        llm: LanguageModel,
        end_ids: frozenset[int],
        to_read: int,
    ) -> None:
        super().__init__(llm, decoding, end_ids)
        self.edit = edit
        self.ids = ids
        self.to_read = to_read  # tokens, with what stands in front
        self.need = to_read + decoding.max_new_tokens  # that it may have in the end
        self.draft = Draft(())
        self.copying = Copying()
        self._sample = Sampler(decoding)

    def run(self, places: int) -> list[int]:
        """What the LLM reads next: the last token chosen, and guesses at as many of the following ones at most."""
        return [self.token, *self.draft.ahead[: min(places, self.tokens_left - 1)]]

    def accept(self, run: list[int], logits: Tensor) -> None:
        """Choose the next tokens by the logits [k, v] behind each of a run, as far as its guesses were right."""
        for place, following in enumerate([*run[1:], None]):
            self.choose(logits[place])
            if self.over or self.token != following:
                take_back(self.cache, len(run) - 1 - place)
                return

    def choose(self, logits: Tensor) -> None:
        """Choose the next token by its logits [v] and tell what it adds."""
        self.token = self._sample(self.copying.help(logits))
        self.copying.follow(self.token)
        self.draft.follow(self.token)
        self.add(self.token)
