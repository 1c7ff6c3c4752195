"""Queries of many callers in one pass of the text encoder."""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import Final

from recipe_common.tracing import tracer
from recipe_model.encoded import EncodedQuery
from recipe_retriever.deadline import Deadline
from recipe_retriever.metrics import RetrieverMetrics

MAX_BATCH: Final = 32
# Short texts are padded to the longest of their batch: one long text must not make many of them long.
MAX_CHARACTERS: Final = 8_192
GATHER_SECONDS: Final = 0.001

Encode = Callable[[Sequence[str]], list[EncodedQuery]]


@dataclass(frozen=True, slots=True)
class _Waiting:
    text: str
    deadline: Deadline
    encoded: "asyncio.Future[EncodedQuery]"
    since: float = field(default_factory=time.perf_counter)


class QueryBatches:
    """Encodes what waits together, in one thread, off the event loop.

    A lone query begins at once. While one batch is encoded the next gathers; if more than one query has, it is given
    another millisecond, because those who were just answered often ask again. Who has gone or is out of time when its
    turn comes costs nothing. How many may wait is up to the caller.
    """

    def __init__(self, encode: Encode, executor: Executor, metrics: RetrieverMetrics) -> None:
        self._encode = encode
        self._executor = executor
        self._metrics = metrics
        self._waiting: deque[_Waiting] = deque()
        self._worker: asyncio.Task[None] | None = None

    async def encode(self, texts: Sequence[str], deadline: Deadline) -> list[EncodedQuery]:
        """The encoded texts. Raises DeadlineExceededError."""
        loop = asyncio.get_running_loop()
        waiting = [_Waiting(text, deadline, loop.create_future()) for text in texts]
        self._waiting.extend(waiting)
        if self._worker is None or self._worker.done():
            self._worker = loop.create_task(self._work())
        with tracer.start_as_current_span("encode"):  # with the wait for its turn
            return await asyncio.gather(*(each.encoded for each in waiting))

    async def _work(self) -> None:
        while self._waiting:
            if 1 < len(self._waiting) < MAX_BATCH:
                await asyncio.sleep(GATHER_SECONDS)
            if batch := self._take():
                await self._encode_batch(batch)

    def _take(self) -> list[_Waiting]:
        """The longest waiting queries that fit in one pass."""
        batch: list[_Waiting] = []
        longest = 0
        while self._waiting and len(batch) < MAX_BATCH:
            first = self._waiting[0]
            longest = max(longest, len(first.text))
            if batch and (len(batch) + 1) * longest > MAX_CHARACTERS:
                break
            self._waiting.popleft()
            if first.encoded.done():  # its caller has gone
                continue
            if error := first.deadline.passed("the query was encoded"):
                first.encoded.set_exception(error)
                continue
            self._metrics.stage_seconds.labels("queue").observe(time.perf_counter() - first.since)
            batch.append(first)
        return batch

    async def _encode_batch(self, batch: Sequence[_Waiting]) -> None:
        self._metrics.batch_size.observe(len(batch))
        loop = asyncio.get_running_loop()
        results: Sequence[EncodedQuery | Exception]
        try:
            results = await loop.run_in_executor(self._executor, self._encode, [each.text for each in batch])
        except Exception as error:  # noqa: BLE001 (it is raised in each of the callers)
            results = [error] * len(batch)
        for each, result in zip(batch, results, strict=True):
            if each.encoded.done():
                continue
            if isinstance(result, Exception):
                each.encoded.set_exception(result)
            else:
                each.encoded.set_result(result)
