"""What the encoder's integration tests are made of: workers on a real broker and store, a small model."""

import hashlib
import json
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry

from brokers import Topics
from recipe_common.errors import FieldViolation, InvalidArgumentError
from recipe_common.token_states import TokenStates
from recipe_encoder.metrics import EncoderMetrics
from recipe_encoder.settings import EncoderSettings
from recipe_encoder.worker import Worker
from recipe_model.encoded import EncodedFact
from recipe_store import Fact, FactWrite, KnowledgeStore, StoreUnavailableError
from recipe_store.edge_store import EdgeStore
from waiting import DEADLINE_SECONDS

VECTOR_SIZE = 8
PROMPT_WIDTH = 4


def vector_of(statement: str) -> NDArray[np.float32]:
    """The vector [h] of length 1 that `HashEncoder` gives a statement."""
    digest = hashlib.sha256(statement.encode()).digest()[:VECTOR_SIZE]
    numbers = np.frombuffer(digest, dtype=np.uint8).astype(np.float32)
    return numbers / np.linalg.norm(numbers)


def tokens_of(statement: str) -> TokenStates:
    """The token states that `HashEncoder` gives a statement: one for each of its words."""
    words = statement.split()
    ids = np.array([len(word) for word in words], np.int32)
    return TokenStates(ids, np.zeros(len(words), np.uint8), np.stack([vector_of(word) for word in words]).astype("f2"))


def prompt_of(statement: str) -> NDArray[np.float16]:
    """The prompt [l, d] that `HashEncoder` gives a statement, one to four tokens long."""
    return np.resize(vector_of(statement), (1 + len(statement) % 4, PROMPT_WIDTH)).astype(np.float16)


class HashEncoder:
    """A model whose vectors are hashes. It remembers its batches, and refuses what is "unreadable"."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []

    def encode(self, statements: Sequence[str]) -> list[EncodedFact]:
        if any("unreadable" in statement for statement in statements):
            raise InvalidArgumentError([FieldViolation("statement", "is 999 tokens long, at most 256 are read")])
        self.batches.append(list(statements))
        return [EncodedFact(vector_of(each), tokens_of(each), prompt_of(each)) for each in statements]

    def unknown_share(self, text: str) -> float:
        """All of what is "foreign"."""
        return float("foreign" in text)

    @property
    def statements(self) -> list[str]:
        """Everything it has encoded so far."""
        return [statement for batch in self.batches for statement in batch]


class OutageStore:
    """A store of which only `write` is used, and which is unavailable while `is_down`."""

    def __init__(self, store: KnowledgeStore) -> None:
        self.is_down = False
        self.refusals = 0
        self._store = store

    def write(self, writes: Sequence[FactWrite], superseded: Sequence[Fact] = ()) -> None:
        if self.is_down:
            self.refusals += 1
            raise StoreUnavailableError("the test has taken the store away")
        self._store.write(writes, superseded)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


class EncoderHarness:
    """A topic with its dead letters, a group and a namespace of its own, and workers on them."""

    def __init__(self, broker: str, topics: Topics, store: EdgeStore, assignment: str) -> None:
        self.broker = broker
        self.topics = topics
        self.store = store
        self.assignment = assignment
        self.namespace = f"namespace-{uuid.uuid4().hex}"
        self.group_id = f"group-{uuid.uuid4().hex}"
        self.encoder = HashEncoder()
        self.registry = CollectorRegistry()
        self.outage = OutageStore(store)
        self._metrics = EncoderMetrics(self.registry)
        self._producer = KafkaProducer(bootstrap_servers=broker)
        # It only looks at the group's offsets and never joins.
        self._observer = KafkaConsumer(bootstrap_servers=broker, group_id=self.group_id)

    def close(self) -> None:
        self._producer.close(timeout=DEADLINE_SECONDS)
        self._observer.close()

    def settings(self, **changes: Any) -> EncoderSettings:
        values: dict[str, Any] = {
            "kafka_bootstrap_servers": self.broker,
            "topic": self.topics.updates,
            "dead_letter_topic": self.topics.dead_letters,
            "group_id": self.group_id,
            "assignment": self.assignment,
            "retry_initial_seconds": 0.05,
            "retry_max_seconds": 0.2,
            "store_path": Path("unused"),
        }
        return EncoderSettings(**values | changes)

    def worker(self, **changes: Any) -> Worker:
        """A worker that is not started. All workers of a harness share its encoder, store and metrics."""
        return Worker(self.settings(**changes), self.encoder, self.outage, self._metrics)

    @contextmanager
    def running(self, **changes: Any) -> Iterator[Worker]:
        """A worker that runs while the block does and must end without an error."""
        worker = self.worker(**changes)
        worker.start()
        try:
            yield worker
        finally:
            worker.stop(DEADLINE_SECONDS)
        assert not worker.is_running
        assert worker.error is None

    def key(self, fact_id: str) -> bytes:
        """The key of the records about a fact."""
        return f"{self.namespace}/{fact_id}".encode()

    def publish(self, key: bytes | None, value: bytes | None, **options: Any) -> int:
        """Publishes a record, waits for its acknowledgement, and returns its offset."""
        future = self._producer.send(self.topics.updates, key=key, value=value, **options)
        offset: int = future.get(DEADLINE_SECONDS).offset
        return offset

    def publish_json(self, fact_id: str, event: dict[str, Any], **options: Any) -> int:
        """Publishes an event about a fact as JSON without a content type."""
        value = {"namespace": self.namespace, "factId": fact_id} | event
        return self.publish(self.key(fact_id), json.dumps(value).encode(), **options)

    def upsert(self, fact_id: str, statement: str, revision: int = 0, **options: Any) -> int:
        """Publishes a fact."""
        event = {"revision": revision, "upsert": {"statement": statement}}
        return self.publish_json(fact_id, event, **options)

    def retract(self, fact_id: str, revision: int = 0, **options: Any) -> int:
        """Publishes the retraction of a fact."""
        event = {"revision": revision, "retract": {"reason": "wrong"}}
        return self.publish_json(fact_id, event, **options)

    def statement(self, fact_id: str) -> str | None:
        """The stored statement of a fact, None if it is not there or retracted."""
        fact = self.store.get(self.namespace, fact_id)
        return None if fact is None or fact.retracted else fact.statement

    def fact(self, fact_id: str) -> Fact:
        """The stored fact or marker."""
        fact = self.store.get(self.namespace, fact_id)
        assert fact is not None
        return fact

    def count(self) -> int:
        """How many facts are stored and not retracted."""
        return self.store.count(self.namespace)

    def events(self, result: str) -> int:
        """The counter of finished events."""
        return int(self.sample("recipe_encoder_events_total", {"result": result}))

    def sample(self, name: str, labels: dict[str, str] | None = None) -> float:
        value = self.registry.get_sample_value(name, labels or {})
        assert value is not None
        return value

    def committed(self) -> int:
        """The sum of the group's committed offsets over the topic's partitions."""
        partitions = self._observer.partitions_for_topic(self.topics.updates)
        places = [TopicPartition(self.topics.updates, each) for each in partitions]
        return sum(self._observer.committed(place) or 0 for place in places)

    def dead_letters(self) -> list[Any]:
        """All records in the topic of the dead letters."""
        partition = TopicPartition(self.topics.dead_letters, 0)
        letters: list[Any] = []
        with KafkaConsumer(bootstrap_servers=self.broker, auto_offset_reset="earliest") as consumer:
            consumer.assign([partition])
            end = consumer.end_offsets([partition])[partition]
            deadline = time.monotonic() + DEADLINE_SECONDS
            while len(letters) < end:
                assert time.monotonic() < deadline
                letters.extend(consumer.poll(timeout_ms=500).get(partition, []))
            # Tansu's end offset does not count the last batch beyond its first record.
            letters.extend(consumer.poll(timeout_ms=100).get(partition, []))
        return letters
