import math

import pytest
import torch
from torch import Tensor

from recipe_trainer.losses import answer_loss, locality_loss


def log_of(*rows: list[float]) -> Tensor:
    """Logits whose softmax is the given probabilities, shifted so that they are no log-probabilities."""
    return torch.tensor(rows).log() + 7.0


def test_answer_loss_is_the_weighted_negative_log_likelihood() -> None:
    logits = log_of([0.5, 0.3, 0.2], [0.7, 0.2, 0.1])
    loss = answer_loss(logits, torch.tensor([1, 2]), torch.tensor([0.25, 0.75]))
    assert float(loss) == pytest.approx(-0.25 * math.log(0.3) - 0.75 * math.log(0.1), rel=1e-6)


@pytest.mark.parametrize(
    ("probabilities", "counts"),
    [
        ([0.35, 0.30, 0.35], True),  # level with the runner-up
        ([0.41, 0.35, 0.24], True),  # 1.17 times the runner-up's
        ([0.43, 0.35, 0.22], False),  # 1.23 times
        ([0.98, 0.01, 0.01], False),
    ],
)
def test_a_token_that_clearly_leads_adds_nothing(probabilities: list[float], counts: bool) -> None:
    logits = log_of(probabilities, [0.6, 0.3, 0.1]).requires_grad_()

    loss = answer_loss(logits, torch.tensor([0, 1]), torch.tensor([0.5, 0.5]))
    (gradient,) = torch.autograd.grad(loss, logits)

    expected = -0.5 * math.log(0.3) - (0.5 * math.log(probabilities[0]) if counts else 0.0)
    assert float(loss.detach()) == pytest.approx(expected, rel=1e-6)
    assert bool(gradient[0].any()) is counts


def test_locality_loss_is_the_divergence_of_the_unedited_distribution_from_the_edited() -> None:
    unedited = log_of([0.5, 0.5], [0.9, 0.1])
    edited = log_of([0.25, 0.75], [0.9, 0.1])
    loss = locality_loss(edited, unedited, torch.tensor([0.4, 0.6]))
    assert float(loss) == pytest.approx(0.4 * (0.5 * math.log(2) + 0.5 * math.log(2 / 3)), rel=1e-5)


def test_locality_loss_of_equal_logits_is_zero() -> None:
    logits = torch.randn(5, 11, generator=torch.Generator().manual_seed(0))
    assert float(locality_loss(logits, logits, torch.full((5,), 0.2))) == 0.0


@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_losses_and_gradients_are_finite_however_large_the_logits(scale: float) -> None:
    generator = torch.Generator().manual_seed(0)
    edited = (scale * torch.randn(6, 9, generator=generator)).requires_grad_()
    unedited = scale * torch.randn(6, 9, generator=generator)
    weights = torch.full((6,), 1 / 6)

    loss = answer_loss(edited, torch.arange(6), weights) + locality_loss(edited, unedited, weights)
    (gradient,) = torch.autograd.grad(loss, edited)

    assert math.isfinite(loss)
    assert bool(gradient.isfinite().all())
