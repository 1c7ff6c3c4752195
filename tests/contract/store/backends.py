"""The backends of the store that the contract suite runs over."""

import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest
import qdrant_edge as edge

from contract.store.samples import MODEL_VERSION, PROMPT_WIDTH, VECTOR_SIZE
from recipe_store.client_store import IN_MEMORY, ClientStore, open_client_store
from recipe_store.edge_store import EdgeStore, open_edge_store
from recipe_store.payload import point_id
from recipe_store.point_store import PointStore


@dataclass(frozen=True)
class Backend:
    """An open store, and a way to change a stored payload behind its back."""

    store: PointStore
    overwrite: Callable[[str, dict[str, Any]], None]  # point id, fields

    def tamper(self, namespace: str, fact_id: str, fields: dict[str, Any]) -> None:
        self.overwrite(point_id(namespace, fact_id), fields)


@contextmanager
def edge_backend(path: Path) -> Iterator[Backend]:
    with closing(open_edge_store(path, MODEL_VERSION, VECTOR_SIZE, PROMPT_WIDTH)) as store:
        yield _edge(store)


@contextmanager
def memory_backend(_: Path) -> Iterator[Backend]:
    with closing(open_client_store(IN_MEMORY, MODEL_VERSION, VECTOR_SIZE, PROMPT_WIDTH)) as store:
        yield _client(store)


@contextmanager
def directory_backend(path: Path) -> Iterator[Backend]:
    with closing(open_client_store(str(path), MODEL_VERSION, VECTOR_SIZE, PROMPT_WIDTH)) as store:
        yield _client(store)


@contextmanager
def server_backend(_: Path) -> Iterator[Backend]:
    url = os.environ.get("RECIPE_TEST_QDRANT_URL")
    if not url:
        pytest.skip("RECIPE_TEST_QDRANT_URL names no live Qdrant server")
    with closing(open_client_store(url, f"contract-{uuid.uuid4()}", VECTOR_SIZE, PROMPT_WIDTH)) as store:
        yield _client(store)
        store._client.delete_collection(store.collection)


BACKENDS: Final = {
    "edge": edge_backend,
    "client-memory": memory_backend,
    "client-directory": directory_backend,
    "server": server_backend,
}


def _edge(store: EdgeStore) -> Backend:
    def overwrite(point: str, fields: dict[str, Any]) -> None:
        store._facts.engine.update(edge.UpdateOperation.set_payload([point], fields))

    return Backend(store, overwrite)


def _client(store: ClientStore) -> Backend:
    def overwrite(point: str, fields: dict[str, Any]) -> None:
        store._client.set_payload(store._collection, fields, points=[point], wait=True)

    return Backend(store, overwrite)
