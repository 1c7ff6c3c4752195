import math

import pytest
import torch
from torch import Tensor

from recipe_trainer.losses import (
    ContrastBatch,
    answer_loss,
    locality_loss,
    neighbour_loss,
    scaled_scores,
    sentinel_loss,
)


def log_of(*rows: list[float]) -> Tensor:
    """Logits whose softmax is the given probabilities, shifted so that they are no log-probabilities."""
    return torch.tensor(rows).log() + 7.0


def contrast(scores: list[list[float]], own: list[int], blocked: list[tuple[int, int]] | None = None) -> ContrastBatch:
    mask = torch.zeros(len(scores), len(scores[0]), dtype=torch.bool)
    for row, column in blocked or []:
        mask[row, column] = True
    return ContrastBatch(torch.tensor(scores, requires_grad=True), torch.tensor(own), mask)


def info_nce(scores: list[float], target: int) -> float:
    return math.log(sum(math.exp(score) for score in scores)) - scores[target]


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


def test_scores_are_inner_products_over_the_root_of_their_length_with_the_sentinel_first() -> None:
    queries = torch.tensor([[1.0, 2.0, 0.0, 0.0], [0.0, 0.0, 3.0, 1.0]])
    sentinel = torch.tensor([2.0, 0.0, 0.0, 4.0])
    keys = torch.tensor([[1.0, 1.0, 1.0, 1.0], [0.0, -1.0, 2.0, 0.0]])
    assert scaled_scores(queries, sentinel, keys).tolist() == [[1.0, 1.5, -1.0], [2.0, 2.0, 3.0]]


def test_neighbour_loss_draws_each_query_in_scope_to_its_own_key() -> None:
    batch = contrast([[0.0, 2.0, 1.0], [0.5, -1.0, 3.0], [9.0, 9.0, 9.0]], own=[1, 2, 0])
    expected = (info_nce([0.0, 2.0, 1.0], 1) + info_nce([0.5, -1.0, 3.0], 2)) / 2
    assert float(neighbour_loss(batch).detach()) == pytest.approx(expected, rel=1e-6)


def test_blocked_columns_count_neither_for_nor_against_a_query() -> None:
    batch = contrast([[0.0, 2.0, 1.0, 5.0], [1.0, 4.0, 2.0, 3.0]], own=[1, 0], blocked=[(0, 3), (1, 1)])

    neighbour, sentinel = neighbour_loss(batch), sentinel_loss(batch, removed_weight=0.0)

    assert float(neighbour.detach()) == pytest.approx(info_nce([0.0, 2.0, 1.0], 1), rel=1e-6)
    assert float(sentinel.detach()) == pytest.approx(info_nce([1.0, 2.0, 3.0], 0), rel=1e-6)
    (gradient,) = torch.autograd.grad(neighbour + sentinel, batch.scores)
    assert gradient[0, 3] == gradient[1, 1] == 0.0


def test_sentinel_loss_draws_what_is_out_of_scope_to_the_sentinel() -> None:
    batch = contrast([[0.0, 2.0, 1.0], [1.0, 4.0, 2.0], [3.0, 0.0, 0.0]], own=[1, 0, 0])
    expected = (info_nce([1.0, 4.0, 2.0], 0) + info_nce([3.0, 0.0, 0.0], 0)) / 2
    assert float(sentinel_loss(batch, removed_weight=0.0).detach()) == pytest.approx(expected, rel=1e-6)


def test_sentinel_loss_draws_a_query_whose_own_key_is_removed_to_the_sentinel() -> None:
    scores = [[0.0, 2.0, 1.0, 7.0], [0.5, -1.0, 3.0, 0.0], [1.0, 4.0, 2.0, 0.0]]
    batch = contrast(scores, own=[1, 2, 0], blocked=[(0, 3)])
    outside = info_nce(scores[2], 0)
    removed = (info_nce([0.0, 1.0], 0) + info_nce([0.5, -1.0, 0.0], 0)) / 2

    loss = sentinel_loss(batch, removed_weight=0.3)

    assert float(loss.detach()) == pytest.approx(outside + 0.3 * removed, rel=1e-6)
    (gradient,) = torch.autograd.grad(loss, batch.scores)
    assert gradient[0, 1] == gradient[1, 2] == 0.0


@pytest.mark.parametrize("own", [[1, 2], [0, 0]])
def test_a_batch_all_in_or_all_out_of_scope_has_finite_losses_and_gradients(own: list[int]) -> None:
    batch = contrast([[0.0, 2.0, 1.0], [0.5, -1.0, 3.0]], own)
    loss = neighbour_loss(batch) + sentinel_loss(batch, 0.3)
    (gradient,) = torch.autograd.grad(loss, batch.scores)
    assert math.isfinite(loss)
    assert bool(gradient.isfinite().all())


def test_a_query_with_nothing_left_but_the_sentinel_costs_nothing() -> None:
    batch = contrast([[3.0, 2.0]], own=[1])
    assert float(sentinel_loss(batch, removed_weight=1.0).detach()) == 0.0


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
