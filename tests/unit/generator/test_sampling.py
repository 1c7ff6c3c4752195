import torch

from recipe_generator.engine import Decoding
from recipe_generator.sampling import Sampler

LOGITS = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()


def drawn(temperature: float, *, top_p: float = 1.0, seed: int = 0, times: int = 2000) -> list[float]:
    """How often each token is chosen."""
    choose = Sampler(Decoding(1, temperature=temperature, top_p=top_p, seed=seed))
    tokens = torch.tensor([choose(LOGITS) for _ in range(times)])
    return [float((tokens == token).float().mean()) for token in range(4)]


def close(frequencies: list[float], expected: list[float]) -> bool:
    return all(abs(a - b) < 0.04 for a, b in zip(frequencies, expected, strict=True))


def test_without_temperature_the_most_likely_token_is_taken() -> None:
    assert drawn(0) == [1, 0, 0, 0]


def test_at_temperature_one_tokens_are_drawn_by_their_probability() -> None:
    assert close(drawn(1), [0.5, 0.3, 0.15, 0.05])


def test_a_low_temperature_favours_the_likely_ones() -> None:
    squared = [0.25, 0.09, 0.0225, 0.0025]
    assert close(drawn(0.5), [value / sum(squared) for value in squared])


def test_top_p_leaves_the_fewest_tokens_that_have_that_probability() -> None:
    assert close(drawn(1, top_p=0.6), [0.5 / 0.8, 0.3 / 0.8, 0, 0])
    assert drawn(1, top_p=0.5) == [1, 0, 0, 0]


def test_a_seed_gives_the_same_tokens_and_another_one_others() -> None:
    def tokens(seed: int) -> list[int]:
        choose = Sampler(Decoding(1, temperature=1, seed=seed))
        return [choose(LOGITS) for _ in range(30)]

    assert tokens(2**64 - 1) == tokens(2**64 - 1)
    assert tokens(1) != tokens(2)


def test_half_precision_logits_can_be_drawn_from() -> None:
    assert Sampler(Decoding(1, temperature=1))(LOGITS.bfloat16()) in range(4)
