"""One store of each backend for a module's tests, which keep to namespaces of their own."""

import uuid
from collections.abc import Iterator

import pytest

from contract.store.backends import BACKENDS, Backend
from recipe_store.point_store import PointStore


@pytest.fixture(scope="module", params=list(BACKENDS))
def backend(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Backend]:
    with BACKENDS[request.param](tmp_path_factory.mktemp("store")) as backend:
        yield backend


@pytest.fixture(scope="module")
def store(backend: Backend) -> PointStore:
    return backend.store


@pytest.fixture
def namespace() -> str:
    return f"test-{uuid.uuid4()}"
