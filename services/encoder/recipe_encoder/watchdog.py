"""Is every partition getting anywhere? The encoder's readiness, and the metrics about partitions."""

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from threading import Lock

from kafka.structs import TopicPartition

from recipe_encoder.metrics import EncoderMetrics


@dataclass
class _Partition:
    committed: float  # when something was last committed, or when the partition came
    progress: float  # the same, or when nothing was last seen waiting
    waiting: int = 0


class Watchdog:
    """What is known about this encoder's partitions; told by the threads that read the log, asked by any.

    A partition is stuck if for `stall_seconds` records of it were waiting and none was committed. `clock` is monotonic,
    in seconds.
    """

    def __init__(
        self, stall_seconds: float, metrics: EncoderMetrics, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._stall_seconds = stall_seconds
        self._metrics = metrics
        self._clock = clock
        self._lock = Lock()
        self._partitions: dict[TopicPartition, _Partition] = {}
        self._unanswered_since: float | None = None
        self._outside_since: float | None = None

    def assigned(self, partitions: Iterable[TopicPartition]) -> None:
        """These partitions are this encoder's from now on."""
        now = self._clock()
        with self._lock:
            for partition in partitions:
                state = _Partition(committed=now, progress=now)
                self._partitions[partition] = state
                self._metrics.show_partition(partition.partition, partial(self._commit_age, state))

    def gone(self, partitions: Iterable[TopicPartition]) -> None:
        """These partitions are somebody else's now."""
        with self._lock:
            for partition in partitions:
                if self._partitions.pop(partition, None) is not None:
                    self._metrics.hide_partition(partition.partition)

    def membership(self, joined: bool) -> None:
        """Whether this encoder has its place in the group, with or without partitions."""
        with self._lock:
            if joined:
                self._outside_since = None
            elif self._outside_since is None:
                self._outside_since = self._clock()

    def committed(self, partitions: Iterable[TopicPartition]) -> None:
        """The broker has acknowledged a commit: something of these partitions is finished."""
        now = self._clock()
        with self._lock:
            self._answered()
            for partition in partitions:
                if (state := self._partitions.get(partition)) is not None:
                    state.committed = state.progress = now

    def measured(self, lag: Mapping[TopicPartition, int]) -> None:
        """The broker has answered: so many records of each partition are not finished."""
        now = self._clock()
        with self._lock:
            self._answered()
            for partition, waiting in lag.items():
                if (state := self._partitions.get(partition)) is None:
                    continue
                state.waiting = waiting
                if waiting == 0:
                    state.progress = now
                self._metrics.lag.labels(partition.partition).set(waiting)

    def unanswered(self) -> None:
        """The broker has not answered."""
        with self._lock:
            self._metrics.paused.labels("broker").set(1)
            if self._unanswered_since is None:
                self._unanswered_since = self._clock()

    def problem(self) -> str | None:
        """Why nothing gets anywhere, in a sentence for an operator; None if all is well."""
        with self._lock:
            if (seconds := self._too_long(self._unanswered_since)) is not None:
                return f"the broker has not answered for {seconds:.0f} s"
            if (seconds := self._too_long(self._outside_since)) is not None:
                return f"this encoder has tried to join its group for {seconds:.0f} s"
            stuck = [
                f"partition {partition.partition} of {partition.topic}: {state.waiting} records are waiting and none"
                f" was finished for {seconds:.0f} s"
                for partition, state in sorted(self._partitions.items())
                if state.waiting and (seconds := self._too_long(state.progress)) is not None
            ]
        return "; ".join(stuck) or None

    def _answered(self) -> None:
        self._unanswered_since = None
        self._metrics.paused.labels("broker").set(0)

    def _too_long(self, since: float | None) -> float | None:
        """The seconds since then, None if they are not too many."""
        seconds = 0.0 if since is None else self._clock() - since
        return seconds if seconds > self._stall_seconds else None

    def _commit_age(self, state: _Partition) -> float:
        return self._clock() - state.committed
