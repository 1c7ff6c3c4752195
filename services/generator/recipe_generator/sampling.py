"""The choice of the next token."""

import torch
from torch import Tensor

from recipe_generator.engine import Decoding


class Sampler:
    """Chooses one text's tokens, one after the other, by its own seed."""

    def __init__(self, decoding: Decoding) -> None:
        self._temperature = decoding.temperature
        self._top_p = decoding.top_p
        self._random = torch.Generator().manual_seed(decoding.seed)

    def __call__(self, logits: Tensor) -> int:
        """The next token, from its logits [v]."""
        if self._temperature == 0:
            return int(logits.argmax())
        probabilities = torch.softmax(logits.float().cpu() / self._temperature, dim=-1)
        if self._top_p < 1:
            probabilities = _nucleus(probabilities, self._top_p)
        return int(torch.multinomial(probabilities, 1, generator=self._random))


def _nucleus(probabilities: Tensor, top_p: float) -> Tensor:
    """The fewest most likely tokens that together have the probability `top_p`; all others get 0."""
    ordered, tokens = probabilities.sort(descending=True, stable=True)
    before = ordered.cumsum(dim=-1) - ordered  # what the more likely ones have together
    kept = torch.where(before < top_p, ordered, 0.0)
    return torch.zeros_like(probabilities).scatter(0, tokens, kept)
