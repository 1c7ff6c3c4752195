"""How many facts a namespace holds, counted now and then."""

import threading
import time
from collections import OrderedDict
from typing import Final

from recipe_common.tracing import stage
from recipe_retriever.metrics import RetrieverMetrics
from recipe_store import KnowledgeStore

NAMESPACES: Final = 1_000  # of which the count is remembered


class FactCounts:
    """Counts of facts that are not retracted, at most `seconds` old. Threads may share it."""

    def __init__(self, store: KnowledgeStore, seconds: float, metrics: RetrieverMetrics) -> None:
        self._store = store
        self._seconds = seconds
        self._metrics = metrics
        self._counts: OrderedDict[str, tuple[float, int]] = OrderedDict()  # the last counted last, with the time
        self._turn = threading.Lock()

    def of(self, namespace: str) -> int:
        """The count of one namespace. Raises StoreUnavailableError."""
        now = time.monotonic()
        with self._turn:
            counted, facts = self._counts.get(namespace, (-self._seconds, 0))
        return facts if now - counted < self._seconds else self._count(namespace, now)

    def _count(self, namespace: str, now: float) -> int:
        with stage("count", self._metrics.stage_seconds.labels("count")):
            facts = self._store.count(namespace)
        with self._turn:
            self._counts[namespace] = (now, facts)
            self._counts.move_to_end(namespace)
            if len(self._counts) > NAMESPACES:
                self._counts.popitem(last=False)
        return facts
