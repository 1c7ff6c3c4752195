"""The memory that the keys and values of all texts share."""

from typing import Final

from transformers import PreTrainedModel

_GIB: Final = 2**30


def tokens_of(gib: float, model: PreTrainedModel) -> int:
    """For how many tokens so much memory holds a model's keys and values."""
    return int(gib * _GIB) // bytes_per_token(model)


def bytes_per_token(model: PreTrainedModel) -> int:
    """What the keys and values of one token take in all layers."""
    config = model.config.get_text_config()
    heads = config.num_attention_heads
    kept = getattr(config, "num_key_value_heads", None) or heads
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    return int(config.num_hidden_layers * kept * width * 2 * model.dtype.itemsize)
