"""The encoder's work: events in, vectors out, in micro-batches.

The order within a micro-batch is what keeps the log the source of truth: facts are written to the store,
then bad records to the dead letters, then how far the log is applied to the store again, and only when all is
acknowledged are the offsets committed. An
unavailable store makes the worker pause and repeat the write; a dead letter that cannot be written stops
it, and so do too many of them.

The effects have a thread of their own, so that the group hears from this member however long they take.
"""

import logging
import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor, wait
from contextlib import closing, contextmanager
from contextvars import copy_context
from datetime import datetime
from threading import Event, Thread
from typing import Final

from kafka.errors import KafkaError, RetriableError

from recipe_common.clock import now_utc
from recipe_common.errors import FailedPreconditionError
from recipe_common.tracing import observe
from recipe_encoder.batches import Batch, BatchBuilder, FactEncoder
from recipe_encoder.consumer import LogConsumer
from recipe_encoder.dead_letters import DeadLetter, DeadLetterLimit, DeadLetterWriter, OldestLetter
from recipe_encoder.events import KafkaRecord
from recipe_encoder.metrics import EncoderMetrics
from recipe_encoder.settings import EncoderSettings
from recipe_encoder.topics import await_topics
from recipe_encoder.tracing import batch_span
from recipe_encoder.watchdog import Watchdog
from recipe_store import Fact, KnowledgeStore, LogPosition, StoreUnavailableError

logger = logging.getLogger(__name__)

_POLL_SECONDS: Final = 0.25
_MEASURE_SECONDS: Final = 2.0
_LETTERS_SECONDS: Final = 30.0  # between two looks at the topic of the dead letters
_UNDISTURBED_SECONDS: Final = 2.0


class _StoppedError(Exception):
    """The worker was stopped while the store was unavailable."""


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
        self._watchdog = Watchdog(settings.stall_seconds, metrics)
        self._limit = DeadLetterLimit(
            settings.dead_letter_max_in_a_row, settings.dead_letter_max_share, settings.dead_letter_window
        )
        self._next_measure = self._next_look = 0.0  # by the monotonic clock
        self._broker_pauses = self._new_pauses()
        self._on_failure = on_failure
        self._now = now
        self._stop = stop or Event()
        self._thread: Thread | None = None
        metrics.model_info.labels(store.model_version).set(1)

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

        Raises DeadLetterError, TooManyDeadLettersError, MissingTopicError, kafka.errors.KafkaError, and whatever
        encoder and store raise other than StoreUnavailableError. What was not committed is read again at the next
        start.
        """
        settings = self._settings
        servers = settings.kafka_bootstrap_servers
        await_topics(servers, [settings.topic, settings.dead_letters], settings.topic_timeout_seconds)
        letters = DeadLetterWriter(servers, settings.dead_letters, settings.dead_letter_timeout_seconds)
        oldest = OldestLetter(servers, settings.dead_letters)
        with closing(letters), closing(oldest), closing(self._open_log()) as log, self._effects_thread() as effects:
            while not self._stop.is_set():
                records = log.poll(_POLL_SECONDS)
                if log.joined:
                    self.ready.set()
                if records:
                    self._process(records, log, letters, effects)
                else:
                    log.commit()
                self._measure(log)
                self._measure_letters(oldest)
                if not self.caught_up.is_set() and not self._stop.is_set() and log.caught_up:
                    self.caught_up.set()

    def not_ready(self) -> str | None:
        """Why this worker does not do its work, in a sentence for an operator; None while it does."""
        if self.error is not None:
            return f"it has stopped: {self.error}"
        if not self.ready.is_set():
            return "it does not know its partitions yet"
        return self._watchdog.problem()

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
            watchdog=self._watchdog,
            metrics=self._metrics,
            group_instance_id=settings.group_instance_id,
            session_timeout_seconds=settings.session_timeout_seconds,
            max_poll_interval_seconds=settings.max_poll_interval_seconds,
        )

    @contextmanager
    def _effects_thread(self) -> Iterator[ThreadPoolExecutor]:
        """The thread of the effects, which ends with the worker even while the store is unavailable."""
        with ThreadPoolExecutor(1, "recipe-encoder-effects") as effects:
            try:
                yield effects
            finally:
                self._stop.set()

    def _process(
        self, records: Sequence[KafkaRecord], log: LogConsumer, letters: DeadLetterWriter, effects: Executor
    ) -> None:
        logger.debug("polled %d records", len(records))
        try:
            with batch_span(records):
                working = effects.submit(copy_context().run, self._take_effect, records, letters)
                refused = self._await(working, log)
                with self._metrics.time_stage("commit"):
                    log.finish(records)
        except _StoppedError:
            return
        logger.debug("committed %d records", len(records))
        self._limit.check(records, refused)

    def _await(self, effects: Future[list[DeadLetter]], log: LogConsumer) -> list[DeadLetter]:
        """Waits for the effects; if they take long, as a member of the group that takes nothing more.

        The group asks its members to poll in time, or gives their partitions to others. A rebalance is put off for the
        time that most micro-batches need at most, so that they can be committed before.
        """
        wait([effects], min(_UNDISTURBED_SECONDS, self._settings.max_poll_interval_seconds / 3))
        while not effects.done():
            log.hold()
            self._measure(log)
        log.resume()
        return effects.result()

    def _take_effect(self, records: Sequence[KafkaRecord], letters: DeadLetterWriter) -> list[DeadLetter]:
        """All that must have happened before the records are committed; returns what was refused."""
        batch = self._batches.build(records)
        logger.debug("encoded %d facts of %d records", len(batch.writes), len(records))
        if batch.writes:
            self._patiently(lambda: self._write(batch))
        self._count_applied(batch.facts)
        logger.debug("written %d facts", len(batch.writes))
        letters.write(batch.refused)
        self._metrics.count_dead_letters(len(batch.refused))
        places = [LogPosition(record.topic, record.partition, record.offset) for record in records]
        self._patiently(lambda: self._store.advance(places))
        return batch.refused

    def _write(self, batch: Batch) -> None:
        with self._metrics.time_stage("write"):
            self._store.write(batch.writes, batch.superseded)

    def _patiently(self, change: Callable[[], None]) -> None:
        """Changes the store, for as long as that takes. Raises _StoppedError if the worker is stopped before."""
        for delay in self._new_pauses():
            try:
                change()
                break
            except StoreUnavailableError as error:
                logger.warning("paused, the store is tried again in %.1f s: %s", delay, error)
            self._metrics.paused.labels("store").set(1)
            if self._stop.wait(delay):
                raise _StoppedError
            self._metrics.store_retries.inc()
        self._metrics.paused.labels("store").set(0)

    def _new_pauses(self) -> Iterator[float]:
        return backoff_seconds(self._settings.retry_initial_seconds, self._settings.retry_max_seconds)

    def _measure(self, log: LogConsumer) -> None:
        """Whether this member has its place in the group; now and then also how much is waiting."""
        self._watchdog.membership(log.joined)
        if time.monotonic() < self._next_measure:
            return
        try:
            log.measure()
        except RetriableError as error:
            delay = next(self._broker_pauses)
            self._watchdog.unanswered()
            logger.warning("the broker does not answer, it is asked again in %.1f s: %r", delay, error)
        else:
            delay = _MEASURE_SECONDS
            self._broker_pauses = self._new_pauses()
        self._next_measure = time.monotonic() + delay

    def _measure_letters(self, oldest: OldestLetter) -> None:
        """Now and then: since when letters have been lying there."""
        if time.monotonic() < self._next_look:
            return
        self._next_look = time.monotonic() + _LETTERS_SECONDS
        try:
            written = oldest.timestamp()
        except KafkaError as error:
            logger.warning("the age of the oldest dead letter is not known: %r", error)
            age = math.nan
        else:
            age = 0.0 if written is None else max(self._now().timestamp() - written / 1000, 0.0)
        self._metrics.oldest_dead_letter_age.set(age)

    def _count_applied(self, facts: Sequence[Fact]) -> None:
        now = self._now()
        for fact in facts:
            age = (now - fact.event_time).total_seconds()
            # A publisher's clock that is ahead must not make the sum shrink.
            observe(self._metrics.freshness_seconds, max(age, 0.0))
            self._metrics.events.labels("retracted" if fact.retracted else "applied").inc()


def backoff_seconds(initial: float, maximum: float) -> Iterator[float]:
    """Endless pauses that double from `initial` to `maximum`, each cut by up to a half at random."""
    longest = initial
    while True:
        yield random.uniform(longest / 2, longest)  # noqa: S311 (jitter, not a secret)
        longest = min(longest * 2, maximum)
