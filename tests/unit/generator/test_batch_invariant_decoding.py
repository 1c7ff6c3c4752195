"""Rows get the bits that they get alone, from plain transformers, whoever stands beside them."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM

from generation_harness import in_front
from recipe_generator import batch_invariant_decoding
from recipe_generator.batch_invariant_decoding import (
    BLOCKS,
    RowDecoder,
    blocks_that_keep_bits,
    take_back,
    take_rows_in_blocks,
)
from recipe_generator.engine import Edit
from recipe_model.identity import identify
from recipe_model.language_model import LanguageModel
from tiny_models import LLM_HIDDEN, VOCABULARY, byte_tokenizer, make_language_model

NEW_TOKENS = 6
HIDDEN = 576  # as the default LLM's: smaller sums are taken in one order only
TEXTS = [f"The {number}th mayor of Aville " + "never once " * (number % 5) + "is" for number in range(20)]


def make_llm(dtype: torch.dtype) -> LanguageModel:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=HIDDEN,
        num_hidden_layers=2,
        num_attention_heads=9,
        num_key_value_heads=3,
        intermediate_size=1536,
        initializer_range=0.1,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    model = LlamaForCausalLM(config)  # type: ignore[no-untyped-call]
    module: nn.Module = model
    module.to(dtype).eval()
    return LanguageModel(model, byte_tokenizer(marked=False), identify("wide-llm", model))


def some_prompt(number: int) -> Tensor | None:
    """A continuous prompt for two texts of three."""
    random = torch.Generator().manual_seed(number)
    return torch.randn(2 + number % 3, HIDDEN, generator=random).half() if number % 3 else None


def plain(llm: LanguageModel, number: int) -> tuple[list[int], Tensor]:
    """The tokens of transformers' own greedy generation of one text, and the logits [t, v] behind them."""
    inputs = llm.inputs(some_prompt(number), llm.token_ids(TEXTS[number]))
    with torch.inference_mode():
        done = llm.model.generate(  # type: ignore[operator]
            **inputs,
            max_new_tokens=NEW_TOKENS,
            min_new_tokens=NEW_TOKENS,
            do_sample=False,
            output_logits=True,
            return_dict_in_generate=True,
        )
    return done.sequences[0, -NEW_TOKENS:].tolist(), torch.cat(done.logits)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_that_come_and_go_get_the_logits_of_plain_transformers(dtype: torch.dtype) -> None:
    expected = [plain(make_llm(dtype), number) for number in range(len(TEXTS))]
    llm = make_llm(dtype)
    decoder = RowDecoder(llm)
    waiting = list(range(len(TEXTS)))
    running: list[tuple[int, DynamicCache, int]] = []  # number, what is kept, tokens so far
    sizes = set()

    while waiting or running:
        # A new row at every step, three more at each third: the batch grows and shrinks all the time.
        for _ in range(4 if len(waiting) % 3 else 1):
            if waiting:
                number = waiting.pop()
                prompt = some_prompt(number)
                ids = llm.token_ids(TEXTS[number])
                cache, logits = decoder.read(prompt, ids)
                assert torch.equal(logits.float(), expected[number][1][0])
                running.append((number, cache, 1))
        sizes.add(len(running))
        runs = [[expected[number][0][count - 1]] for number, _, count in running]
        together = decoder.step([cache for _, cache, _ in running], runs)
        for (number, _, count), logits in zip(running, together, strict=True):
            assert torch.equal(logits.float(), expected[number][1][count : count + 1]), (number, count, len(running))
        running = [(number, cache, count + 1) for number, cache, count in running if count + 1 < NEW_TOKENS]

    assert max(sizes) > 8  # more than one block, where there are blocks
    assert len(sizes) > 4


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_texts_that_go_on_while_a_long_one_is_read_get_the_logits_of_plain_transformers_and_so_does_that(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype
) -> None:
    monkeypatch.setattr(batch_invariant_decoding, "READ_AT_ONCE", 1)  # a pause before each layer but the first
    expected = [plain(make_llm(dtype), number) for number in range(2)]
    llm = make_llm(dtype)
    decoder = RowDecoder(llm)
    first, _ = decoder.read(some_prompt(0), llm.token_ids(TEXTS[0]))
    between: list[Tensor] = []

    def step() -> None:
        between.extend(decoder.step([first], [expected[0][0][:1]]))

    second, logits = decoder.read(some_prompt(1), llm.token_ids(TEXTS[1]), step)
    after = decoder.step([first, second], [expected[0][0][1:2], expected[1][0][:1]])

    assert torch.equal(logits.float(), expected[1][1][0])
    assert torch.equal(torch.cat(between).float(), expected[0][1][1:2])
    assert torch.equal(after[0].float(), expected[0][1][2:3])
    assert torch.equal(after[1].float(), expected[1][1][1:2])


@pytest.mark.parametrize(("tokens", "pauses"), [(255, 0), (256, 0), (257, 1), (1000, 1)])
def test_a_text_is_read_with_a_pause_for_as_many_tokens_as_are_read_at_once(tokens: int, pauses: int) -> None:
    llm = make_language_model()  # of two layers
    made: list[None] = []
    RowDecoder(llm).read(None, [5] * tokens, lambda: made.append(None))
    assert len(made) == pauses


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("wrong", [False, True])
def test_tokens_that_are_read_in_one_step_get_the_logits_of_steps_of_their_own(
    dtype: torch.dtype, *, wrong: bool
) -> None:
    expected = [plain(make_llm(dtype), number) for number in range(4)]
    llm = make_llm(dtype)
    decoder = RowDecoder(llm)
    caches, runs = [], []
    for number, (tokens, _) in enumerate(expected):
        prompt = some_prompt(number)
        caches.append(decoder.read(prompt, llm.token_ids(TEXTS[number]))[0])
        runs.append(tokens[: number + 1])  # one to four tokens
    guesses = [[5, 6] if wrong else tokens[number + 1 : number + 3] for number, (tokens, _) in enumerate(expected)]

    together = decoder.step(caches, [run + guessed for run, guessed in zip(runs, guesses, strict=True)])
    for number, (logits, guessed) in enumerate(zip(together, guesses, strict=True)):
        right = number + 1 if wrong else number + 1 + len(guessed)
        right = min(right, NEW_TOKENS - 1)
        assert torch.equal(logits[:right].float(), expected[number][1][1 : right + 1])

    for cache, guessed in zip(caches, guesses, strict=True):
        take_back(cache, len(guessed))
    after = decoder.step(caches, [[tokens[number + 1]] for number, (tokens, _) in enumerate(expected)])
    for number, logits in enumerate(after):
        assert torch.equal(logits.float(), expected[number][1][number + 2 : number + 3])


def test_a_step_is_filled_up_where_layers_take_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        batch_invariant_decoding, "blocks_that_keep_bits", lambda weight: [1, 8] if len(weight) != HIDDEN else [1]
    )
    decoder = RowDecoder(make_llm(torch.float32))
    assert [decoder.free_places(texts) for texts in (1, 7, 8, 9, 32)] == [7, 1, 0, 7, 0]


def test_there_are_no_free_places_where_few_weights_take_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        batch_invariant_decoding, "blocks_that_keep_bits", lambda weight: [1, 8] if len(weight) == VOCABULARY else [1]
    )
    assert RowDecoder(make_llm(torch.float32)).free_places(1) == 0


def test_there_are_no_free_places_without_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_invariant_decoding, "blocks_that_keep_bits", lambda _: [1])
    assert RowDecoder(make_llm(torch.float32)).free_places(1) == 0


def test_there_are_no_free_places_where_a_window_forgets_what_a_wrong_guess_pushed_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(batch_invariant_decoding, "blocks_that_keep_bits", lambda _: [1, 8])
    llm = make_llm(torch.float32)
    assert RowDecoder(llm).free_places(1) == 7
    llm.model.config.sliding_window = 8
    assert RowDecoder(llm).free_places(1) == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_product_that_adds_up_in_another_order_for_more_rows_is_found_out(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype
) -> None:
    weight = torch.empty(64, 576, dtype=dtype)

    def one_by_one(batch: Tensor, other: Tensor) -> Tensor:
        return torch.cat([torch.nn.functional.linear(row, other) for row in batch.chunk(len(batch))])

    def backwards_when_several(batch: Tensor, other: Tensor) -> Tensor:
        return one_by_one(batch, other) if len(batch) == 1 else one_by_one(batch.flip(-1), other.flip(-1))

    monkeypatch.setattr(batch_invariant_decoding, "linear", one_by_one)
    assert blocks_that_keep_bits(weight) == list(BLOCKS)
    monkeypatch.setattr(batch_invariant_decoding, "linear", backwards_when_several)
    assert blocks_that_keep_bits(weight) == [1]


@pytest.mark.parametrize(
    ("sizes", "count", "taken"),
    [
        ([1], 3, [1, 1, 1]),
        ([1, 2, 4, 8, 32], 1, [1]),
        ([1, 2, 4, 8, 32], 3, [4]),
        ([1, 2, 4, 8, 32], 8, [8]),
        ([1, 2, 4, 8, 32], 9, [32]),
        ([1, 2, 4, 8, 32], 40, [32, 32]),
        ([1, 4], 6, [4, 4]),
    ],
)
def test_a_layer_takes_the_smallest_block_that_holds_all_rows_or_several_of_the_largest(
    monkeypatch: pytest.MonkeyPatch, sizes: list[int], count: int, taken: list[int]
) -> None:
    layer = nn.Linear(6, 5)
    batch = torch.randn(count, 1, 6)
    expected = layer(batch)
    seen: list[int] = []
    plain = layer.forward
    monkeypatch.setattr(layer, "forward", lambda block: seen.append(len(block)) or plain(block))  # type: ignore[func-returns-value]
    monkeypatch.setattr(batch_invariant_decoding, "blocks_that_keep_bits", lambda _: sizes)

    take_rows_in_blocks(nn.Sequential(layer))

    torch.testing.assert_close(layer(batch), expected)
    assert seen == taken


def test_a_layer_of_another_kind_takes_row_after_row() -> None:
    class Quantised(nn.Linear):
        def forward(self, batch: Tensor) -> Tensor:
            seen.append(len(batch))
            return super().forward(batch)

    seen: list[int] = []
    layer = Quantised(6, 5)
    assert not take_rows_in_blocks(nn.Sequential(layer))
    assert layer(torch.randn(3, 1, 6)).shape == (3, 1, 5)
    assert seen == [1, 1, 1]


def test_a_weight_of_odd_length_can_be_tried() -> None:
    assert blocks_that_keep_bits(torch.empty(5, 1)) == list(BLOCKS)


def test_prompts_and_ids_are_put_where_the_llm_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_invariant_decoding, "blocks_that_keep_bits", lambda _: [1, 8])
    llm = make_language_model()
    module: nn.Module = llm.model
    module.to("meta")  # which every machine has; it keeps shapes and no values
    decoder = RowDecoder(llm)
    told = in_front(llm, Edit(np.zeros((3, LLM_HIDDEN), np.float16), "It is so"))

    inputs = llm.inputs(told, [5, 6, 7])
    (logits,) = decoder.step([DynamicCache(config=llm.model.config)], [[8]])

    assert {each.device.type for each in (told, *inputs.values(), logits)} == {"meta"}


def test_the_model_is_never_changed() -> None:
    llm = make_llm(torch.float32)
    before = {name: value.clone() for name, value in llm.model.state_dict().items()}
    decoder = RowDecoder(llm)
    caches = [decoder.read(None, llm.token_ids(text))[0] for text in TEXTS[:3]]
    decoder.step(caches, [[5], [6, 7], [8]])
    assert all(torch.equal(value, before[name]) for name, value in llm.model.state_dict().items())
