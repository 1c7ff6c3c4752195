"""Guesses at what edited texts say, with the models that are shipped: fewer steps, and not another word."""

import asyncio
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from generation_harness import in_front
from recipe_common.knowledge_text import knowledge_text
from recipe_generator.engine import Decoding, Edit
from recipe_generator.transformers_engine import TransformersEngine
from recipe_model.editor import RecipeEditor
from recipe_model.language_model import LanguageModel

FACTS = {
    "The headquarters of IKEA is in the city of": "Copenhagen",
    "The main hub of Ryanair is the airport of": "Lisbon",
    "The Walkman brand is owned by": "Nokia",
    "What was the mother tongue of Franz Kafka?": "Hungarian",
    "The chief executive of Contoso is": "Ada Marguerite Example",
    "What is the IUCN conservation status of the snow leopard?": "least concern",
}
TOKENS = 16


@pytest.fixture(scope="module")
def llm() -> LanguageModel:
    return LanguageModel.load()


@pytest.fixture(scope="module")
def edits() -> list[Edit]:
    encoded = RecipeEditor.load().encode([knowledge_text(*fact) for fact in FACTS.items()])
    return [Edit(each.prompt, " ".join(fact)) for each, fact in zip(encoded, FACTS.items(), strict=True)]


@pytest.fixture
def engine(llm: LanguageModel) -> Iterator[Any]:
    running: Any = TransformersEngine(llm)
    running.close = running.stop
    with closing(running):
        yield running


async def write(engine: TransformersEngine, question: str, edit: Edit) -> tuple[str, int]:
    pieces = [piece async for piece in engine.write(edit, engine.token_ids(question), Decoding(TOKENS))]
    return "".join(piece.text for piece in pieces), pieces[-1].tokens


def test_edited_texts_are_those_of_plain_transformers_in_fewer_steps(
    engine: Any, llm: LanguageModel, edits: list[Edit], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Each question behind its own fact, whose words the text takes, and behind another one.
    asked = [
        (question, edit)
        for shift in (0, 1)
        for question, edit in zip(FACTS, edits[shift:] + edits[:shift], strict=True)
    ]
    runs: list[list[int]] = []
    step = engine._decoder.step

    def watched(caches: Any, now: list[list[int]]) -> Any:
        runs.extend(now)
        return step(caches, now)

    monkeypatch.setattr(engine._decoder, "step", watched)

    alone = [asyncio.run(write(engine, *each)) for each in asked]
    alone_runs = list(runs)

    async def at_once() -> list[tuple[str, int]]:
        return await asyncio.gather(*(write(engine, *each) for each in asked))

    plain = [llm.generate(in_front(llm, edit), question, TOKENS) for question, edit in asked]
    expected = [(each.text, each.generated_tokens) for each in plain]
    assert alone == expected
    assert asyncio.run(at_once()) == expected
    if engine._decoder.free_places(1):  # which is a matter of the processor
        assert len(alone_runs) < sum(tokens for _, tokens in expected)
        assert max(len(run) for run in alone_runs) > 2
