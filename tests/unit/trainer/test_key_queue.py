import random

import pytest
import torch

from recipe_trainer.key_queue import KeyQueue


def pushed(capacity: int, *groups: list[int]) -> KeyQueue:
    """A queue whose keys are their own indices."""
    queue = KeyQueue(capacity, representation=2)
    for group in groups:
        queue.push(torch.tensor([[float(index), -float(index)] for index in group]), torch.tensor(group))
    return queue


def contents(queue: KeyQueue) -> list[int]:
    keys, indices = queue.sample(random.Random(0), smallest=queue.indices.numel())
    assert keys.tolist() == [[float(index), -float(index)] for index in indices.tolist()]
    return sorted(indices.tolist())


def test_an_empty_queue_has_nothing_to_sample() -> None:
    keys, indices = KeyQueue(4, representation=2).sample(random.Random(0), smallest=1)
    assert (keys.shape, indices.tolist()) == ((0, 2), [])


def test_a_full_queue_forgets_its_oldest_keys() -> None:
    assert contents(pushed(5, [1, 2, 3])) == [1, 2, 3]
    assert contents(pushed(5, [1, 2, 3], [4, 5, 6])) == [2, 3, 4, 5, 6]
    assert contents(pushed(5, [1, 2, 3], [4, 5, 6], [7, 8, 9])) == [5, 6, 7, 8, 9]
    assert len(pushed(5, [1, 2, 3])) == 3
    assert len(pushed(5, [1, 2, 3], [4, 5, 6])) == 5


def test_of_more_keys_than_it_holds_the_last_stay() -> None:
    assert contents(pushed(3, [1], [2, 3, 4, 5, 6, 7, 8])) == [6, 7, 8]
    assert contents(pushed(3, [2, 3, 4, 5], [6])) == [4, 5, 6]


def test_keys_are_stored_without_their_gradient() -> None:
    queue = KeyQueue(2, representation=1)
    queue.push(torch.ones(1, 1, requires_grad=True) * 2, torch.tensor([0]))
    assert not queue.keys.requires_grad


class FixedRandom(random.Random):
    """Draws the same number between 0 and 1 again and again."""

    def __init__(self, number: float) -> None:
        super().__init__(0)
        self.number = number

    def random(self) -> float:
        return self.number

    def getrandbits(self, k: int) -> int:  # defined, as else whole numbers would be made from `random`
        return super().getrandbits(k)


@pytest.mark.parametrize(("number", "size"), [(0.0, 4), (0.25, 8), (0.5, 16), (0.75, 32), (0.999999, 64)])
def test_the_size_of_a_sample_is_log_uniform(number: float, size: int) -> None:
    queue = pushed(64, list(range(64)))
    assert len(queue.sample(FixedRandom(number), smallest=4)[1]) == size


def test_samples_have_no_key_twice_and_leave_none_out() -> None:
    queue = pushed(64, list(range(64)))
    random_ = random.Random(0)
    samples = [queue.sample(random_, smallest=4)[1].tolist() for _ in range(100)]
    assert all(len(set(sample)) == len(sample) for sample in samples)
    assert {index for sample in samples for index in sample} == set(range(64))


@pytest.mark.parametrize("smallest", [3, 10])
def test_a_queue_no_larger_than_the_smallest_pool_is_sampled_whole(smallest: int) -> None:
    queue = pushed(8, [1, 2, 3])
    assert sorted(queue.sample(random.Random(0), smallest)[1].tolist()) == [1, 2, 3]


def test_the_same_seed_samples_the_same_keys() -> None:
    queue = pushed(64, list(range(64)))
    first, second = (queue.sample(random.Random(7), smallest=4) for _ in range(2))
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])


def test_a_restored_queue_goes_on_where_the_saved_one_was() -> None:
    saved = pushed(5, [1, 2, 3], [4, 5, 6])
    restored = KeyQueue(5, representation=2)
    restored.restore({name: value.clone() for name, value in saved.state().items()})

    for queue in (saved, restored):
        queue.push(torch.tensor([[7.0, -7.0], [8.0, -8.0]]), torch.tensor([7, 8]))

    assert torch.equal(restored.keys, saved.keys)
    assert torch.equal(restored.indices, saved.indices)
    assert contents(restored) == [4, 5, 6, 7, 8]


def test_pushing_does_not_change_a_state_that_another_queue_restored() -> None:
    saved = pushed(2, [1, 2])
    restored = KeyQueue(2, representation=2)
    restored.restore(saved.state())
    saved.push(torch.zeros(1, 2), torch.tensor([9]))
    assert contents(restored) == [1, 2]
