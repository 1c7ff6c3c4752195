"""An encoder process that kills itself: `python -m integration.chaos.victim PLAN`, PLAN being a `Plan` as JSON.

Everything is real but the model, whose vectors are hashes, so that a process starts within a second.
"""

import os
import sys
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from signal import SIGKILL
from typing import Any, Literal

from prometheus_client import CollectorRegistry
from pydantic import BaseModel

from encoder_harness import PROMPT_WIDTH, VECTOR_SIZE, HashEncoder
from recipe_common.lifecycle import stop_on_signals
from recipe_encoder.consumer import LogConsumer
from recipe_encoder.metrics import EncoderMetrics
from recipe_encoder.settings import EncoderSettings
from recipe_encoder.worker import Worker
from recipe_store import FactWrite, StoreUnavailableError
from recipe_store.edge_store import EdgeStore, open_edge_store

MODEL_VERSION = "hash-1"

Stage = Literal["poll", "encode", "upsert", "commit"]


class Plan(BaseModel):
    """Where the process dies: at the `count`-th time `after` poll, encode or upsert, or before a commit."""

    settings: dict[str, Any]
    outage: Path  # the store is unavailable while this file exists
    stage: Stage | None = None  # None: it lives until it is told to stop
    count: int = 1


class Death:
    """Kills this process at the `count`-th call."""

    def __init__(self, count: int) -> None:
        self._left = count

    def __call__(self) -> None:
        self._left -= 1
        if self._left <= 0:
            os.kill(os.getpid(), SIGKILL)


class OutageStore(EdgeStore):
    """A store that can be taken away by a file."""

    outage: Path

    def write(self, writes: Sequence[FactWrite], *args: Any) -> None:
        if self.outage.exists():
            raise StoreUnavailableError("the test has taken the store away")
        super().write(writes, *args)


def arm(plan: Plan) -> None:
    """Let the process die as planned."""
    death = Death(plan.count)
    match plan.stage:
        case "poll":
            _after(LogConsumer, "poll", lambda records: death() if records else None)
        case "encode":
            _after(HashEncoder, "encode", lambda _: death())
        case "upsert":
            _after(OutageStore, "write", lambda _: death())
        case "commit":
            _before(LogConsumer, "finish", death)


def _before(owner: type, method: str, first: Callable[[], None]) -> None:
    original = getattr(owner, method)

    def call(*args: Any, **kwargs: Any) -> Any:
        first()
        return original(*args, **kwargs)

    setattr(owner, method, call)


def _after(owner: type, method: str, then: Callable[[Any], None]) -> None:
    original = getattr(owner, method)

    def call(*args: Any, **kwargs: Any) -> Any:
        result = original(*args, **kwargs)
        then(result)
        return result

    setattr(owner, method, call)


def main() -> None:
    plan = Plan.model_validate_json(sys.argv[1])
    arm(plan)
    settings = EncoderSettings(**plan.settings)
    assert settings.store_path is not None
    with closing(open_edge_store(settings.store_path, MODEL_VERSION, VECTOR_SIZE, PROMPT_WIDTH)) as store:
        store.__class__ = OutageStore
        store.outage = plan.outage  # type: ignore[attr-defined]
        Worker(settings, HashEncoder(), store, EncoderMetrics(CollectorRegistry()), stop=stop_on_signals()).run()


if __name__ == "__main__":
    main()
