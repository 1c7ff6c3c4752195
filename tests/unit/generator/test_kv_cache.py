"""The memory for keys and values is what transformers' cache takes."""

import pytest
import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel

from recipe_generator.kv_cache import bytes_per_token, tokens_of
from tiny_models import make_gpt2, make_llama


def taken_by(model: PreTrainedModel, tokens: int) -> int:
    """Bytes of the cache of so many tokens."""
    cache = DynamicCache(config=model.config)
    with torch.inference_mode():
        model(input_ids=torch.ones(1, tokens, dtype=torch.long), past_key_values=cache, use_cache=True)
    kept: list[Tensor] = [each for keys, values, *_ in cache for each in (keys, values)]
    return sum(each.nbytes for each in kept)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("model", [make_llama(), make_gpt2()], ids=["fewer heads of keys", "as many"])
def test_a_token_takes_what_the_cache_takes(model: PreTrainedModel, dtype: torch.dtype) -> None:
    module: nn.Module = model
    module.to(dtype)
    assert bytes_per_token(model) * 7 == taken_by(model, 7)


def test_memory_holds_whole_tokens() -> None:
    model = make_llama()
    assert tokens_of(10.9 * bytes_per_token(model) / 2**30, model) == 10
