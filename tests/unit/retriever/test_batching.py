"""Queries of many callers in one pass of the encoder."""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import pytest
from prometheus_client import CollectorRegistry

from recipe_common.errors import DeadlineExceededError
from recipe_model.encoded import EncodedQuery
from recipe_retriever.batching import MAX_BATCH, MAX_CHARACTERS, QueryBatches
from recipe_retriever.deadline import Deadline
from recipe_retriever.metrics import RetrieverMetrics
from retrieval_harness import TableEncoder, axis

Result = TypeVar("Result")
NO_DEADLINE = Deadline()


class GatedEncoder(TableEncoder):
    """Begins its first pass only when told to, and notes what was in each pass."""

    def __init__(self) -> None:
        super().__init__({"east": axis(1)})
        self.passes: list[list[str]] = []
        self.begun, self.go_on = threading.Event(), threading.Event()

    def query(self, questions: Sequence[str]) -> list[EncodedQuery]:
        self.passes.append(list(questions))
        self.begun.set()
        assert self.go_on.wait(20)
        return super().query(questions)

    async def until_begun(self) -> None:
        assert await asyncio.to_thread(self.begun.wait, 20)


@pytest.fixture
def encoder() -> GatedEncoder:
    return GatedEncoder()


@pytest.fixture
def run(
    encoder: GatedEncoder, registry: CollectorRegistry
) -> Iterator[Callable[[Callable[[QueryBatches], Awaitable[Result]]], Result]]:
    with ThreadPoolExecutor(1) as executor:

        def begin(scenario: Callable[[QueryBatches], Awaitable[Result]]) -> Result:
            async def inside() -> Result:
                return await scenario(QueryBatches(encoder.query, executor, RetrieverMetrics(registry)))

            return asyncio.run(inside())

        yield begin
        encoder.go_on.set()


Run = Callable[[Callable[[QueryBatches], Awaitable[Result]]], Result]


async def behind_a_pass(batches: QueryBatches, encoder: GatedEncoder, *texts: str) -> list[object]:
    """What becomes of texts of one caller each that come while a first query is being encoded."""
    first = asyncio.ensure_future(batches.encode(["first"], NO_DEADLINE))
    await encoder.until_begun()
    waiting = [asyncio.ensure_future(batches.encode([text], NO_DEADLINE)) for text in texts]
    await asyncio.sleep(0)
    encoder.go_on.set()
    await first
    return list(await asyncio.gather(*waiting, return_exceptions=True))


def test_queries_that_wait_share_a_pass_and_each_caller_gets_its_own(
    run: Run[list[object]], encoder: GatedEncoder, registry: CollectorRegistry
) -> None:
    found = run(lambda batches: behind_a_pass(batches, encoder, "north", "east", "south"))
    assert encoder.passes == [["first"], ["north", "east", "south"]]
    vectors = [result[0].vector.tolist() for result in found if isinstance(result, list)]
    assert vectors == [[1, 0, 0, 0], [0, 1, 0, 0], [1, 0, 0, 0]]
    assert registry.get_sample_value("recipe_retriever_batch_size_sum") == 4
    assert registry.get_sample_value("recipe_retriever_stage_seconds_count", {"stage": "queue"}) == 4


def test_several_queries_of_one_caller_come_back_in_their_order(
    run: Run[list[EncodedQuery]], encoder: GatedEncoder
) -> None:
    encoder.go_on.set()
    found = run(lambda batches: batches.encode(["east", "north", "east"], NO_DEADLINE))
    assert [vector.vector.tolist() for vector in found] == [[0, 1, 0, 0], [1, 0, 0, 0], [0, 1, 0, 0]]
    assert encoder.passes == [["east", "north", "east"]]


def test_a_pass_holds_no_more_than_the_largest_batch(run: Run[list[object]], encoder: GatedEncoder) -> None:
    run(lambda batches: behind_a_pass(batches, encoder, *("north" for _ in range(MAX_BATCH + 3))))
    assert [len(texts) for texts in encoder.passes] == [1, MAX_BATCH, 3]


def test_a_long_text_does_not_lengthen_many_short_ones(run: Run[list[object]], encoder: GatedEncoder) -> None:
    long = "x" * (MAX_CHARACTERS // 2)
    run(lambda batches: behind_a_pass(batches, encoder, "north", long, "east", "south"))
    assert [len(texts) for texts in encoder.passes] == [1, 2, 2]


def test_what_breaks_a_pass_is_every_callers_error(
    run: Run[list[object]], encoder: GatedEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: object) -> list[EncodedQuery]:
        raise RuntimeError("out of memory")

    async def scenario(batches: QueryBatches) -> list[object]:
        monkeypatch.setattr(batches, "_encode", fail)
        calls = [batches.encode([text], NO_DEADLINE) for text in ("a", "b")]
        failed = list(await asyncio.gather(*calls, return_exceptions=True))
        monkeypatch.setattr(batches, "_encode", TableEncoder().query)
        return [*failed, len(await batches.encode(["c"], NO_DEADLINE))]  # it goes on

    first, second, after = run(scenario)
    assert [str(first), str(second), after] == ["out of memory", "out of memory", 1]


def test_who_is_out_of_time_or_has_gone_is_not_encoded(run: Run[list[object]], encoder: GatedEncoder) -> None:
    async def scenario(batches: QueryBatches) -> list[object]:
        first = asyncio.ensure_future(batches.encode(["first"], NO_DEADLINE))
        await encoder.until_begun()
        late = asyncio.ensure_future(batches.encode(["late"], Deadline.in_seconds(0.01)))
        gone = asyncio.ensure_future(batches.encode(["gone"], NO_DEADLINE))
        kept = asyncio.ensure_future(batches.encode(["kept"], Deadline.in_seconds(60)))
        await asyncio.sleep(0.05)
        gone.cancel()
        encoder.go_on.set()
        return list(await asyncio.gather(first, late, kept, return_exceptions=True))

    _, late, kept = run(scenario)
    assert isinstance(late, DeadlineExceededError)
    assert str(late) == "the deadline passed before the query was encoded; allow more time or retry later"
    assert isinstance(kept, list)
    assert encoder.passes == [["first"], ["kept"]]
