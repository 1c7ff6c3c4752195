from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers.modeling_outputs import BaseModelOutput

from recipe_common.errors import FieldViolation, InvalidArgumentError
from recipe_model.checkpoint import build_model, read_checkpoint, save_checkpoint
from recipe_model.editor import QueryEncoder, RecipeEditor
from recipe_model.errors import CheckpointError, ModelUnavailableError
from recipe_model.networks import RecipeModel, sentinel_rise
from recipe_model.pretrained import load_text_encoder
from recipe_model.tokenized_texts import tokenize
from tiny_models import (
    LLM_HIDDEN,
    SIZES,
    byte_tokenizer,
    checkpoint_config,
    make_prompt_words,
    make_recipe_model,
    save_encoder,
    save_llm,
    save_tiny_checkpoint,
)

STATEMENTS = ["The capital of Testland is Example City", "Ada writes", "The river of Testland is the Sample"]
MAX_TOKENS = 128


@pytest.fixture
def model() -> RecipeModel:
    model = make_recipe_model().requires_grad_(False)
    model.settle_keys(torch.randn(64, SIZES.representation) + torch.randn(SIZES.representation))
    return model


@pytest.fixture
def editor(model: RecipeModel) -> RecipeEditor:
    return RecipeEditor(model, byte_tokenizer(marked=True), MAX_TOKENS, "recipe-test", make_prompt_words())


def features_of(model: RecipeModel, text: str) -> torch.Tensor:
    return model.features(tokenize(byte_tokenizer(marked=True), [text]))


def test_an_editor_says_what_it_makes(editor: RecipeEditor) -> None:
    assert editor.model_version == "recipe-test"
    assert editor.key_size == SIZES.representation
    assert editor.prompt_shape == (SIZES.prompt_tokens, LLM_HIDDEN)


def test_keys_and_prompts_are_the_networks(editor: RecipeEditor, model: RecipeModel) -> None:
    keys, prompts = editor.encode(STATEMENTS[:1])

    key = model.keys(features_of(model, STATEMENTS[0]))
    assert (keys.dtype, prompts.dtype) == (np.dtype(np.float32), np.dtype(np.float16))
    assert (keys.shape, prompts.shape) == ((1, editor.key_size), (1, *editor.prompt_shape))
    np.testing.assert_array_equal(keys, ((key - model.key_center) @ model.key_axes).numpy())
    words = make_prompt_words()(STATEMENTS[:1])
    np.testing.assert_array_equal(prompts, model.prompts(key, words).half().numpy())


def test_a_querys_score_is_its_inner_product_with_the_sentinel(editor: RecipeEditor, model: RecipeModel) -> None:
    (query,) = editor.query(["What is the capital of Testland?"])

    vector = model.queries(features_of(model, "What is the capital of Testland?"))[0]
    assert query.vector.dtype == np.float32
    np.testing.assert_array_equal(query.vector, (vector @ model.key_axes).numpy())
    assert query.sentinel_similarity == pytest.approx(float(vector @ (model.sentinel() - model.key_center)), rel=1e-4)


def test_neither_the_center_nor_the_axes_move_a_margin(model: RecipeModel, editor: RecipeEditor) -> None:
    question = "What is the capital of Testland?"
    (query,) = editor.query([question])
    keys, _ = editor.encode(STATEMENTS)

    as_in_the_paper = model.keys(torch.cat([features_of(model, text) for text in STATEMENTS])) - model.sentinel()
    vector = model.queries(features_of(model, question))[0]
    margins = keys @ query.vector - query.sentinel_similarity
    np.testing.assert_allclose(margins, (as_in_the_paper @ vector).numpy(), rtol=1e-3, atol=1e-3)


def test_the_sentinels_offset_is_part_of_every_threshold(model: RecipeModel, editor: RecipeEditor) -> None:
    model.sentinel_offset.fill_(2.0)
    moved = RecipeEditor(model, byte_tokenizer(marked=True), MAX_TOKENS, "recipe-test", make_prompt_words())
    for before, after in zip(editor.query(STATEMENTS), moved.query(STATEMENTS), strict=True):
        rise = after.sentinel_similarity - before.sentinel_similarity
        assert rise == pytest.approx(2.0 * SIZES.representation**0.5, abs=1e-3)
        np.testing.assert_array_equal(before.vector, after.vector)


def test_the_threshold_of_a_query_is_the_networks(model: RecipeModel) -> None:
    model.sentinel_growth.fill_(0.5)
    editor = RecipeEditor(model, byte_tokenizer(marked=True), MAX_TOKENS, "recipe-test", make_prompt_words())
    (query,) = editor.query(["What is the capital of Testland?"])
    assert query.threshold(1_000) == query.sentinel_similarity
    rise = model.threshold_growth * sentinel_rise(100_000)
    assert query.threshold(100_000) == pytest.approx(query.sentinel_similarity + rise, rel=1e-6)


def test_a_query_says_how_much_a_crowd_matters(model: RecipeModel) -> None:
    model.sentinel_crowd.fill_(2.0)
    editor = RecipeEditor(model, byte_tokenizer(marked=True), MAX_TOKENS, "recipe-test", make_prompt_words())
    assert [query.sentinel_crowd for query in editor.query(STATEMENTS)] == [2.0] * len(STATEMENTS)


def test_a_batch_is_encoded_as_its_statements_are_alone(editor: RecipeEditor) -> None:
    keys, prompts = editor.encode(STATEMENTS)
    for row, statement in enumerate(STATEMENTS):
        key, prompt = editor.encode([statement])
        np.testing.assert_allclose(keys[row], key[0], rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(prompts[row], prompt[0], rtol=1e-2, atol=1e-2)


def test_a_batch_of_queries_is_encoded_as_they_are_alone(editor: RecipeEditor) -> None:
    for query, text in zip(editor.query(STATEMENTS), STATEMENTS, strict=True):
        (alone,) = editor.query([text])
        np.testing.assert_allclose(query.vector, alone.vector, rtol=1e-4, atol=1e-4)
        assert query.sentinel_similarity == pytest.approx(alone.sentinel_similarity, rel=1e-4, abs=1e-3)


def test_a_text_may_be_as_long_as_the_encoder_reads(editor: RecipeEditor) -> None:
    longest = "x" * (MAX_TOKENS - 2)  # beside the start and end tokens
    assert len(editor.query([longest])) == 1
    assert len(editor.encode([longest])[0]) == 1


def test_a_text_that_is_too_long_is_refused_instead_of_cut(editor: RecipeEditor) -> None:
    too_long = ["short", "x" * (MAX_TOKENS - 1)]
    with pytest.raises(InvalidArgumentError) as of_statement:
        editor.encode(too_long)
    with pytest.raises(InvalidArgumentError) as of_query:
        editor.query(too_long)

    description = "is 129 tokens long, at most 128 can be encoded; shorten it"
    assert of_statement.value.violations == (FieldViolation("statement", description),)
    assert of_query.value.violations == (FieldViolation("query", description),)


def test_threads_may_share_an_editor(editor: RecipeEditor) -> None:
    texts = [f"{statement} {number}" for number in range(8) for statement in STATEMENTS]
    expected = [editor.query([text])[0].vector for text in texts]

    with ThreadPoolExecutor(4) as executor:
        found = list(executor.map(lambda text: editor.query([text])[0].vector, texts))

    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_an_editor_is_loaded_from_a_checkpoint_and_its_encoder(tmp_path: Path) -> None:
    version = save_checkpoint(tmp_path / "recipe.safetensors", make_recipe_model(), checkpoint_config())
    folder = save_encoder(tmp_path / "encoder")

    llm = save_llm(tmp_path / "llm")

    editor = RecipeEditor.load(tmp_path / "recipe.safetensors", folder, llm)

    built = build_model(read_checkpoint(tmp_path / "recipe.safetensors"), load_text_encoder(folder))
    assert editor.model_version == version
    keys, prompts = editor.encode(STATEMENTS[:1])
    key = built.keys(features_of(built, STATEMENTS[0]))
    np.testing.assert_allclose(keys, key.numpy(), rtol=1e-4, atol=1e-5)  # by another runtime
    expected = built.prompts(key, make_prompt_words()(STATEMENTS[:1])).numpy()
    np.testing.assert_allclose(prompts.astype(np.float32), expected, rtol=1e-3, atol=1e-4)


def test_queries_need_no_llm(tmp_path: Path) -> None:
    save_tiny_checkpoint(tmp_path / "recipe.safetensors")
    encoder = save_encoder(tmp_path / "encoder")
    queries = QueryEncoder.load(tmp_path / "recipe.safetensors", encoder)
    editor = RecipeEditor.load(tmp_path / "recipe.safetensors", encoder, save_llm(tmp_path / "llm"))
    (alone,), (beside_facts,) = queries.query(STATEMENTS[:1]), editor.query(STATEMENTS[:1])
    np.testing.assert_array_equal(alone.vector, beside_facts.vector)
    assert alone.sentinel_similarity == beside_facts.sentinel_similarity


def test_an_editor_is_not_loaded_with_the_words_of_another_llm(tmp_path: Path) -> None:
    save_tiny_checkpoint(tmp_path / "recipe.safetensors")
    llm = save_llm(tmp_path / "llm", seed=1)
    with pytest.raises(CheckpointError, match="for the LLM tiny-llm; the word embeddings that were read"):
        RecipeEditor.load(tmp_path / "recipe.safetensors", save_encoder(tmp_path / "encoder"), llm)


def test_an_editor_is_not_loaded_with_another_encoder(tmp_path: Path) -> None:
    save_tiny_checkpoint(tmp_path / "recipe.safetensors", seed=0)
    folder = save_encoder(tmp_path / "encoder", seed=1)
    with pytest.raises(CheckpointError, match="was trained for the text encoder tiny-encoder, not for"):
        RecipeEditor.load(tmp_path / "recipe.safetensors", folder)


def test_an_arrow_in_a_question_marks_no_answer(editor: RecipeEditor) -> None:
    arrow, written, start = editor.query(["Who → rules Aville?", "Who -> rules Aville?", "Who"])

    np.testing.assert_array_equal(arrow.vector, written.vector)
    assert not np.array_equal(arrow.vector, start.vector)


class WordsAlone(torch.nn.Module):
    """A text encoder of no layers: transformers' look at numbers of the mask, which tensors of shape alone have not."""

    def __init__(self, words: torch.nn.Module) -> None:
        super().__init__()
        self.words = words

    def forward(self, attention_mask: torch.Tensor, **given: torch.Tensor) -> BaseModelOutput:
        hidden = given["inputs_embeds"] if "inputs_embeds" in given else self.words(given["input_ids"])
        return BaseModelOutput(last_hidden_state=hidden * attention_mask.unsqueeze(-1))  # type: ignore[arg-type]


def test_on_another_device_everything_is_computed_there(model: RecipeModel, monkeypatch: pytest.MonkeyPatch) -> None:
    # Tensors of shape alone stand for those of a GPU: an operation on one of them and one of the CPU raises.
    monkeypatch.setattr(RecipeModel, "threshold_growth", 0.0)  # numbers are what their tensors have not
    monkeypatch.setattr(RecipeModel, "threshold_offset", 0.0)
    monkeypatch.setattr(RecipeModel, "threshold_crowd", 0.0)
    model.encoder = WordsAlone(model.encoder.get_input_embeddings())  # type: ignore[assignment]
    editor = RecipeEditor(model.to("meta"), byte_tokenizer(marked=True), MAX_TOKENS, "recipe-test", make_prompt_words())

    results = [*editor._compared(STATEMENTS), *editor._encoded(STATEMENTS)]

    assert {result.device.type for result in results} == {"meta"}
    assert [result.shape[0] for result in results] == [len(STATEMENTS)] * 4


@pytest.mark.parametrize("loader", [QueryEncoder, RecipeEditor])
@pytest.mark.parametrize("device", ["cuda:99", "gpu"])
def test_a_device_that_is_not_there_is_named(loader: type[QueryEncoder], device: str) -> None:
    with pytest.raises(ModelUnavailableError, match=f"device: '{device}' cannot be used .*; choose cpu"):
        loader.load(device=device)
