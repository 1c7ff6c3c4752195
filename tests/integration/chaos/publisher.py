"""Load for the chaos test: changes of facts as upstream systems publish them, good and bad."""

import json
import random
import time
from threading import Event, Thread
from typing import Any

from kafka import KafkaProducer
from kafka.errors import KafkaError

NAMESPACE = "chaos"
FACTS = 200
# What publishers do, and how often.
KINDS = {"upsert": 70, "retract": 12, "repeat": 10, "stale": 5, "malformed": 3}


class Publisher:
    """Publishes in a thread of its own until it is stopped; every second fact counts its revisions."""

    def __init__(self, bootstrap_servers: str, topic: str, seed: str, events_per_second: float) -> None:
        self._producer = KafkaProducer(
            bootstrap_servers=bootstrap_servers,
            acks="all",
            delivery_timeout_ms=120_000,
            max_block_ms=60_000,
            reconnect_backoff_max_ms=1_000,
        )
        self._topic = topic
        self._random = random.Random(seed)
        self._pause = 1 / events_per_second
        self._revisions = dict.fromkeys(range(FACTS), 0)
        self._last: dict[int, bytes] = {}
        self._stop = Event()
        self._thread = Thread(target=self._publish, name="publisher")
        self.acknowledged: list[tuple[int, int]] = []  # partition, offset
        self.error: KafkaError | None = None

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Returns when everything sent is acknowledged; raises the error of an event that was not."""
        self._stop.set()
        self._thread.join()
        self._producer.flush(120)
        self._producer.close()
        if self.error is not None:
            raise self.error

    def _publish(self) -> None:
        while not self._stop.is_set():
            fact = self._random.randrange(FACTS)
            (kind,) = self._random.choices(list(KINDS), list(KINDS.values()))
            value = self._value(kind, fact)
            future = self._producer.send(self._topic, key=f"{NAMESPACE}/fact-{fact}".encode(), value=value)
            future.add_callback(lambda sent: self.acknowledged.append((sent.partition, sent.offset)))
            future.add_errback(self._fail)
            time.sleep(self._pause)

    def _value(self, kind: str, fact: int) -> bytes:
        if kind == "malformed":
            return b'{"namespace": "chaos", "statement"'
        if kind == "repeat" and fact in self._last:
            return self._last[fact]
        event: dict[str, Any] = {"namespace": NAMESPACE, "fact_id": f"fact-{fact}"}
        if fact % 2:
            if kind == "stale" and self._revisions[fact] > 1:
                event["revision"] = self._random.randrange(1, self._revisions[fact])
            else:
                self._revisions[fact] += 1
                event["revision"] = self._revisions[fact]
        if kind == "retract":
            event["retract"] = {"reason": "chaos"}
        else:
            event["upsert"] = {"statement": f"fact {fact} says {self._random.random()}"}
        self._last[fact] = json.dumps(event).encode()
        return self._last[fact]

    def _fail(self, error: KafkaError) -> None:
        self.error = error
