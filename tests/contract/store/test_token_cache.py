"""What is kept of decoded token states."""

import pytest

from contract.store.samples import VECTOR_SIZE, tokens_of
from recipe_common.token_states import TokenStates
from recipe_store.errors import CorruptTokensError
from recipe_store.token_cache import TokenCache

BYTES = 3 * VECTOR_SIZE * 2  # of the states of one fact


def test_what_was_used_last_is_not_decoded_again() -> None:
    cache = TokenCache(2 * BYTES)
    decoded: list[str] = []

    def ask(fact_id: str) -> TokenStates:
        def decode() -> TokenStates:
            decoded.append(fact_id)
            return tokens_of(ord(fact_id))

        return cache.get(("n", fact_id, "digest"), decode)

    first = ask("a")
    ask("b")
    assert ask("a") is first
    ask("c")  # takes the place of b, which was used before a
    assert ask("a") is first
    ask("b")
    assert decoded == ["a", "b", "c", "b"]


def test_what_is_larger_than_the_cache_is_returned_all_the_same() -> None:
    tokens = tokens_of(1)
    assert TokenCache(BYTES - 1).get(("n", "f", "digest"), lambda: tokens) is tokens


def test_what_cannot_be_decoded_is_not_kept() -> None:
    cache, tokens = TokenCache(), tokens_of(1)

    def fail() -> TokenStates:
        raise CorruptTokensError("n", "f", "it holds no data")

    with pytest.raises(CorruptTokensError):
        cache.get(("n", "f", ""), fail)
    assert cache.get(("n", "f", ""), lambda: tokens) is tokens
