"""The losses of RECIPE (arXiv 2405.03279, section 3.4), each a function of tensors only."""

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
