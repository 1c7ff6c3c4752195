"""The harness of these tests."""

from collections.abc import Iterator

import pytest

from brokers import Topics, broker_kind
from encoder_harness import PROMPT_WIDTH, VECTOR_SIZE, EncoderHarness
from recipe_store.edge_store import EdgeStore, open_edge_store


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EdgeStore]:
    opened = open_edge_store(tmp_path_factory.mktemp("store") / "edge", "hash-1", VECTOR_SIZE, PROMPT_WIDTH)
    yield opened
    opened.close()


@pytest.fixture
def assignment() -> str:
    """The kind of assignment that the broker is good at."""
    return "manual" if broker_kind() == "tansu" else "group"


@pytest.fixture
def harness(broker: str, topics: Topics, store: EdgeStore, assignment: str) -> Iterator[EncoderHarness]:
    made = EncoderHarness(broker, topics, store, assignment)
    yield made
    made.close()
