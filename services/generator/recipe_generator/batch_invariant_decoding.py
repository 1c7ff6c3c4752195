"""Texts that the LLM continues together, each getting to the last bit the logits that it would get alone.

What a matrix product returns for one row depends on how many rows stand beside it, because that number decides in which
order a sum is taken. In bfloat16 this is enough to change words. So each text is read alone, and keeps keys and values
of its own, which it attends to alone, without padding. Only the layers that treat every token by itself are shared.
Of these, a linear layer takes several rows at once where that was seen to change no bit, and else one after the other.

A long text is not read in parts either: attention adds up in another order when it gets fewer queries, which changes
almost every key from the second layer on. What is divided is its way through the layers. Between two of them the other
texts may have a step, while every operation stays that of a text which is read at once.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, pad
from transformers import AttentionInterface, AttentionMaskInterface, DynamicCache, PreTrainedConfig
from transformers.cache_utils import DynamicLayer
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from recipe_model.language_model import LanguageModel

BLOCKS = (1, 2, 4, 8, 32)  # rows that one matrix product may take; fewer are filled up
READ_AT_ONCE = 256  # tokens that go through all layers between two pauses, or twice as many through half of them
_PLACES = 8  # a step is filled up with guesses to a multiple of so many tokens
_ATTENTION = "sdpa_by_row"


class RowDecoder:
    """Runs one LLM, which it keeps for itself; one call at a time."""

    def __init__(self, llm: LanguageModel) -> None:
        self._llm = llm
        llm.model.set_attn_implementation(_ATTENTION)
        self._in_blocks = take_rows_in_blocks(llm.model)
        layers = DynamicCache(config=llm.model.config).layers
        self._takes_back = all(type(layer) is DynamicLayer for layer in layers)

    def read(
        self, prefix: Tensor | None, ids: Sequence[int], pause: Callable[[], None] | None = None
    ) -> tuple[DynamicCache, Tensor]:
        """Read a text behind an optional prefix [l, d]: its cache, and the logits [v] of what comes next.

        A long one is interrupted between layers to call `pause`, which may take steps; what it raises ends the reading.
        """
        with torch.inference_mode():
            inputs = self._llm.inputs(prefix, ids)
            cache = _PausingCache(self._llm.model.config, inputs["attention_mask"].shape[1], pause)
            output = self._llm.model(**inputs, past_key_values=cache, use_cache=True, logits_to_keep=1)
        cache.pause = None
        return cache, output.logits[0, -1]

    def free_places(self, texts: int) -> int:
        """How many guesses a step of so many texts may take: each costs it less than a step of its own would.

        None if most weights take no blocks, or if the LLM's cache cannot take back what was guessed wrong.
        """
        return -texts % _PLACES if self._in_blocks and self._takes_back else 0

    def step(self, caches: Sequence[DynamicCache], runs: Sequence[Sequence[int]]) -> Sequence[Tensor]:
        """Append a run of k tokens to each of b texts: for each text the logits [k, v] of what comes behind each token.

        Each token has the bits that it would have in a step of its own; k may differ from text to text.
        """
        device = self._llm.model.device
        rows = [
            (cache, place, token) for cache, run in zip(caches, runs, strict=True) for place, token in enumerate(run)
        ]
        positions = torch.tensor([[cache.get_seq_length() + place] for cache, place, _ in rows], device=device)
        ids = torch.tensor([[token] for *_, token in rows], device=device)
        with torch.inference_mode():
            output = self._llm.model(
                input_ids=ids,
                position_ids=positions,
                past_key_values=_RowCaches([cache for cache, *_ in rows]),
                use_cache=True,
            )
        return output.logits[:, -1].split([len(run) for run in runs])  # type: ignore[no-any-return]


def take_back(cache: DynamicCache, tokens: int) -> None:
    """Forget the last tokens of a text; only where the decoder had free places."""
    if tokens:
        cache.crop(-tokens)


class _PausingCache(DynamicCache):
    """One text's keys and values. Every layer adds its own as a text is read, after a pause if one is due."""

    def __init__(self, config: PreTrainedConfig, tokens: int, pause: Callable[[], None] | None) -> None:
        super().__init__(config=config)
        self.pause = pause
        self._layers = max(1, len(self.layers) * READ_AT_ONCE // tokens)  # between two pauses

    def update(
        self,
        key_states: Tensor,
        value_states: Tensor,
        layer_idx: int,
        *args: Any,  # noqa: ANN401 (transformers decides what they are)
        **kwargs: Any,  # noqa: ANN401
    ) -> tuple[Tensor, Tensor]:
        """As transformers' own."""
        if self.pause is not None and layer_idx and layer_idx % self._layers == 0:
            self.pause()
        return super().update(key_states, value_states, layer_idx, *args, **kwargs)


class _RowCaches:
    """The part of transformers' cache that its models use, for rows of different lengths.

    Tokens of one text are rows too: they share its cache, which grows from one to the next.
    """

    def __init__(self, rows: Sequence[DynamicCache]) -> None:
        self._rows = rows

    def update(self, keys: Tensor, values: Tensor, layer: int, *_: object) -> tuple[list[Tensor], list[Tensor]]:
        """Append one position [b, h, 1, d] and return each row's own keys and values [1, h, t, d]."""
        new = zip(self._rows, keys.chunk(len(keys)), values.chunk(len(values)), strict=True)
        rows = [row.update(key, value, layer) for row, key, value in new]
        return [key for key, _ in rows], [value for _, value in rows]

    def get_query_offset(self, _layer: int) -> int:
        return 0

    def get_mask_sizes(self, query_length: int, _layer: int) -> tuple[int, int]:
        """As of an empty cache: a token that attends to all of its own row needs no mask."""
        return query_length, 0


def _attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor | list[Tensor],
    value: Tensor | list[Tensor],
    attention_mask: Tensor | None,
    **options: Any,  # noqa: ANN401 (transformers decides what they are)
) -> tuple[Tensor, None]:
    """Attention as transformers does it; row by row where the keys come from _RowCaches."""
    if isinstance(key, Tensor) and isinstance(value, Tensor):
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    rows = zip(query.chunk(len(query)), key, value, strict=True)
    return torch.cat([sdpa_attention_forward(module, *row, None, **options)[0] for row in rows]), None


AttentionInterface.register(_ATTENTION, _attend)
AttentionMaskInterface.register(_ATTENTION, sdpa_mask)


def _in_blocks(layer: Callable[[Tensor], Tensor], sizes: Sequence[int]) -> Callable[[Tensor], Tensor]:
    """The layer, taking rows [b, t, n] in the smallest block that holds them, or in several of the largest one."""

    def forward(rows: Tensor) -> Tensor:
        count = len(rows)
        size = next((size for size in sizes if size >= count), sizes[-1])
        if count == size:
            return layer(rows)
        filled = torch.cat([rows, rows[:1].expand(-count % size, *rows.shape[1:])])
        return torch.cat([layer(block) for block in filled.chunk(len(filled) // size)])[:count]

    return forward


def take_rows_in_blocks(model: nn.Module) -> bool:
    """Have each linear layer of a model take rows in those blocks that keep their bits; whether most weights have any.

    Subclasses of `nn.Linear`, as quantised layers may be, take one row after the other.
    """
    in_blocks = alone = 0
    sizes: dict[tuple[torch.Size, torch.dtype], Sequence[int]] = {}
    for module in model.modules():
        if type(module) is nn.Linear:
            weight = module.weight
            kind = (weight.shape, weight.dtype)
            if kind not in sizes:
                sizes[kind] = blocks_that_keep_bits(weight)
            module.forward = _in_blocks(module.forward, sizes[kind])  # type: ignore[assignment, method-assign]
            if len(sizes[kind]) > 1:
                in_blocks += weight.numel()
            else:
                alone += weight.numel()
        elif isinstance(module, nn.Linear):
            module.forward = _in_blocks(module.forward, (1,))  # type: ignore[assignment, method-assign]
    return in_blocks > alone


def blocks_that_keep_bits(weight: Tensor) -> list[int]:
    """The blocks in which a linear layer with such a weight [n, k] gives each row the bits it gets alone.

    Tried with sums that nearly cancel: where the order of additions differs, so do most of the results, even when they
    are rounded to bfloat16. Of the order that a product takes, the values know nothing.
    """
    n, k = weight.shape
    random = torch.Generator().manual_seed(0)
    half = torch.randn(n, k // 2, generator=random).to(weight)
    probe = pad(torch.cat([half, half], dim=-1), (0, k % 2))  # [n, k]
    row = torch.randn(2 * BLOCKS[-1], 1, k // 2, generator=random)
    noise = 2e-3 * torch.randn(2 * BLOCKS[-1], 1, 2 * (k // 2), generator=random)
    rows = pad(torch.cat([row, -row], dim=-1) + noise, (0, k % 2)).to(weight)  # [2 largest blocks, 1, k]
    with torch.inference_mode():
        alone, *together = [
            torch.cat([linear(block, probe) for block in rows.chunk(len(rows) // size)]) for size in BLOCKS
        ]
    return [1, *(size for size, found in zip(BLOCKS[1:], together, strict=True) if torch.equal(found, alone))]
