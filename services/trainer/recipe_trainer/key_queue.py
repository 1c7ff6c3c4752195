"""The most recent keys as negatives: a step contrasts thousands of facts at the cost of encoding few."""

import random

import torch
from torch import Tensor


class KeyQueue:
    """A ring of keys r_k [capacity, R] with the index of the edit each came from."""

    def __init__(self, capacity: int, representation: int) -> None:
        self.keys = torch.zeros(capacity, representation)
        self.indices = torch.full((capacity,), -1, dtype=torch.long)
        self._next = 0

    def __len__(self) -> int:
        return int((self.indices >= 0).sum())

    def push(self, keys: Tensor, indices: Tensor) -> None:
        """Store keys [b, R] over the oldest ones; of more than the capacity the last stay."""
        keys, indices = keys[-len(self.indices) :], indices[-len(self.indices) :]
        slots = torch.arange(self._next, self._next + len(keys)) % len(self.indices)
        self.keys[slots] = keys.detach()
        self.indices[slots] = indices
        self._next = int(slots[-1] + 1) % len(self.indices)

    def sample(self, random_: random.Random, smallest: int) -> tuple[Tensor, Tensor]:
        """A random part of the queue: keys [m, R] and indices [m].

        The size is drawn log-uniformly between `smallest` and all there are, so that the sentinel learns a
        threshold for small bases as well as for large ones.
        """
        filled = len(self)
        size = filled
        if filled > smallest:
            size = round(smallest * (filled / smallest) ** random_.random())
        chosen = torch.tensor(random_.sample(range(filled), size), dtype=torch.long)
        return self.keys[chosen], self.indices[chosen]

    def state(self) -> dict[str, Tensor]:
        """Everything needed to restore the queue."""
        return {"keys": self.keys, "indices": self.indices, "next": torch.tensor(self._next)}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Continue from a saved state."""
        self.keys = state["keys"].clone()
        self.indices = state["indices"].clone()
        self._next = int(state["next"])
