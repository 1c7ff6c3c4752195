"""A whole deployment in one process that is traced."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from brokers import Topics, broker_kind
from generation_harness import MODEL_VERSION
from recipe_client.client import RecipeClient
from recipe_client.publishing import Publisher
from recipe_encoder.metrics import EncoderMetrics
from recipe_encoder.settings import EncoderSettings
from recipe_encoder.worker import Worker
from recipe_store.edge_store import EdgeStore, open_edge_store
from small_deployment import PROMPT_WIDTH, VECTOR_SIZE, Editor, answering, in_background
from tracing import Spans


class Deployment:
    """Its client and its publisher; the encoder runs only while `encoding` does."""

    def __init__(self, settings: EncoderSettings, store: EdgeStore, publisher: Publisher, client: RecipeClient) -> None:
        self.publisher = publisher
        self.client = client
        self.encoder_metrics = CollectorRegistry()
        self._settings = settings
        self._store = store

    def applied(self) -> int:
        """How many events have been applied."""
        return int(self.encoder_metrics.get_sample_value("recipe_encoder_events_total", {"result": "applied"}) or 0)

    @contextmanager
    def encoding(self) -> Iterator[None]:
        worker = Worker(self._settings, Editor(), self._store, EncoderMetrics(self.encoder_metrics))
        worker.start()
        try:
            yield
        finally:
            worker.stop(30)
        assert worker.error is None


@pytest.fixture
def deployment(spans: Spans, broker: str, topics: Topics, tmp_path: Path) -> Iterator[Deployment]:
    store = open_edge_store(tmp_path / "store", MODEL_VERSION, VECTOR_SIZE, PROMPT_WIDTH)
    settings = EncoderSettings(
        kafka_bootstrap_servers=broker,
        topic=topics.updates,
        assignment="manual" if broker_kind() == "tansu" else "group",
        store_path=Path("unused"),
    )
    with (
        in_background(answering(store)) as (_, __, address),
        Publisher(broker, topics.updates) as publisher,
        RecipeClient(generator=address) as client,
    ):
        yield Deployment(settings, store, publisher, client)
    store.close()
