"""Facts that are near a query but damaged: each is counted whenever it is left out, and told once."""

import logging
import threading
from collections.abc import Sequence
from typing import TypeAlias

from recipe_retriever.metrics import RetrieverMetrics
from recipe_store import DamagedMatch, LogPosition

logger = logging.getLogger(__name__)

_Revision: TypeAlias = tuple[str, str, LogPosition]  # of a fact: its namespace, its id and the event that it comes from


class Damage:
    """What decisions left out; threads may share it. It remembers the damaged revisions, which are few."""

    def __init__(self, metrics: RetrieverMetrics) -> None:
        self._metrics = metrics
        self._told: set[_Revision] = set()
        self._turn = threading.Lock()

    def left_out(self, damaged: Sequence[DamagedMatch]) -> None:
        """Count them, and log those that are met for the first time: a question asked often must not fill the log."""
        self._metrics.damaged_facts.inc(len(damaged))
        for match in damaged:
            if self._is_new(match):
                logger.error("a fact is left out of decisions: %s", match.error)

    def _is_new(self, match: DamagedMatch) -> bool:
        fact = match.fact
        revision = (fact.namespace, fact.fact_id, fact.position)
        with self._turn:
            new = revision not in self._told
            self._told.add(revision)
        return new


def damaged_reason(damaged: Sequence[DamagedMatch]) -> str:
    """What a response says of candidates of which any may have been the one that applies; "" for none."""
    if not damaged:
        return ""
    return f"a candidate cannot be read, so it may apply or not: {'; '.join(str(match.error) for match in damaged)}"
