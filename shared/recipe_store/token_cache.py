"""Token states that were read lately, so that what is asked often is not decoded and checked again."""

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from recipe_common.token_states import TokenStates

CACHED_BYTES: Final = 32 * 2**20  # two thousand facts of twenty tokens with 384 numbers each

TokensKey = tuple[str, str, str]  # namespace, fact id, SHA-256 of what is stored


class TokenCache:
    """The token states used last, up to `capacity` bytes of states; threads may share it."""

    def __init__(self, capacity: int = CACHED_BYTES) -> None:
        self._capacity = capacity
        self._held = 0
        self._tokens: OrderedDict[TokensKey, TokenStates] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: TokensKey, decode: Callable[[], TokenStates]) -> TokenStates:
        """What is held under the key, otherwise what `decode` returns, which is held from now on."""
        with self._lock:
            if (held := self._tokens.get(key)) is not None:
                self._tokens.move_to_end(key)
                return held
        tokens = decode()
        with self._lock:
            if key not in self._tokens:
                self._tokens[key] = tokens
                self._held += tokens.states.nbytes
            while self._held > self._capacity:
                _, oldest = self._tokens.popitem(last=False)
                self._held -= oldest.states.nbytes
        return tokens
