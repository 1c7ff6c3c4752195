import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from recipe_model.networks import (
    OWN_PART,
    SPELLED_PART,
    STARTING_GAIN,
    PromptHead,
    RecipeModel,
    RecipeSizes,
    RepresentationHead,
    pool,
    sentinel_rise,
)
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


def test_features_of_a_text_are_the_same_alone_and_padded() -> None:
    model = make_recipe_model()

    alone = model.features(read("short"))
    padded = model.features(read("short", "a very much longer text"))

    torch.testing.assert_close(padded[0], alone[0])


@pytest.mark.parametrize("make_encoder", [make_bert, make_roberta])
def test_sentinel_is_the_key_of_its_pseudo_tokens(make_encoder: Callable[[], PreTrainedModel]) -> None:
    model = RecipeModel(make_encoder(), SIZES).eval()

    words = model.sentinel_tokens.unsqueeze(0)
    pooled = pool(model.encoder(inputs_embeds=words).last_hidden_state, torch.ones(1, SIZES.sentinel_tokens))
    features = torch.cat([pooled, torch.zeros(1, SIZES.spelling)], dim=1)

    assert model.sentinel_tokens.shape == (SIZES.sentinel_tokens, SIZES.encoder_hidden)
    assert model.sentinel().shape == (SIZES.representation,)
    torch.testing.assert_close(model.sentinel(), model.keys(features)[0])


def test_sentinel_starts_as_words_of_the_encoder() -> None:
    model = make_recipe_model()
    words = model.encoder.get_input_embeddings().weight
    assert isinstance(words, Tensor)
    for token in model.sentinel_tokens:
        assert (words == token).all(dim=1).any()


def test_prompts_start_as_the_words_they_are_made_from() -> None:
    model = make_recipe_model()
    words = torch.randn(16, SIZES.prompt_tokens, SIZES.llm_hidden)

    model.start_prompts(0.25)

    assert torch.equal(model.prompts(torch.randn(16, SIZES.representation), words), words)
    assert float(model.prompt_head.scale) == pytest.approx(OWN_PART * 0.25)


def test_word_embeddings_and_only_they_are_frozen() -> None:
    model = make_recipe_model()
    frozen = [name for name, value in model.named_parameters() if not value.requires_grad]
    assert frozen == ["encoder.embeddings.word_embeddings.weight"]


def test_both_heads_start_as_one_projection_of_centred_features() -> None:
    model = make_recipe_model()
    features = 5.0 + 3.0 * torch.randn(256, model.sizes.features)

    model.start_heads(features)

    assert model.spelling is not None
    assert float(model.spelling.scale) == pytest.approx(SPELLED_PART, rel=0.05)  # both parts spread alike before
    features[:, -SIZES.spelling :] *= model.spelling.scale.item()
    keys = model.keys(features).detach()
    torch.testing.assert_close(keys, model.queries(features).detach())
    assert float(keys.mean(dim=0).abs().max()) < 0.3  # what all had in common is gone
    shared = min(SIZES.representation, features.shape[1])
    expected = STARTING_GAIN * math.sqrt(shared / SIZES.representation)
    assert float(keys.square().mean().sqrt()) == pytest.approx(expected, rel=0.15)


@pytest.mark.parametrize(("facts", "rise"), [(0, 0.0), (1, 0.0), (1_000, 0.0), (10_000, 2.3026), (100_000, 4.6052)])
def test_the_sentinel_rises_with_the_logarithm_of_the_number_of_facts(facts: int, rise: float) -> None:
    assert sentinel_rise(facts) == pytest.approx(rise, rel=1e-4)


def test_the_threshold_does_not_rise_unless_the_sentinel_is_to_grow() -> None:
    model = make_recipe_model()
    assert model.threshold_growth == 0.0
    model.sentinel_growth.fill_(0.5)
    assert model.threshold_growth == pytest.approx(0.5 * math.sqrt(SIZES.representation))


def test_the_threshold_has_no_offset_unless_one_is_given() -> None:
    model = make_recipe_model()
    assert model.threshold_offset == 0.0
    model.sentinel_offset.fill_(-2.0)
    assert model.threshold_offset == pytest.approx(-2.0 * math.sqrt(SIZES.representation))


def test_the_first_numbers_of_a_stored_key_tell_most() -> None:
    model = make_recipe_model()
    mixed = torch.randn(SIZES.representation, SIZES.representation)
    keys = 5.0 + torch.randn(500, SIZES.representation) @ mixed

    model.settle_keys(keys)

    axes, stored = model.key_axes, model.stored_keys(keys)
    torch.testing.assert_close(axes.T @ axes, torch.eye(SIZES.representation), rtol=0, atol=1e-5)
    torch.testing.assert_close(stored.mean(dim=0), torch.zeros(SIZES.representation), rtol=0, atol=1e-3)
    covariance = torch.cov(stored.T)
    variances = covariance.diagonal()
    torch.testing.assert_close(covariance, torch.diag(variances), rtol=0, atol=1e-3 * float(variances.max()))
    assert torch.equal(variances, variances.sort(descending=True).values)


def test_queries_are_turned_as_keys_are() -> None:
    model = make_recipe_model()
    keys, queries = torch.randn(40, SIZES.representation), torch.randn(3, SIZES.representation)

    model.settle_keys(keys)

    similarities = model.searching_queries(queries) @ model.stored_keys(keys).T
    torch.testing.assert_close(similarities, queries @ (keys - keys.mean(dim=0)).T, rtol=1e-4, atol=1e-4)
