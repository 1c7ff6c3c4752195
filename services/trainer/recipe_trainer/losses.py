"""The losses of RECIPE (arXiv 2405.03279, section 3.4), each a function of tensors only."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

HINGE_RATIO = 1.2  # a token counts only while its probability is below this many times the runner-up's


def answer_loss(logits: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """L_rel and L_gen: -log f(a | p ++ q) with a hinge, for logits [n, v] at the answer tokens `targets` [n].

    `weights` [n] sum to 1 and say how much each token counts (1 / tokens of its answer / answers). A token
    whose probability already exceeds HINGE_RATIO times the runner-up's adds nothing.
    """
    log_probabilities = functional.log_softmax(logits, dim=-1)
    chosen = log_probabilities.gather(-1, targets.unsqueeze(-1)).squeeze(-1)
    with torch.no_grad():
        rivals = log_probabilities.scatter(-1, targets.unsqueeze(-1), -torch.inf).amax(dim=-1)
        counts = chosen < rivals + torch.log(torch.tensor(HINGE_RATIO))
    return -(chosen * counts * weights).sum()


def locality_loss(edited: Tensor, unedited: Tensor, weights: Tensor) -> Tensor:
    """L_loc: KL(f(. | q_l) || f(. | p ++ q_l)), logits [n, v] at the answer tokens; weights [n] sum to 1."""
    reference = functional.log_softmax(unedited, dim=-1)
    candidate = functional.log_softmax(edited, dim=-1)
    divergence = functional.kl_div(candidate, reference, log_target=True, reduction="none").sum(dim=-1)
    return (divergence * weights).sum()


@dataclass(frozen=True, slots=True)
class ContrastBatch:
    """What the contrastive losses compare.

    Logits are r~ . r / sqrt(R); the first column stands for the sentinel, the others for keys.
    """

    scores: Tensor  # [n, 1 + m]
    own: Tensor  # [n] column of the row's own key, 0 where the row is out of scope and the sentinel is right
    blocked: Tensor  # [n, 1 + m] columns that are neither right nor wrong for a row, and so left out


def scaled_scores(queries: Tensor, sentinel: Tensor, keys: Tensor) -> Tensor:
    """r~ . r / sqrt(R): queries [n, R], sentinel [R], keys [m, R] to [n, 1 + m]."""
    columns = torch.cat([sentinel.unsqueeze(0), keys])
    return queries @ columns.T / float(queries.shape[-1] ** 0.5)


def neighbour_loss(batch: ContrastBatch) -> Tensor:
    """L_no: InfoNCE of in-scope queries to their own key among all keys and the sentinel."""
    rows = batch.own > 0
    return _info_nce(batch.scores[rows], batch.own[rows], batch.blocked[rows])


def sentinel_loss(batch: ContrastBatch, removed_weight: float) -> Tensor:
    """L_so: InfoNCE to the sentinel, of out-of-scope queries and, weighted, of those without their key."""
    outside = batch.own == 0
    loss = _info_nce(batch.scores[outside], batch.own[outside], batch.blocked[outside])
    rows = ~outside
    own = functional.one_hot(batch.own[rows], batch.scores.shape[1]).bool()
    target = torch.zeros_like(batch.own[rows])
    return loss + removed_weight * _info_nce(batch.scores[rows], target, batch.blocked[rows] | own)


def _info_nce(scores: Tensor, target: Tensor, blocked: Tensor) -> Tensor:
    if not len(target):
        return scores.sum()  # the mean over no rows is not a number
    return functional.cross_entropy(scores.masked_fill(blocked, -torch.inf), target)
