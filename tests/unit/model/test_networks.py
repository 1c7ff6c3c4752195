import math
from collections.abc import Callable

import pytest
import torch
from torch import nn
from transformers import PreTrainedModel

from recipe_model.networks import (
    OWN_PART,
    STARTING_GAIN,
    PromptHead,
    RecipeModel,
    RecipeSizes,
    RepresentationHead,
    pool,
    question_means,
)
from recipe_model.number_signature import NUMBERS
from recipe_model.tokenized_texts import TokenizedTexts, tokenize
from tiny_models import SIZES, byte_tokenizer, make_bert, make_recipe_model, make_roberta


def set_linear(layer: nn.Linear, weight: list[list[float]], bias: list[float] | None = None) -> None:
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(weight))
        if bias is not None:
            layer.bias.copy_(torch.tensor(bias))


def read(*texts: str) -> TokenizedTexts:
    return tokenize(byte_tokenizer(marked=True), texts)


def test_representation_head_is_x_plus_relu_of_a_linear_map_of_x() -> None:
    head = RepresentationHead(features=3, representation=2)
    set_linear(head.project, [[1.0, 0.0, 2.0], [0.0, -1.0, 0.0]], [0.5, 1.0])
    set_linear(head.refine, [[2.0, 0.0], [1.0, -3.0]], [-1.0, 0.0])

    # x = (1 + 6 + 0.5, -2 + 1) = (7.5, -1); W2 x + b2 = (14, 10.5)
    # x = (0 - 2 + 0.5, 4 + 1) = (-1.5, 5); W2 x + b2 = (-4, -16.5)
    features = torch.tensor([[1.0, 2.0, 3.0], [0.0, -4.0, -1.0]])
    assert head(features).tolist() == [[21.5, 9.5], [-1.5, 5.0]]


def test_prompt_head_adds_a_scaled_part_of_the_standardised_key_to_what_is_common() -> None:
    head = PromptHead(
        RecipeSizes(encoder_hidden=1, llm_hidden=1, representation=2, prompt_tokens=2, sentinel_tokens=1)
    ).eval()
    set_linear(head.refine, [[1.0, 0.0], [0.0, 1.0]])
    set_linear(head.project, [[1.0, 1.0], [0.0, 2.0]])
    assert head.standardise.running_mean is not None
    assert head.standardise.running_var is not None
    head.standardise.eps = 0.0
    head.standardise.running_mean.copy_(torch.tensor([1.0, 2.0]))
    head.standardise.running_var.copy_(torch.tensor([4.0, 0.25]))
    head.scale.fill_(0.5)
    with torch.no_grad():
        head.common.copy_(torch.tensor([[10.0], [20.0]]))

    # n = ((5 - 1) / 2, (1 - 2) / 0.5) = (2, -2); y = n + ReLU(n) = (4, -2); B y = (2, -4)
    words = torch.tensor([[[100.0], [200.0]]])
    assert head(torch.tensor([[5.0, 1.0]]), words).tolist() == [[[111.0], [218.0]]]


def test_prompts_at_inference_do_not_depend_on_their_batch() -> None:
    model = make_recipe_model()
    keys, words = torch.randn(5, SIZES.representation), torch.randn(5, SIZES.prompt_tokens, SIZES.llm_hidden)

    together = model.prompts(keys, words)

    assert together.shape == (5, SIZES.prompt_tokens, SIZES.llm_hidden)
    for row in range(5):
        torch.testing.assert_close(model.prompts(keys[row : row + 1], words[row : row + 1])[0], together[row])


def test_pool_is_max_min_and_mean_over_the_unmasked_tokens() -> None:
    hidden = torch.tensor([[[1.0, -2.0], [3.0, -4.0], [99.0, -99.0]], [[-5.0, 6.0], [-1.0, 0.0], [0.0, 0.0]]])
    mask = torch.tensor([[1, 1, 0], [1, 1, 1]])

    pooled = pool(hidden, mask)

    assert pooled.tolist() == [[3.0, -2.0, 1.0, -4.0, 2.0, -3.0], [0.0, 6.0, -5.0, 0.0, -2.0, 2.0]]


@pytest.mark.parametrize("padding", [-1e9, 0.0, 1e9])
def test_pool_does_not_see_what_stands_in_padding(padding: float) -> None:
    hidden = torch.randn(1, 3, 4)
    padded = torch.cat([hidden, torch.full((1, 2, 4), padding)], dim=1)

    pooled = pool(padded, torch.tensor([[1, 1, 1, 0, 0]]))

    assert torch.equal(pooled, pool(hidden, torch.ones(1, 3)))


def test_states_of_a_text_are_the_same_alone_and_padded() -> None:
    model = make_recipe_model()

    alone = model.states(read("short"))
    padded = model.states(read("short", "a very much longer text"))

    assert alone.dtype == torch.float32
    torch.testing.assert_close(padded[0, : alone.shape[1]], alone[0])


def test_a_key_is_made_of_its_question_alone() -> None:
    model = make_recipe_model()
    texts = read("Who rules A? → Ann", "Who rules A? → Bob")
    hidden = model.states(texts)

    assert torch.equal(model.keys(hidden, texts.question_mask), model.key_head(pool(hidden, texts.question_mask)))
    hidden[texts.question_mask == 0] = 9.0
    seen = model.keys(hidden, texts.question_mask)
    assert not torch.equal(seen[0], seen[1])  # what the encoder made of the answers is in their questions' states


def test_a_mean_is_of_length_1_and_of_the_question_alone() -> None:
    hidden = torch.tensor([[[3.0, 1.0], [3.0, 7.0], [99.0, -99.0]]])
    means = question_means(hidden, torch.tensor([[1, 1, 0]]))
    torch.testing.assert_close(means, torch.tensor([[0.6, 0.8]]))


def test_prompts_start_as_the_words_they_are_made_from() -> None:
    model = make_recipe_model()
    words = torch.randn(16, SIZES.prompt_tokens, SIZES.llm_hidden)

    model.start_prompts(0.25)

    assert torch.equal(model.prompts(torch.randn(16, SIZES.representation), words), words)
    assert float(model.prompt_head.scale) == pytest.approx(OWN_PART * 0.25)


def test_the_encoder_and_only_it_is_frozen() -> None:
    model = make_recipe_model()
    frozen = {name for name, value in model.named_parameters() if not value.requires_grad}
    assert frozen == {f"encoder.{name}" for name, _ in model.encoder.named_parameters()}


def test_keys_start_as_a_projection_of_centred_features() -> None:
    model = make_recipe_model()
    features = 5.0 + 3.0 * torch.randn(256, model.sizes.features)

    model.start_keys(features)

    keys = model.key_head(features).detach()
    assert float(keys.mean(dim=0).abs().max()) < 0.3  # what all had in common is gone
    shared = min(SIZES.representation, features.shape[1])
    expected = STARTING_GAIN * math.sqrt(shared / SIZES.representation)
    assert float(keys.square().mean().sqrt()) == pytest.approx(expected, rel=0.15)


def test_the_prompt_heads_statistics_are_those_of_the_keys_it_was_given() -> None:
    model = make_recipe_model()
    keys = 5.0 + 2.0 * torch.randn(500, SIZES.representation)

    model.settle_keys(keys)

    standardised = model.prompt_head.standardise(keys)
    torch.testing.assert_close(standardised.mean(dim=0), torch.zeros(SIZES.representation), rtol=0, atol=1e-4)
    torch.testing.assert_close(standardised.std(dim=0), torch.ones(SIZES.representation), rtol=0, atol=1e-3)


@pytest.mark.parametrize("make_encoder", [make_bert, make_roberta])
def test_the_sizes_are_those_of_the_parts(make_encoder: Callable[[], PreTrainedModel]) -> None:
    model = RecipeModel(make_encoder(), SIZES).eval()
    assert model.verifier.sentinel.shape == (SIZES.sentinel_tokens, SIZES.encoder_hidden)
    assert model.states(read("a", "bc")).shape == (2, 4, SIZES.encoder_hidden)
    assert SIZES.vector == SIZES.encoder_hidden + NUMBERS
