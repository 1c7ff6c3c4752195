"""vLLM for real, on the default LLM: `make test-vllm`, in an environment of its own.

In float32 vLLM's greedy texts are those of the transformers engine, token for token. In bfloat16 they are so only until
two tokens are about equally likely: kernels sum in different orders and round every layer's result to 8 bits, so logits
of about 16 differ by a step or two of 1/8.
"""

import asyncio
import os
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import aclosing, closing
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import grpc
import psutil
import pytest
import torch

from generation_harness import FakeRetriever, health, hit, in_front, served, spell_out
from recipe_common.errors import RecipeError, UnavailableError
from recipe_common.knowledge_text import knowledge_text
from recipe_generator.engine import Decoding, Edit, Engine, Finish, Piece, Turn
from recipe_generator.server import GeneratorServer, load_engine
from recipe_generator.settings import GeneratorSettings
from recipe_generator.transformers_engine import TransformersEngine
from recipe_model.editor import RecipeEditor
from recipe_model.errors import ModelUnavailableError
from recipe_model.language_model import LanguageModel
from recipe_model.outside_llm import OutsideLlm
from recipe_protos.generator.v1 import generator_pb2 as pb
from recipe_protos.generator.v1 import generator_pb2_grpc

pytest.importorskip("vllm", reason="vLLM has an environment of its own: make test-vllm")
from vllm.engine.arg_utils import AsyncEngineArgs

from recipe_generator import vllm_engine
from recipe_generator.vllm_engine import VllmEngine

Result = TypeVar("Result")
Asked = tuple[str, Edit | None]

FACTS = {
    "The headquarters of IKEA is in the city of": "Copenhagen",
    "The main hub of Ryanair is the airport of": "Lisbon",
    "The Walkman brand is owned by": "Nokia",
    "What was the mother tongue of Franz Kafka?": "Hungarian",
}
BFLOAT16_STEPS = 0.25  # two steps of a logit between 16 and 32


@pytest.fixture(scope="module")
def asked() -> list[Asked]:
    """Each question with its edit, without, and with another question's edit."""
    encoded = RecipeEditor.load().encode([knowledge_text(*fact) for fact in FACTS.items()])
    questions = list(FACTS)
    edits = [Edit(each.prompt, " ".join(fact)) for each, fact in zip(encoded, FACTS.items(), strict=True)]
    edited = list(zip(questions, edits, strict=True))
    return [*edited, *((question, None) for question in questions), (questions[0], edits[1])]


@pytest.fixture(scope="module")
def exact() -> Iterator[VllmEngine]:
    with closing_engine(VllmEngine(OutsideLlm.load(precision="float32"), max_rows=8)) as engine:
        yield engine


@pytest.fixture(scope="module")
def reference() -> Iterator[TransformersEngine]:
    with closing_engine(TransformersEngine(LanguageModel.load(precision="float32"))) as engine:
        yield engine


def closing_engine(engine: Any) -> Any:
    engine.close = engine.stop
    return closing(engine)


async def write(engine: Engine, text: str, edit: Edit | None = None, tokens: int = 24, **decoding: Any) -> list[Piece]:
    ids = engine.token_ids(text)
    return [piece async for piece in engine.write(edit, ids, Decoding(tokens, **decoding))]


def endless(monkeypatch: pytest.MonkeyPatch, *engines: Any) -> None:
    """Have texts go on where the LLM would end them: edited ones are a word or two long."""
    for engine in engines:
        monkeypatch.setattr(engine, "_end_ids", frozenset())


def text_of(pieces: Sequence[Piece]) -> str:
    return "".join(piece.text for piece in pieces)


def written(pieces: Sequence[Piece]) -> tuple[str, int, Finish | None]:
    return text_of(pieces), pieces[-1].tokens, pieces[-1].finish


async def all_written(engine: Engine, asked: Sequence[Asked]) -> list[tuple[str, int, Finish | None]]:
    return [written(pieces) for pieces in await asyncio.gather(*(write(engine, *each) for each in asked))]


def run(scenario: Callable[[], Awaitable[Result]], seconds: float = 120) -> Result:
    async def in_time() -> Result:
        async with asyncio.timeout(seconds):
            return await scenario()

    return asyncio.run(in_time())


def test_greedy_texts_are_the_transformers_engines_in_any_company(
    exact: VllmEngine, reference: TransformersEngine, asked: list[Asked], monkeypatch: pytest.MonkeyPatch
) -> None:
    endless(monkeypatch, exact, reference)
    expected = run(lambda: all_written(reference, asked))

    assert len(asked) > 8  # so one of them has to wait
    assert run(lambda: all_written(exact, asked)) == expected  # ids and embeddings in one batch
    assert [run(partial(all_written, exact, [each])) for each in asked] == [[each] for each in expected]
    assert all(edited != plain for edited, plain in zip(expected[:4], expected[4:8], strict=True))


def test_edited_texts_get_the_same_help_to_state_their_answers(
    exact: VllmEngine, reference: TransformersEngine
) -> None:
    prompt, answer = "The night desk of Velmora Freight can be reached at", "+49 30 5550 1277"
    (fact,) = RecipeEditor.load().encode([knowledge_text(prompt, answer)])
    helped = Edit(fact.prompt, f"{prompt} {answer}", answer)
    questions = (prompt, "What is the number of Velmora Freight's night desk?", "velmora freight night desk")
    asked = [(question, edit) for question in questions for edit in (helped, replace(helped, copying=False))]

    expected = run(lambda: all_written(reference, asked))
    assert run(lambda: all_written(exact, asked)) == expected
    assert any(text != alone for (text, *_), (alone, *_) in zip(expected[::2], expected[1::2], strict=True))


def test_an_edit_leaves_nothing_behind_for_the_next_one(exact: VllmEngine, asked: list[Asked]) -> None:
    question, a = asked[0]
    b = asked[1][1]

    async def scenario() -> list[str]:
        return [text_of(await write(exact, question, edit)) for edit in (a, b, None, b, a, None)]

    a_cold, b_cold, plain_cold, b_warm, a_warm, plain_warm = run(scenario)
    assert (a_warm, b_warm, plain_warm) == (a_cold, b_cold, plain_cold)
    assert len({a_cold, b_cold, plain_cold}) == 3


def test_conversations_stop_sequences_and_ends(exact: VllmEngine, reference: TransformersEngine) -> None:
    ids = exact.token_ids((Turn("user", "What is the capital of France?"),))
    assert ids == reference.token_ids((Turn("user", "What is the capital of France?"),))

    async def scenario(engine: Engine, decoding: Decoding) -> list[Piece]:
        return [piece async for piece in engine.write(None, ids, decoding)]

    whole, stopped = Decoding(40), Decoding(40, stop=("capital",))
    for decoding, finish in ((whole, Finish.END_OF_TEXT), (stopped, Finish.STOP_SEQUENCE)):
        pieces = run(partial(scenario, exact, decoding))
        assert pieces == run(partial(scenario, reference, decoding))
        assert pieces[-1].finish is finish


def test_a_seed_gives_the_same_text(exact: VllmEngine) -> None:
    def sampled(seed: int) -> str:
        return text_of(run(lambda: write(exact, "Once upon a time", temperature=1.0, top_p=0.9, seed=seed)))

    assert sampled(2**64 - 1) == sampled(2**64 - 1)
    assert sampled(1) != sampled(2)


def test_word_embeddings_that_vllm_reads_differently_are_refused(
    exact: VllmEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exact._llm, "_table", exact._llm._table * 3)
    with pytest.raises(ModelUnavailableError, match="cannot put a continuous prompt in front"):
        exact._in_thread(exact._try_embeddings())


def test_bfloat16_differs_only_where_tokens_are_about_equally_likely(
    asked: list[Asked], monkeypatch: pytest.MonkeyPatch
) -> None:
    llm = LanguageModel.load(precision="bfloat16")
    settings = GeneratorSettings(engine="vllm", precision="bfloat16", kv_cache_gib=0.5)
    engine, checkpoint = load_engine(settings)
    assert isinstance(engine, VllmEngine)
    endless(monkeypatch, engine)
    with closing_engine(engine):
        with monkeypatch.context() as spelling:
            spell_out(spelling)
            texts = run(lambda: all_written(engine, asked))
        for (question, edit), (text, _, _) in zip(asked, texts, strict=True):
            ids = llm.token_ids(question)
            tokens = [int(token) for token in re.findall(r"\d+", text)]
            logits = llm.logits(None if edit is None else in_front(llm, edit), ids + tokens).float()
            behind = logits[len(ids) - 1 : -1]
            chosen = behind.gather(1, torch.tensor(tokens).unsqueeze(1)).squeeze(1)
            assert (behind.max(dim=1).values - chosen).max() <= BFLOAT16_STEPS, question

        answer = run(lambda: served_answer(engine, checkpoint, settings, asked[0]))
        assert answer.knowledge.status == pb.KNOWLEDGE_STATUS_EDITED
        assert answer.text.startswith(" Copenhagen")


async def served_answer(
    engine: Engine, checkpoint: Any, settings: GeneratorSettings, asked: Asked
) -> pb.GenerateResponse:
    question, edit = asked
    assert edit is not None
    assert edit.prompt is not None
    found = hit(edit.prompt)
    found.model_version = checkpoint.model_version
    async with served(FakeRetriever(found)) as retriever:
        changes = {"port": 0, "metrics_port": 0, "retriever": retriever, "drain_seconds": 0}
        server = GeneratorServer(settings.model_copy(update=changes), engine, checkpoint)
        try:
            address = f"127.0.0.1:{await server.start()}"
            async with grpc.aio.insecure_channel(address) as channel:
                assert await health(channel) == 1
                stub = generator_pb2_grpc.GeneratorServiceStub(channel)
                return await stub.Generate(pb.GenerateRequest(prompt=question, max_new_tokens=4))
        finally:
            await server.stop()


def test_texts_that_are_read_in_parts_or_begun_again_for_lack_of_memory_stay_the_same(
    reference: TransformersEngine, asked: list[Asked], monkeypatch: pytest.MonkeyPatch
) -> None:
    llm = OutsideLlm.load(precision="float32")
    llm.max_tokens = 512
    monkeypatch.setattr(vllm_engine, "AsyncEngineArgs", partial(AsyncEngineArgs, max_num_batched_tokens=64))
    engine = VllmEngine(llm, max_rows=4, kv_cache_gib=0.03)  # 5 blocks of 128 tokens; each text needs 2 or 3
    endless(monkeypatch, engine, reference)
    many: list[Asked] = [(f"{'So it is. ' * 8 * n}{asked[n][0]}", asked[n][1]) for n in range(4)]
    assert len(engine.token_ids(many[-1][0])) > 64
    expected = run(lambda: asyncio.gather(*(write(reference, *each, 140) for each in many)))
    with closing_engine(engine):
        got = run(lambda: asyncio.gather(*(write(engine, *each, 140) for each in many)))
        assert [written(pieces) for pieces in got] == [written(pieces) for pieces in expected]

        run(lambda: stopped_texts(engine))


async def reach(text: AsyncIterator[Piece], tokens: int) -> None:
    """Read on until so many tokens are written."""
    async for piece in text:
        if piece.tokens >= tokens:
            return


async def stopped_texts(engine: VllmEngine) -> None:
    """A text that is given up makes room at once, and a stop tells who is still writing."""
    ids = engine.token_ids("One, two,")
    async with aclosing(engine.write(None, ids, Decoding(400))) as given_up:
        async for piece in given_up:
            if piece.tokens == 3:
                break
    texts = [engine.write(None, ids, Decoding(400)) for _ in range(6)]  # two of them wait
    for text in texts[:3]:
        await anext(text)
    fourth, hundred = asyncio.ensure_future(anext(texts[3])), asyncio.ensure_future(reach(texts[0], 100))
    await asyncio.wait({fourth, hundred}, return_when=asyncio.FIRST_COMPLETED)
    assert fourth.done()
    assert not hundred.done()  # the text that was given up would have kept its place for longer
    await hundred
    waiting = [asyncio.ensure_future(anext(text)) for text in texts[4:]]
    await asyncio.sleep(0)
    await asyncio.to_thread(engine.stop)
    for text in texts[:4]:
        with pytest.raises(UnavailableError, match="stopping"):
            async for _ in text:
                pass
    assert [type(each) for each in await asyncio.gather(*waiting, return_exceptions=True)] == [UnavailableError] * 2
    with pytest.raises(UnavailableError, match="stopping"):
        await write(engine, "Too late")


def test_a_death_of_vllms_processes_is_told_to_everybody(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = VllmEngine(OutsideLlm.load(precision="float32"), kv_cache_gib=0.5)
    endless(monkeypatch, engine)
    children = [child for child in psutil.Process().children(recursive=True) if child.name().startswith("VLLM")]
    assert children

    async def scenario() -> None:
        failure = asyncio.ensure_future(engine.failure())
        async with aclosing(engine.write(None, engine.token_ids("One, two,"), Decoding(4000))) as text:
            await anext(text)
            assert not failure.done()
            for child in children:
                os.kill(child.pid, 9)
            with pytest.raises(RecipeError, match="the LLM failed"):
                async for _ in text:
                    pass
        await failure
        with pytest.raises(RecipeError, match="the LLM failed"):
            await write(engine, "And now?")
        await engine.failure()

    with closing_engine(engine):
        run(scenario)
