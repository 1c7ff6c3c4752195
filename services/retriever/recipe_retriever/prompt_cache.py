"""Prompts that were read and checked lately."""

import threading
from collections import OrderedDict
from typing import Final

import numpy as np
from numpy.typing import NDArray

from recipe_common.tracing import stage
from recipe_retriever.metrics import RetrieverMetrics
from recipe_store import KnowledgeStore, Match

MEBIBYTE: Final = 1 << 20

Prompt = NDArray[np.float16]
_Key = tuple[str, str, int, str]


class PromptCache:
    """The prompts [l, d] of matches, of which the most recently used are kept, up to `max_bytes`. Threads may share it.

    A match comes from the store at every query, so nothing that is superseded or retracted is ever asked for. Its
    digest is part of the key: two events without a revision of their own may share one, and a prompt that was stored
    with another digest is read again and checked.
    """

    def __init__(self, store: KnowledgeStore, max_bytes: int, metrics: RetrieverMetrics) -> None:
        self._store = store
        self._max_bytes = max_bytes
        self._metrics = metrics
        self._bytes = 0
        self._prompts: OrderedDict[_Key, Prompt] = OrderedDict()
        self._turn = threading.Lock()

    def get(self, match: Match) -> Prompt | None:
        """The prompt of a match, or None if its fact has been replaced since the search.

        Raises CorruptPromptError and StoreUnavailableError.
        """
        key = (match.fact.namespace, match.fact.fact_id, match.fact.revision, match.prompt_sha256)
        with self._turn:
            if (cached := self._prompts.get(key)) is not None:
                self._prompts.move_to_end(key)
        self._metrics.prompts.labels("fetched" if cached is None else "cached").inc()
        return self._fetched(key, match) if cached is None else cached

    def _fetched(self, key: _Key, match: Match) -> Prompt | None:
        with stage("fetch", self._metrics.stage_seconds.labels("fetch")):
            prompt = self._store.prompt(match)
        if prompt is not None:
            self._keep(key, prompt)
        return prompt

    def _keep(self, key: _Key, prompt: Prompt) -> None:
        prompt.flags.writeable = False
        with self._turn:
            if key not in self._prompts:
                self._prompts[key] = prompt
                self._bytes += prompt.nbytes
            while self._bytes > self._max_bytes:
                _, oldest = self._prompts.popitem(last=False)
                self._bytes -= oldest.nbytes
            self._metrics.cached_bytes.set(self._bytes)
