"""The mean of several checkpoints' weights: one network that holds what each has learnt (arXiv 2203.05482).

Only of checkpoints that come from one another or from one run; networks that were trained apart have no mean.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from recipe_common.errors import FieldViolation, InvalidArgumentError
from recipe_model.checkpoint import Checkpoint


def mean_of(checkpoints: Sequence[Checkpoint], weights: Sequence[float]) -> Checkpoint:
    """The mean of checkpoints for the same models, each with its weight; of one it is that one.

    The keys' axes are no axes any more: they must be taken anew. Raises InvalidArgumentError for other models or sizes.
    """
    first, *others = checkpoints
    if not others:
        return first
    for other in others:
        mine, theirs = ((one.config.encoder, one.config.llm, one.config.sizes) for one in (first, other))
        if mine != theirs:
            differ = f"{first.path} and {other.path} are of other models or sizes; give checkpoints of one run's line"
            raise InvalidArgumentError([FieldViolation("initial", differ)])
    shares = [weight / sum(weights) for weight in weights]
    tensors = {name: _mean([one.tensors[name] for one in checkpoints], shares) for name in first.tensors}
    parts = [
        {"weight": weight, "model_version": one.model_version, **one.config.training}
        for one, weight in zip(checkpoints, weights, strict=True)
    ]
    versions = ", ".join(one.model_version for one in checkpoints)
    return Checkpoint(first.path, replace(first.config, training={"mean_of": parts}), f"mean of {versions}", tensors)


def _mean(tensors: Sequence[Tensor], shares: Sequence[float]) -> Tensor:
    return torch.stack([share * tensor.double() for tensor, share in zip(tensors, shares, strict=True)]).sum(0).float()
