import asyncio
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest

from generation_harness import TEXT, Gate, in_front, some_prompt, spell_out
from recipe_common.errors import FailedPreconditionError, RecipeError, UnavailableError
from recipe_generator import batch_invariant_decoding, transformers_engine
from recipe_generator.draft import Draft
from recipe_generator.engine import Decoding, Edit, Engine, Finish, Piece, Turn
from recipe_generator.kv_cache import bytes_per_token
from recipe_generator.server import load_engine
from recipe_generator.settings import GeneratorSettings
from recipe_generator.transformers_engine import TransformersEngine
from recipe_model.errors import CheckpointError, ModelUnavailableError
from tiny_models import make_language_model, save_llm, save_tiny_checkpoint

Result = TypeVar("Result")

TEXTS = [f"{'So ' * (number % 4)}the {number}. mayor of Aville is" for number in range(9)]


@pytest.fixture
def engine() -> Iterator[TransformersEngine]:
    running = TransformersEngine(make_language_model(), max_rows=4)
    yield running
    running.stop()


async def write(
    engine: Engine, text: str = TEXT, edit: Edit | None = None, tokens: int = 8, **decoding: Any
) -> list[Piece]:
    ids = engine.token_ids(text)
    return [piece async for piece in engine.write(edit, ids, Decoding(tokens, **decoding))]


async def until_waiting(engine: TransformersEngine, count: int) -> None:
    """Returns when so many texts wait."""
    while len(engine._waiting) < count:  # noqa: ASYNC110
        await asyncio.sleep(0.001)


def text_of(pieces: list[Piece]) -> str:
    return "".join(piece.text for piece in pieces)


def run(scenario: Callable[[], Awaitable[Result]]) -> Result:
    async def in_time() -> Result:
        async with asyncio.timeout(30):
            return await scenario()

    return asyncio.run(in_time())


def test_texts_written_together_are_those_of_plain_transformers(engine: TransformersEngine) -> None:
    async def scenario() -> list[list[Piece]]:
        asked = [
            write(engine, text, Edit(some_prompt(n), text) if n % 2 else None, 5 + n) for n, text in enumerate(TEXTS)
        ]
        return await asyncio.gather(*asked)

    written = run(scenario)

    llm = make_language_model()
    for number, (text, pieces) in enumerate(zip(TEXTS, written, strict=True)):
        prompt = in_front(llm, Edit(some_prompt(number), text)) if number % 2 else None
        plain = llm.generate(prompt, text, 5 + number)
        assert (text_of(pieces), pieces[-1].tokens) == (plain.text, plain.generated_tokens)
        assert pieces[-1].finish is (Finish.END_OF_TEXT if plain.ended else Finish.LENGTH)
        assert all(piece.finish is None for piece in pieces[:-1])


def test_a_prompt_of_read_only_bytes_is_applied(engine: TransformersEngine) -> None:
    prompt = np.frombuffer(some_prompt().tobytes(), dtype="<f2").reshape(some_prompt().shape)
    text = text_of(run(lambda: write(engine, edit=Edit(prompt, "It is so"))))
    llm = make_language_model()
    expected = llm.generate(in_front(llm, Edit(some_prompt(), "It is so")), TEXT, 8).text
    assert text == expected != llm.generate(None, TEXT, 8).text


GUESSED = [
    ("all", lambda ids: ids, 2),
    ("some", lambda ids: [*ids[:3], 90, 91], 2 + 4),
    ("none", lambda ids: [ids[0], 90, 91], 8),
    ("nothing", lambda _: [], 8),
    ("more than the text gets", lambda ids: [*ids, 90, 91], 2),
]


def guessing(engine: TransformersEngine, monkeypatch: pytest.MonkeyPatch, statement: list[int]) -> None:
    """Let these tokens be what a fact's statement makes guess, and a step take eight."""
    monkeypatch.setattr(transformers_engine, "Draft", lambda _: Draft(statement))
    monkeypatch.setattr(engine._decoder, "free_places", lambda texts: -texts % 8)


def watched_runs(engine: TransformersEngine, monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """How many tokens of each text every step reads."""
    sizes: list[list[int]] = []
    step = engine._decoder.step

    def watched(caches: Any, runs: Any) -> Any:
        sizes.append([len(run) for run in runs])
        return step(caches, runs)

    monkeypatch.setattr(engine._decoder, "step", watched)
    return sizes


@pytest.mark.parametrize(("change", "passes"), [case[1:] for case in GUESSED], ids=[case[0] for case in GUESSED])
@pytest.mark.parametrize("decoding", [{}, {"temperature": 1.0, "top_p": 0.9, "seed": 5}], ids=["greedy", "sampled"])
def test_guesses_save_steps_and_change_nothing(
    engine: TransformersEngine,
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[list[int]], list[int]],
    passes: int,
    decoding: dict[str, Any],
) -> None:
    spell_out(monkeypatch)
    edit = Edit(some_prompt(1), "The mayor of Aville is Ann")
    plain = run(lambda: write(engine, edit=edit, **decoding))
    tokens = [int(piece.text.strip("<>")) for piece in plain]
    assert len(set(tokens)) == len(tokens) == 8  # so that each is found where it stands
    guessing(engine, monkeypatch, change(tokens))
    gate = Gate(engine._llm)
    gate.open()

    assert run(lambda: write(engine, edit=edit, **decoding)) == plain
    assert gate.begun == passes


@pytest.mark.parametrize("ending", ["stop", "end of text"])
def test_what_was_guessed_behind_a_texts_end_is_no_part_of_it(
    engine: TransformersEngine, monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:
    spell_out(monkeypatch)
    edit = Edit(some_prompt(1), "The mayor of Aville is Ann")
    tokens = [int(piece.text.strip("<>")) for piece in run(lambda: write(engine, edit=edit))]
    guessing(engine, monkeypatch, tokens)
    stop = (f"<{tokens[3]}>",) if ending == "stop" else ()
    if ending == "end of text":
        monkeypatch.setattr(engine, "_end_ids", frozenset({tokens[3]}))

    written = run(lambda: write(engine, edit=edit, stop=stop))

    assert text_of(written) == "".join(f"<{token}>" for token in tokens[:3])
    assert written[-1].finish is (Finish.STOP_SEQUENCE if stop else Finish.END_OF_TEXT)


@pytest.mark.parametrize(("tokens", "read"), [(2, [1]), (3, [2]), (8, [7]), (9, [8])])
def test_no_more_is_guessed_than_the_text_may_still_get_or_the_step_has_places_for(
    engine: TransformersEngine, monkeypatch: pytest.MonkeyPatch, tokens: int, read: list[int]
) -> None:
    edit = Edit(some_prompt(1), "The mayor of Aville is Ann")
    spell_out(monkeypatch)
    written = [int(piece.text.strip("<>")) for piece in run(lambda: write(engine, edit=edit, tokens=9))]
    guessing(engine, monkeypatch, [*written, 90, 91, 92, 93])
    sizes = watched_runs(engine, monkeypatch)

    run(lambda: write(engine, edit=edit, tokens=tokens))

    assert sizes == [read]


def test_texts_that_are_written_together_share_the_places_of_a_step(
    engine: TransformersEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    edit = Edit(some_prompt(1), "The mayor of Aville is Ann")
    spell_out(monkeypatch)
    written = [int(piece.text.strip("<>")) for piece in run(lambda: write(engine, edit=edit, tokens=24))]
    guessing(engine, monkeypatch, written)
    sizes = watched_runs(engine, monkeypatch)
    gate = Gate(engine._llm)

    async def scenario() -> None:
        writing = [asyncio.create_task(write(engine, edit=edit, tokens=24)) for _ in range(3)]
        await gate.until_begun(1)
        await until_waiting(engine, 2)
        gate.open()
        await asyncio.gather(*writing)

    run(scenario)

    assert max(len(step) for step in sizes) > 1
    assert all(sum(step) <= 8 for step in sizes)


def test_guesses_at_texts_that_are_written_together_change_nothing(
    engine: TransformersEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    llm = make_language_model()
    monkeypatch.setattr(engine._decoder, "free_places", lambda texts: -texts % 8)
    edits = [Edit(some_prompt(n), text) for n, text in enumerate(TEXTS)]
    plain = [llm.generate(in_front(llm, edit), text, 12) for edit, text in zip(edits, TEXTS, strict=True)]
    said = [each.text if n % 2 else each.text[:3] + "not this" for n, each in enumerate(plain)]
    guesses = {tuple(llm.sentence_ids(text)): llm.token_ids(said[n]) for n, text in enumerate(TEXTS)}
    monkeypatch.setattr(transformers_engine, "Draft", lambda ids: Draft(guesses.get(tuple(ids), ())))

    async def scenario() -> list[list[Piece]]:
        asked = [write(engine, text, edit, 12) for edit, text in zip(edits, TEXTS, strict=True)]
        return await asyncio.gather(*asked)

    assert [text_of(pieces) for pieces in run(scenario)] == [each.text for each in plain]


def test_a_text_comes_token_by_token(engine: TransformersEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate(engine._llm)
    spell_out(monkeypatch)

    async def scenario() -> list[int]:
        async with aclosing(engine.write(None, engine.token_ids(TEXT), Decoding(5))) as pieces:
            begun = []
            for number in range(1, 6):
                coming = asyncio.ensure_future(anext(pieces))
                await gate.until_begun(number)
                gate.let_one_pass()
                piece = await coming
                assert piece.tokens == number
                begun.append(gate.begun)
            return begun

    # The piece of a token is there before the step after the next one has begun.
    assert all(begun <= number + 1 for number, begun in enumerate(run(scenario), start=1))


def test_a_text_that_is_given_up_ends_within_a_step_and_the_others_go_on(engine: TransformersEngine) -> None:
    gate = Gate(engine._llm)
    sizes: list[int] = []
    step = engine._decoder.step
    engine._decoder.step = lambda caches, runs: sizes.append(len(caches)) or step(caches, runs)  # type: ignore[method-assign, func-returns-value]

    async def scenario() -> list[Piece]:
        kept = asyncio.create_task(write(engine, tokens=6))
        await gate.until_begun(1)
        given_up = asyncio.create_task(write(engine, tokens=200))
        for number in (1, 2, 3):  # the first text is read, then the second one, and both are continued
            await gate.until_begun(number)
            await asyncio.sleep(0.01)  # the second text waits by now
            gate.let_one_pass()
        await gate.until_begun(4)  # the second step of both is running
        given_up.cancel()
        await asyncio.wait([given_up])
        gate.open()
        return await kept

    pieces = run(scenario)

    assert sizes == [2, 2, 1, 1, 1]
    assert text_of(pieces) == make_language_model().generate(None, TEXT, 6).text


def test_a_long_text_is_read_between_the_steps_of_the_others(
    engine: TransformersEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (batch_invariant_decoding, transformers_engine):
        monkeypatch.setattr(module, "READ_AT_ONCE", 1)
    gate = Gate(engine._llm)

    async def scenario() -> list[str]:
        first = asyncio.create_task(write(engine, tokens=6))
        await gate.until_begun(1)
        second = asyncio.create_task(write(engine, TEXTS[1], tokens=6))
        await until_waiting(engine, 1)
        gate.let_one_pass()
        await gate.until_begun(2)  # the first step, without the second text
        gate.let_one_pass()
        await gate.until_begun(3)  # the second text's reading
        gate.let_one_pass()
        await gate.until_begun(4)  # the first text's step within it
        gate.open()
        return [text_of(await each) for each in (first, second)]

    llm = make_language_model()
    assert run(scenario) == [llm.generate(None, text, 6).text for text in (TEXT, TEXTS[1])]
    assert gate.begun == 2 + 5 + 5 - 3  # readings and steps, of which three are of both texts


@pytest.mark.parametrize("ending", ["given up", "stopped"])
def test_a_text_that_nobody_needs_is_read_no_further(
    engine: TransformersEngine, monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:
    monkeypatch.setattr(batch_invariant_decoding, "READ_AT_ONCE", 1)
    gate = Gate(engine._llm)
    read: list[int] = []
    attention: Any = engine._llm.model.base_model
    attention.layers[1].register_forward_hook(lambda *_: read.append(1))

    async def scenario() -> list[Any]:
        writing = asyncio.create_task(write(engine))
        await gate.until_begun(1)
        if ending == "given up":
            writing.cancel()
            await asyncio.wait([writing])
            stopping = asyncio.create_task(asyncio.sleep(0))
        else:
            stopping = asyncio.create_task(asyncio.to_thread(engine.stop))
            await asyncio.sleep(0.1)
        gate.open()
        await stopping
        return list(await asyncio.gather(writing, return_exceptions=True))

    (error,) = run(scenario)
    engine.stop()

    assert isinstance(error, asyncio.CancelledError if ending == "given up" else UnavailableError)
    assert read == []
    assert not engine._failed.is_set()


def test_a_text_that_is_given_up_while_it_waits_is_never_read(engine: TransformersEngine) -> None:
    gate = Gate(engine._llm)

    async def scenario() -> None:
        full = [asyncio.create_task(write(engine, tokens=1)) for _ in range(1)]
        await gate.until_begun(1)
        waiting = asyncio.create_task(write(engine, tokens=50))
        await asyncio.sleep(0.05)
        waiting.cancel()
        await asyncio.wait([waiting])
        gate.open()
        await asyncio.gather(*full)
        await write(engine, tokens=1)

    run(scenario)

    assert gate.begun == 2


def test_the_event_loop_runs_while_the_model_computes(engine: TransformersEngine) -> None:
    gate = Gate(engine._llm)

    async def scenario() -> None:
        writing = asyncio.create_task(write(engine))
        await gate.until_begun(1)  # this very wait would never end if the loop stood still
        gate.open()
        await writing

    run(scenario)


@pytest.mark.parametrize("beside", [0, 3])
def test_a_seed_gives_the_same_text_whatever_is_written_beside_it(engine: TransformersEngine, beside: int) -> None:
    async def scenario(seed: int) -> str:
        others = [asyncio.create_task(write(engine, text, tokens=20, temperature=1.5)) for text in TEXTS[:beside]]
        text = text_of(await write(engine, tokens=16, temperature=1.0, top_p=0.9, seed=seed))
        await asyncio.gather(*others)
        return text

    alone = TransformersEngine(make_language_model())
    expected = text_of(run(lambda: write(alone, tokens=16, temperature=1.0, top_p=0.9, seed=7)))
    alone.stop()
    assert run(lambda: scenario(7)) == expected
    assert run(lambda: scenario(8)) != expected


def with_room_for(tokens: int) -> TransformersEngine:
    """An engine whose texts share the memory of so many tokens."""
    llm = make_language_model()
    return TransformersEngine(llm, kv_cache_gib=(tokens + 0.5) * bytes_per_token(llm.model) / 2**30)


def test_a_text_has_no_more_room_than_there_is_memory_or_the_llm_was_trained_for() -> None:
    for tokens in (100, 300):
        engine = with_room_for(tokens)
        assert engine.max_tokens == min(tokens, 256)
        engine.stop()


@pytest.mark.parametrize(("room", "together"), [(0, 2), (-1, 1)])
def test_a_text_joins_when_all_that_it_may_need_has_room(room: int, together: int) -> None:
    edit = Edit(some_prompt(1), "The mayor of Aville is Ann")
    llm = make_language_model()
    need = 2 * (len(llm.token_ids(TEXT)) + 6) + len(in_front(llm, edit))
    engine = with_room_for(need + room)
    gate = Gate(engine._llm)
    sizes: list[int] = []
    step = engine._decoder.step
    engine._decoder.step = lambda caches, runs: sizes.append(len(caches)) or step(caches, runs)  # type: ignore[method-assign, func-returns-value]

    async def scenario() -> list[list[Piece]]:
        writing = [asyncio.create_task(write(engine, edit=each, tokens=6)) for each in (None, edit)]
        await gate.until_begun(1)
        await until_waiting(engine, 1)
        assert engine.kv_tokens_taken == len(TEXT) + 6
        gate.open()
        return await asyncio.gather(*writing)

    texts = [text_of(pieces) for pieces in run(scenario)]

    assert max(sizes) == together
    assert engine.kv_tokens_taken == 0
    assert texts == [llm.generate(None, TEXT, 6).text, llm.generate(in_front(llm, edit), TEXT, 6).text]
    engine.stop()


def test_no_text_overtakes_one_that_waits_for_room(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = with_room_for(100)
    gate = Gate(engine._llm)
    read: list[int] = []
    plain = engine._decoder.read

    def watched(prefix: Any, ids: list[int], pause: Any) -> Any:
        read.append(len(ids))
        return plain(prefix, ids, pause)

    monkeypatch.setattr(engine._decoder, "read", watched)

    async def scenario() -> None:
        writing = []
        for letters in (30, 90, 10):  # the last one would have room beside the first
            writing.append(asyncio.create_task(write(engine, "a" * letters, tokens=8)))
            await gate.until_begun(1)
            await until_waiting(engine, len(writing) - 1)
        gate.open()
        await asyncio.gather(*writing)

    run(scenario)

    assert read == [30, 90, 10]
    engine.stop()


@pytest.mark.parametrize("several", [False, True])
def test_any_of_the_models_end_tokens_ends_the_text_and_is_no_part_of_it(several: bool) -> None:
    llm = make_language_model()
    plain = llm.generate(None, TEXT, 8).text
    assert plain[2] == "p"
    (end,) = llm.token_ids("p")
    assert llm.model.generation_config is not None
    llm.model.generation_config.eos_token_id = [2, end] if several else end
    engine = TransformersEngine(llm)

    pieces = run(lambda: write(engine))

    assert (text_of(pieces), pieces[-1].tokens, pieces[-1].finish) == (plain[:2], 2, Finish.END_OF_TEXT)
    engine.stop()


def test_a_stop_sequence_ends_the_text_in_front_of_it(engine: TransformersEngine) -> None:
    plain = make_language_model().generate(None, TEXT, 8).text
    pieces = run(lambda: write(engine, stop=(plain[3:5],)))
    assert text_of(pieces) == plain[: plain.index(plain[3:5])]
    assert pieces[-1].finish is Finish.STOP_SEQUENCE
    assert pieces[-1].tokens == plain.index(plain[3:5]) + 2


def test_a_conversation_is_laid_out_by_the_chat_template() -> None:
    llm = make_language_model()
    llm.tokenizer.chat_template = (
        "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}{% if add_generation_prompt %}>{% endif %}"
    )
    engine = TransformersEngine(llm)
    ids = engine.token_ids((Turn("system", "Be brief."), Turn("user", "Who?")))
    assert ids == llm.token_ids("[system]Be brief.[user]Who?>")
    engine.stop()


def test_a_conversation_needs_a_chat_template(engine: TransformersEngine) -> None:
    with pytest.raises(FailedPreconditionError, match="tiny-llm has no chat template; send a text"):
        engine.token_ids((Turn("user", "Who?"),))


def test_a_failure_of_the_model_is_told_and_the_next_text_is_written(engine: TransformersEngine) -> None:
    broken = True

    def fail(*_: object) -> None:
        if broken:
            raise RuntimeError("out of memory")

    engine._llm.model.register_forward_pre_hook(fail)

    async def scenario() -> str:
        nonlocal broken
        for _ in range(2):
            with pytest.raises(RecipeError, match="the LLM failed; the log of the generator has the cause"):
                await write(engine)
            await engine.failure()
        broken = False
        return text_of(await write(engine))

    assert run(scenario) == make_language_model().generate(None, TEXT, 8).text


def test_a_stopped_engine_ends_what_it_writes_and_what_waits(engine: TransformersEngine) -> None:
    gate = Gate(engine._llm)

    async def scenario() -> list[Any]:
        writing = [asyncio.create_task(write(engine, tokens=200)) for _ in range(6)]
        await gate.until_begun(1)
        stopping = asyncio.create_task(asyncio.to_thread(engine.stop))
        await asyncio.sleep(0.1)
        gate.open()
        await stopping
        with pytest.raises(UnavailableError, match="stopping; retry"):
            await write(engine)
        return await asyncio.gather(*writing, return_exceptions=True)

    assert [type(error) for error in run(scenario)] == [UnavailableError] * 6


def test_an_engine_is_loaded_with_the_checkpoint_that_fits_it(tmp_path: Path) -> None:
    version = save_tiny_checkpoint(tmp_path / "recipe.safetensors")
    settings = GeneratorSettings(
        checkpoint=tmp_path / "recipe.safetensors",
        llm=save_llm(tmp_path / "llm"),
        precision="float32",
        kv_cache_gib=100 * bytes_per_token(make_language_model().model) / 2**30,
    )

    engine, checkpoint = load_engine(settings)

    assert checkpoint.model_version == version
    assert engine.max_tokens == 100
    assert text_of(run(lambda: write(engine))) == make_language_model().generate(None, TEXT, 8).text
    engine.stop()


def test_a_device_that_is_not_there_names_the_fix(tmp_path: Path) -> None:
    save_tiny_checkpoint(tmp_path / "recipe.safetensors")
    settings = GeneratorSettings(
        checkpoint=tmp_path / "recipe.safetensors", llm=save_llm(tmp_path / "llm"), device="abacus"
    )
    with pytest.raises(ModelUnavailableError, match=r"device: 'abacus' cannot be used .*; choose cpu"):
        load_engine(settings)


def test_an_engine_is_not_loaded_with_another_llms_checkpoint(tmp_path: Path) -> None:
    save_tiny_checkpoint(tmp_path / "recipe.safetensors", seed=0)
    settings = GeneratorSettings(
        checkpoint=tmp_path / "recipe.safetensors", llm=save_llm(tmp_path / "llm", seed=1), precision="float32"
    )
    with pytest.raises(CheckpointError, match="was trained for the LLM tiny-llm, not for"):
        load_engine(settings)


def test_vllm_where_it_is_not_installed_names_the_fix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)
    save_tiny_checkpoint(tmp_path / "recipe.safetensors")
    settings = GeneratorSettings(
        checkpoint=tmp_path / "recipe.safetensors", llm=save_llm(tmp_path / "llm"), engine="vllm"
    )
    with pytest.raises(
        ModelUnavailableError, match="RECIPE_GENERATOR_ENGINE: vllm needs the package vllm; 'make vllm'"
    ):
        load_engine(settings)
