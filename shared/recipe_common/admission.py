"""How many requests may be inside a service at once."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, Protocol

from prometheus_client import Counter, Gauge

from recipe_common.errors import ResourceExhaustedError

_NEWEST: Final = 0.2  # weight of the newest request in the mean of their durations
_SHORTEST_RETRY: Final = 0.1  # seconds


class AdmissionMetrics(Protocol):
    """What a service shows of its admission."""

    inside: Gauge
    places: Gauge
    refused: Counter


class Admission:
    """Lets a bounded number of requests in, and refuses one more with the time until a place should be free."""

    def __init__(self, places: int, metrics: AdmissionMetrics) -> None:
        self._places = places
        self._metrics = metrics
        metrics.places.set(places)
        self._inside = 0
        self._seconds = 1.0  # mean duration of a request
        self._empty = asyncio.Event()
        self._empty.set()

    @contextmanager
    def admit(self, places: int = 1) -> Iterator[None]:
        """So many places for one request. Raises ResourceExhaustedError."""
        if self._inside + places > self._places:
            self._metrics.refused.inc()
            raise ResourceExhaustedError(max(_SHORTEST_RETRY, round(self._seconds, 1)))
        self._count(places)
        begun = time.monotonic()
        try:
            yield
        finally:
            self._seconds += _NEWEST * (time.monotonic() - begun - self._seconds)
            self._count(-places)

    async def until_empty(self) -> None:
        """Returns when nobody is inside."""
        await self._empty.wait()

    def _count(self, change: int) -> None:
        self._inside += change
        self._metrics.inside.set(self._inside)
        (self._empty.clear if self._inside else self._empty.set)()
