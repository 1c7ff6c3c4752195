"""The encoder's work: events in, vectors out, in micro-batches.

The order within a micro-batch is what keeps the log the source of truth: facts are written to the store,
then bad records to the dead letters, and only when both are acknowledged are the offsets committed. An
unavailable store makes the worker pause and repeat the write; a dead letter that cannot be written stops
it.
"""

import logging
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from datetime import datetime
from threading import Event, Thread
from typing import Final

from recipe_common.clock import now_utc
from recipe_common.errors import FailedPreconditionError
from recipe_encoder.batches import BatchBuilder, FactEncoder
from recipe_encoder.consumer import LogConsumer
from recipe_encoder.dead_letters import DeadLetterWriter
from recipe_encoder.events import KafkaRecord
from recipe_encoder.metrics import EncoderMetrics
from recipe_encoder.settings import EncoderSettings
from recipe_encoder.topics import await_topics
from recipe_store import FactWrite, KnowledgeStore, StoreUnavailableError

logger = logging.getLogger(__name__)

_POLL_SECONDS: Final = 0.25


class Worker:
    """Consumes until it is stopped: `run` in the caller's thread, or `start` in one of its own.

    `error` is what ended the thread, None while all is well; `on_failure` is called with it, in that thread.
    `ready` is set once the worker knows its partitions, `caught_up` once everything that they held when it started has
    had its effect (manual assignment only: in a group it is set at once). Setting `stop` ends it like the method of
    that name.
    """

    def __init__(
        self,
        settings: EncoderSettings,
        encoder: FactEncoder,
        store: KnowledgeStore,
        metrics: EncoderMetrics,
        *,
        on_failure: Callable[[Exception], None] | None = None,
        stop: Event | None = None,
        now: Callable[[], datetime] = now_utc,
    ) -> None:
        self.ready = Event()
        self.caught_up = Event()
        self.error: Exception | None = None
        self._settings = settings
        self._batches = BatchBuilder(encoder, metrics)
        self._store = store
        self._metrics = metrics
        self._on_failure = on_failure
        self._now = now
        self._stop = stop or Event()
        self._thread: Thread | None = None

    @property
    def is_running(self) -> bool:
        """Whether the worker's own thread is alive."""
        return self._thread is not None and self._thread.is_alive()

    def start(self) -> None:
        """Runs in a thread of its own from now on."""
        if self._thread is not None:
            raise FailedPreconditionError("this worker was started before; make a new one")
        self._thread = Thread(target=self._run_thread, name="recipe-encoder", daemon=True)
        self._thread.start()

    def stop(self, timeout_seconds: float | None = None) -> None:
        """Ends after the micro-batch at hand and waits for the thread, at most `timeout_seconds`."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout_seconds)

    def run(self) -> None:
        """Consumes until `stop` is called, from another thread or a signal handler.

        Raises DeadLetterError, MissingTopicError, kafka.errors.KafkaError, and whatever encoder and store
        raise other than StoreUnavailableError. What was not committed is read again at the next start.
        """
        settings = self._settings
        servers = settings.kafka_bootstrap_servers
        await_topics(servers, [settings.topic, settings.dead_letters], settings.topic_timeout_seconds)
        letters = DeadLetterWriter(servers, settings.dead_letters, settings.dead_letter_timeout_seconds)
        with closing(letters), closing(self._open_log()) as log:
            while not self._stop.is_set():
                records = log.poll(_POLL_SECONDS)
                if log.joined:
                    self.ready.set()
                if records:
                    self._process(records, log, letters)
                else:
                    log.commit()
                if not self.caught_up.is_set() and not self._stop.is_set() and log.caught_up:
                    self.caught_up.set()

    def _run_thread(self) -> None:
        try:
            self.run()
        except Exception as error:
            # Nobody above could catch it: the thread ends here, and its owner finds the error in `error`.
            logger.critical("the encoder stopped: %s", error, exc_info=error)
            self.error = error
            if self._on_failure is not None:
                self._on_failure(error)

    def _open_log(self) -> LogConsumer:
        settings = self._settings
        return LogConsumer(
            settings.kafka_bootstrap_servers,
            settings.topic,
            group_id=settings.group_id,
            assignment=settings.assignment,
            batch_size=settings.batch_size,
            fetch_wait_ms=settings.fetch_wait_ms,
        )

    def _process(self, records: Sequence[KafkaRecord], log: LogConsumer, letters: DeadLetterWriter) -> None:
        batch = self._batches.build(records)
        if not self._write(batch.writes, log):
            return
        letters.write(batch.refused)
        self._metrics.events.labels("dead_lettered").inc(len(batch.refused))
        with self._metrics.time_stage("commit"):
            log.finish(records)

    def _write(self, writes: Sequence[FactWrite], log: LogConsumer) -> bool:
        """Writes to the store, for as long as that takes; False if the worker was stopped before it could."""
        if not writes:
            return True
        for delay in backoff_seconds(self._settings.retry_initial_seconds, self._settings.retry_max_seconds):
            try:
                with self._metrics.time_stage("write"):
                    self._store.write(writes)
                break
            except StoreUnavailableError as error:
                logger.warning("paused, the store is tried again in %.1f s: %s", delay, error)
            self._metrics.paused.set(1)
            log.hold(delay, self._stop)
            if self._stop.is_set():
                return False
            self._metrics.store_retries.inc()
        self._metrics.paused.set(0)
        log.resume()
        self._count_written(writes)
        return True

    def _count_written(self, writes: Sequence[FactWrite]) -> None:
        now = self._now()
        for write in writes:
            age = (now - write.fact.event_time).total_seconds()
            # A publisher's clock that is ahead must not make the sum shrink.
            self._metrics.freshness_seconds.observe(max(age, 0.0))
            self._metrics.events.labels("retracted" if write.fact.retracted else "applied").inc()


def backoff_seconds(initial: float, maximum: float) -> Iterator[float]:
    """Endless pauses that double from `initial` to `maximum`, each cut by up to a half at random."""
    longest = initial
    while True:
        yield random.uniform(longest / 2, longest)  # noqa: S311 (jitter, not a secret)
        longest = min(longest * 2, maximum)
