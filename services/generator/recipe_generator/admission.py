"""How many requests may be inside at once."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager

from recipe_common.errors import ResourceExhaustedError
from recipe_generator.metrics import GeneratorMetrics

_NEWEST = 0.2  # weight of the newest request in the mean of their durations


class Admission:
    """Lets a bounded number of requests in, and refuses one more with the time until a place should be free."""

    def __init__(self, places: int, metrics: GeneratorMetrics) -> None:
        self._places = places
        self._metrics = metrics
        metrics.places.set(places)
        self._inside = 0
        self._seconds = 1.0  # mean duration of a request
        self._empty = asyncio.Event()
        self._empty.set()

    @contextmanager
    def admit(self) -> Iterator[None]:
        """A place for one request. Raises ResourceExhaustedError."""
        if self._inside == self._places:
            self._metrics.refused.inc()
            raise ResourceExhaustedError(max(0.1, round(self._seconds, 1)))
        self._count(1)
        begun = time.monotonic()
        try:
            yield
        finally:
            self._seconds += _NEWEST * (time.monotonic() - begun - self._seconds)
            self._count(-1)

    async def until_empty(self) -> None:
        """Returns when nobody is inside."""
        await self._empty.wait()

    def _count(self, change: int) -> None:
        self._inside += change
        self._metrics.inside.set(self._inside)
        (self._empty.clear if self._inside else self._empty.set)()
