from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from recipe_store.edge_store import EdgeStore, open_edge_store
from retrieval_harness import MODEL_VERSION, PROMPT_WIDTH, VECTOR_SIZE


@pytest.fixture
def store(tmp_path: Path) -> Iterator[EdgeStore]:
    """An empty store."""
    opened = open_edge_store(tmp_path / "store", MODEL_VERSION, VECTOR_SIZE, PROMPT_WIDTH)
    yield opened
    opened.close()


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()
