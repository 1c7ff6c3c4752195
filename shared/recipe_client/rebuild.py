"""Building the knowledge base anew from the log, beside the live one, and switching to it in one step.

Queries go on meanwhile, against the old collection until the switch and the new one after it, both of the model version
that asks. What the encoder wrote to the old collection while the log was read for the last time is read once more after
the switch; the store's order makes that harmless.
"""

import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from prometheus_client import CollectorRegistry

from recipe_client.log import Log, open_log
from recipe_common.errors import FailedPreconditionError
from recipe_common.progress import with_progress
from recipe_encoder.batches import BatchBuilder, FactEncoder
from recipe_encoder.events import KafkaRecord
from recipe_encoder.metrics import EncoderMetrics
from recipe_store import Fact, LogPosition
from recipe_store.client_store import ClientStore
from recipe_store.ordering import FactName, fact_name, fact_order, newest_facts

BATCH: Final = 256  # records that are encoded together
SAMPLE: Final = 200  # facts that are compared one by one
ROUNDS: Final = 5  # of reading what came meanwhile, until the base agrees with the log


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """What a rebuild did."""

    collection: str
    replaced: str  # the collection that was live before, kept to go back to
    events: int
    refused: int  # records that are no facts; their dead letters were written when they came first
    facts: int  # not retracted
    seconds: float


class Rebuild:
    """One rebuild of the facts of one model version."""

    def __init__(self, bootstrap_servers: str, topic: str, encoder: FactEncoder, current: ClientStore) -> None:
        """`current` is the store of the encoder's model version, live or not."""
        self._servers = bootstrap_servers
        self._topic = topic
        self._current = current
        # A version that is not live yet has nobody to disturb.
        is_live = current.live_model_version() == current.model_version
        self._target = current.new_collection() if is_live else current
        self._batches = BatchBuilder(encoder, EncoderMetrics(CollectorRegistry()))
        self._standing: dict[FactName, Fact] = {}  # what the log says
        self._read: dict[int, int] = {}  # per partition the offset to read next
        self._events = 0
        self._refused = 0

    def run(self, switched: Callable[[], None] = lambda: None) -> Rebuilt:
        """Build, compare, switch and catch up; `switched` is called right after the switch.

        Raises FailedPreconditionError if the new collection does not become what the log says: nothing is switched
        then. Raises UnavailableError if broker or store do not answer.
        """
        started = time.monotonic()
        replaced = self._current.live_collection() or ""
        self._catch_up("encoding the log")
        for _ in range(ROUNDS):
            self._catch_up("reading what came meanwhile")
            if not (difference := self._difference()):
                break
        else:
            raise FailedPreconditionError(
                f"{self._target.collection!r} is not what {self._topic} says: {difference}; nothing was switched. "
                "Does another encoder write to it?"
            )
        self._target.make_live()
        switched()
        self._catch_up("reading what came before the switch")
        return Rebuilt(
            collection=self._target.collection,
            replaced=replaced,
            events=self._events,
            refused=self._refused,
            facts=sum(not fact.retracted for fact in self._standing.values()),
            seconds=time.monotonic() - started,
        )

    def _catch_up(self, what: str) -> None:
        """Apply what the log holds now and did not before."""
        with open_log(self._servers, self._topic, self._read or None) as log:
            self._apply(log, what)
            self._read |= log.ends

    def _apply(self, log: Log, what: str) -> None:
        waiting: list[KafkaRecord] = []
        for record in with_progress(log.records(), what, log.length):
            waiting.append(record)
            if len(waiting) == BATCH:
                self._write(waiting)
                waiting = []
        if waiting:
            self._write(waiting)

    def _write(self, records: list[KafkaRecord]) -> None:
        batch = self._batches.build(records)
        self._target.write(batch.writes, batch.superseded)
        self._target.advance([LogPosition(record.topic, record.partition, record.offset) for record in records])
        self._remember(batch.facts)
        self._events += len(records)
        self._refused += len(batch.refused)

    def _remember(self, facts: list[Fact]) -> None:
        names = {fact_name(fact) for fact in facts}
        orders = {name: fact_order(self._standing[name]) for name in names & self._standing.keys()}
        for name, (fact, _) in newest_facts(((fact, None) for fact in facts), orders).items():
            self._standing[name] = fact

    def _difference(self) -> str:
        """In what the new collection differs from the log, by counts and a sample; "" if in nothing."""
        for namespace, expected in self._counts().items():
            if (found := self._target.count(namespace)) != expected:
                return f"it holds {found} facts of namespace {namespace!r}, not {expected}"
        names = list(self._standing)
        for name in random.sample(names, min(SAMPLE, len(names))):
            if self._target.get(*name) != self._standing[name]:
                return f"fact {name[1]!r} of namespace {name[0]!r} is another one"
        return ""

    def _counts(self) -> Mapping[str, int]:
        counts: dict[str, int] = {}
        for fact in self._standing.values():
            counts[fact.namespace] = counts.get(fact.namespace, 0) + (not fact.retracted)
        return counts
