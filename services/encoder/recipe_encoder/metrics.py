"""The encoder's metrics, each declared once."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Final, Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from recipe_common import tracing

Result = Literal["applied", "retracted", "dead_lettered"]
Stage = Literal["parse", "encode", "write", "commit"]
Dependency = Literal["store", "broker"]
Rebalance = Literal["assigned", "revoked", "lost"]

RESULTS: Final[tuple[Result, ...]] = ("applied", "retracted", "dead_lettered")
STAGES: Final[tuple[Stage, ...]] = ("parse", "encode", "write", "commit")
DEPENDENCIES: Final[tuple[Dependency, ...]] = ("store", "broker")
REBALANCES: Final[tuple[Rebalance, ...]] = ("assigned", "revoked", "lost")
BATCH_BUCKETS: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
STAGE_BUCKETS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
# Up to an hour: a rebuild of the store reads events of any age, and all of those fall into the last bucket.
FRESHNESS_BUCKETS: Final = (0.025, 0.05, 0.1, 0.25, 0.5, 1, 2, 3, 5, 10, 30, 60, 300, 1800, 3600)


class EncoderMetrics:
    """The metrics of one encoder in `registry`; `clock` is monotonic, in seconds."""

    def __init__(self, registry: CollectorRegistry, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        counter = partial(Counter, registry=registry)
        gauge = partial(Gauge, registry=registry)
        histogram = partial(Histogram, registry=registry)
        self.events = counter(
            "recipe_encoder_events",
            "Events that are finished: taken by the store, which keeps the newest revision, or dead-lettered.",
            ["result"],
        )
        self.unreadable_facts = counter(
            "recipe_encoder_unreadable_facts",
            "Facts that were encoded though most of their tokens are unknown to the text encoder; few questions find "
            "them.",
        )
        self.store_retries = counter(
            "recipe_encoder_store_retries", "Writes repeated because the store was unavailable."
        )
        self.paused = gauge(
            "recipe_encoder_paused",
            "1 while nothing is consumed because this dependency is unavailable, else 0.",
            ["dependency"],
        )
        self.newest_dead_letter_age = gauge(
            "recipe_encoder_newest_dead_letter_age_seconds",
            "Since this process last wrote a dead letter; infinite if it has not written any.",
        )
        self.oldest_dead_letter_age = gauge(
            "recipe_encoder_oldest_dead_letter_age_seconds",
            "Since the event of the oldest letter in the topic of the dead letters, whoever wrote it; 0 if there is "
            "none, not a number if the broker does not say.",
        )
        self.rebalances = counter(
            "recipe_encoder_rebalances",
            "Changes of this encoder's partitions: assigned, revoked in order, or lost to others without warning.",
            ["change"],
        )
        self.lag = gauge(
            "recipe_encoder_lag_records",
            "Offsets of a partition of this encoder that are not finished yet, as of a few seconds ago.",
            ["partition"],
        )
        self.commit_age = gauge(
            "recipe_encoder_last_commit_age_seconds",
            "Since something of a partition of this encoder was last committed, or since the partition came to it.",
            ["partition"],
        )
        self.batch_size = histogram("recipe_encoder_batch_size", "Records in one micro-batch.", buckets=BATCH_BUCKETS)
        self.stage_seconds = histogram(
            "recipe_encoder_stage_seconds",
            "Time one micro-batch spent in a stage; every attempt to write counts on its own.",
            ["stage"],
            buckets=STAGE_BUCKETS,
        )
        self.freshness_seconds = histogram(
            "recipe_encoder_freshness_seconds",
            "From the time of an event to the moment its effect can be retrieved, by wall clock.",
            buckets=FRESHNESS_BUCKETS,
        )
        self.model_info = gauge(
            "recipe_encoder_model_info", "1 for the model version that facts are written for.", ["model_version"]
        )
        self._show_every_series()

    def show_partition(self, partition: int, commit_age: Callable[[], float]) -> None:
        """Adds the series of a partition; there are as many as this encoder has partitions."""
        self.lag.labels(partition)
        self.commit_age.labels(partition).set_function(commit_age)

    def hide_partition(self, partition: int) -> None:
        """Removes the series of a partition that is somebody else's now."""
        self.lag.remove(partition)
        self.commit_age.remove(partition)

    def count_dead_letters(self, count: int) -> None:
        """So many dead letters were just written."""
        self.events.labels("dead_lettered").inc(count)
        if count:
            written = self._clock()
            self.newest_dead_letter_age.set_function(lambda: self._clock() - written)

    @contextmanager
    def time_stage(self, stage: Stage) -> Iterator[None]:
        """Observes how long the block takes, also if it raises, as a span too."""
        with tracing.stage(stage, self.stage_seconds.labels(stage), self._clock):
            yield

    def _show_every_series(self) -> None:
        """Zeros are better than gaps: rates and alerts see the first event too."""
        for result in RESULTS:
            self.events.labels(result)
        for stage in STAGES:
            self.stage_seconds.labels(stage)
        for dependency in DEPENDENCIES:
            self.paused.labels(dependency)
        for change in REBALANCES:
            self.rebalances.labels(change)
        self.newest_dead_letter_age.set(math.inf)
