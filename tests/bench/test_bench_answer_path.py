"""Benchmarks of the way from a query to an edited answer, with the shipped models: `make bench`.

Compare figures of one run only: the machines these run on are noisy.
"""

import asyncio
import json
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from pytest_benchmark.fixture import BenchmarkFixture

from recipe_generator.engine import Decoding, Edit, Piece
from recipe_generator.transformers_engine import TransformersEngine
from recipe_model.editor import RecipeEditor
from recipe_model.language_model import LanguageModel
from recipe_retriever.metrics import RetrieverMetrics
from recipe_retriever.retrieval import Decision, Retriever
from recipe_store.edge_store import open_edge_store
from recipe_store.facts import Fact, FactWrite, LogPosition
from recipe_store.prompt_codec import encode_prompt
from recipe_store.token_codec import encode_tokens

NOW = datetime(2026, 1, 1, tzinfo=UTC)
NEW_TOKENS = 16


@pytest.fixture(scope="module")
def editor() -> RecipeEditor:
    return RecipeEditor.load()


@pytest.fixture(scope="module")
def engine() -> TransformersEngine:
    return TransformersEngine(LanguageModel.load())


@pytest.fixture(scope="module", params=[1_000, 10_000], ids="{:,} facts".format)
def retriever(request: pytest.FixtureRequest, editor: RecipeEditor) -> Iterator[Retriever]:
    with tempfile.TemporaryDirectory() as folder:
        store = open_edge_store(Path(folder), editor.model_version, editor.vector_size, editor.prompt_width)
        for start in range(0, request.param, 64):
            numbers = range(start, min(start + 64, request.param))
            rows = zip(numbers, editor.encode([statement(number) for number in numbers]), strict=True)
            store.write([FactWrite(fact(number), each.vector, each.tokens, each.prompt) for number, each in rows])
        yield Retriever(editor, store, RetrieverMetrics(CollectorRegistry()))
        store.close()


def statement(number: int) -> str:
    return f"The serial number of machine {number} is {number * 7919}"


def fact(number: int) -> Fact:
    return Fact(
        namespace="bench",
        fact_id=str(number),
        revision=0,
        statement=statement(number),
        subject=f"machine {number}",
        aliases=(),
        valid_from=None,
        valid_until=None,
        labels={},
        event_id=str(number),
        event_time=NOW,
        publisher="bench",
        uri="",
        position=LogPosition("bench", 0, number),
    )


def test_encode_a_query(benchmark: BenchmarkFixture, editor: RecipeEditor) -> None:
    benchmark(editor.query, ["The serial number of machine 77 is"])


def test_encode_64_statements(benchmark: BenchmarkFixture, editor: RecipeEditor) -> None:
    benchmark(editor.encode, [statement(number) for number in range(64)])


def test_retrieve_a_miss(benchmark: BenchmarkFixture, retriever: Retriever) -> None:
    found = benchmark(retriever.retrieve, "bench", "who wrote the first symphony in history", NOW)
    assert found.decision is Decision.BELOW_SENTINEL


def test_retrieve_a_hit(benchmark: BenchmarkFixture, retriever: Retriever) -> None:
    found = benchmark(retriever.retrieve, "bench", "The serial number of machine 77 is", NOW)
    assert found.decision is Decision.HIT


@pytest.mark.parametrize("edited", [False, True], ids=["unedited", "edited"])
def test_generate(benchmark: BenchmarkFixture, editor: RecipeEditor, engine: TransformersEngine, edited: bool) -> None:
    edit = Edit(editor.encode([statement(77)])[0].prompt, statement(77)) if edited else None
    ids = engine.token_ids("The serial number of machine 77 is")
    last = benchmark(lambda: asyncio.run(write(engine, edit, ids)))
    benchmark.extra_info["generated_tokens"] = last.tokens


@pytest.mark.parametrize("words", [0, 8, 40, 160], ids=["unedited", "8 words", "40 words", "160 words"])
def test_generate_behind_a_fact_of_some_length(
    benchmark: BenchmarkFixture, editor: RecipeEditor, engine: TransformersEngine, words: int
) -> None:
    """What stands in front of a text is as long as its fact: prompt and words; and so is what is stored."""
    told = "The procedure for lost badges is " + " ".join(f"step{number % 10}" for number in range(words - 6))
    (encoded,) = editor.encode([told])
    edit = Edit(encoded.prompt, told) if words else None
    ids = engine.token_ids("The procedure for lost badges is")
    benchmark(lambda: asyncio.run(write(engine, edit, ids)))
    if edit is not None:
        payload = json.dumps([encode_prompt(encoded.prompt), encode_tokens(encoded.tokens)])
        benchmark.extra_info["stored_bytes"] = len(payload) + encoded.vector.nbytes
        benchmark.extra_info["tokens_in_front"] = engine.tokens_in_front(edit)


async def write(engine: TransformersEngine, edit: Edit | None, ids: list[int]) -> Piece:
    """The last piece of a text."""
    return [piece async for piece in engine.write(edit, ids, Decoding(NEW_TOKENS))][-1]
