"""What only the store over qdrant-client must do: a collection per model version, the live alias, servers."""

import socket
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from httpx import Headers
from qdrant_client import QdrantClient
from qdrant_client.http.exceptions import UnexpectedResponse
from qdrant_client.models import Distance, VectorParams

from contract.store.samples import MODEL_VERSION, PROMPT_WIDTH, VECTOR_SIZE, axis, make_fact, make_write
from recipe_common.errors import FailedPreconditionError, InvalidArgumentError, NotFoundError
from recipe_store import StoreUnavailableError
from recipe_store.client_store import ClientStore, go_back_to, open_client_store
from recipe_store.schema import StoreSchema

NOW = datetime(2025, 6, 1, tzinfo=UTC)


def open_version(client: QdrantClient, model_version: str) -> ClientStore:
    return ClientStore(client, StoreSchema(model_version, VECTOR_SIZE, PROMPT_WIDTH))


def test_facts_are_there_after_reopening_a_directory(tmp_path: Path) -> None:
    fact = make_fact("n", "f", 2, 5)
    store = open_client_store(str(tmp_path), MODEL_VERSION, VECTOR_SIZE, PROMPT_WIDTH)
    store.write([make_write(fact)])
    store.close()
    reopened = open_client_store(str(tmp_path), MODEL_VERSION, VECTOR_SIZE, PROMPT_WIDTH)
    assert [match.fact for match in reopened.search(axis(0), namespace="n", as_of=NOW, limit=1)] == [fact]
    reopened.close()


def test_each_model_version_has_a_collection_of_its_own() -> None:
    client = QdrantClient(":memory:")
    first, second = open_version(client, "v1"), open_version(client, "v2")
    first.write([make_write(make_fact("n", "f", 1, 0))])
    assert (first.count("n"), second.count("n")) == (1, 0)
    assert {c.name for c in client.get_collections().collections} == {"facts-history", "facts-v1-1", "facts-v2-1"}


def test_the_first_version_is_live_until_another_is_made_live() -> None:
    client = QdrantClient(":memory:")
    first, second = open_version(client, "v1"), open_version(client, "v2")
    assert (first.live_model_version(), second.live_model_version()) == ("v1", "v1")
    second.make_live()
    assert (first.live_model_version(), second.live_model_version()) == ("v2", "v2")
    second.write([make_write(make_fact("n", "f", 1, 0))])
    assert client.count("facts-live").count == 1


def test_a_reader_of_another_version_than_the_live_one_is_refused_and_creates_nothing() -> None:
    client = QdrantClient(":memory:")
    schemas = {version: StoreSchema(version, VECTOR_SIZE, PROMPT_WIDTH) for version in ("v1", "v2")}
    ClientStore(client, schemas["v1"], must_be_live=True)  # the first of all becomes the live one
    with pytest.raises(
        FailedPreconditionError, match=r"holds the vectors of model version v1, and the loaded .* is v2"
    ):
        ClientStore(client, schemas["v2"], must_be_live=True)
    assert [collection.name for collection in client.get_collections().collections] == ["facts-v1-1", "facts-history"]
    ClientStore(client, schemas["v2"]).make_live()
    ClientStore(client, schemas["v2"], must_be_live=True)


def test_a_new_collection_is_seen_by_nobody_until_it_is_live() -> None:
    client = QdrantClient(":memory:")
    reader = open_version(client, "v1")
    reader.write([make_write(make_fact("n", "old", 1, 0))])
    rebuilt = reader.new_collection()
    rebuilt.write([make_write(make_fact("n", f"new {number}", 1, 0)) for number in range(2)])

    assert (reader.collection, rebuilt.collection, reader.count("n")) == ("facts-v1-1", "facts-v1-2", 1)
    rebuilt.make_live()
    assert (reader.collection, reader.count("n")) == ("facts-v1-2", 2)
    assert client.count("facts-v1-1").count == 1  # kept, to go back to


def test_a_collection_of_a_version_that_is_not_live_takes_over_from_the_live_one() -> None:
    client = QdrantClient(":memory:")
    old, new = open_version(client, "v1"), open_version(client, "v10")
    beside = new.new_collection()
    assert (new.collection, beside.collection) == ("facts-v10-1", "facts-v10-2")
    beside.make_live()
    assert (old.live_model_version(), old.collection, new.collection) == ("v10", "facts-v1-1", "facts-v10-2")


def test_one_can_go_back_to_a_collection_that_was_replaced() -> None:
    client = QdrantClient(":memory:")
    reader = open_version(client, "v1")
    reader.new_collection().make_live()
    open_version(client, "v2").make_live()
    assert go_back_to(client, "facts-v1-1") == "v1"
    assert (reader.collection, reader.live_collection(), reader.live_model_version()) == (
        "facts-v1-1",
        "facts-v1-1",
        "v1",
    )


def test_one_cannot_go_back_to_what_holds_no_facts() -> None:
    client = QdrantClient(":memory:")
    reader = open_version(client, "v1")
    for name in ("facts-v1-7", "facts-history"):
        with pytest.raises(NotFoundError) as error:
            go_back_to(client, name)
        assert str(error.value) == f"{name!r} is no collection of facts; there are facts-history, facts-v1-1"
    assert reader.live_collection() == "facts-v1-1"


def test_a_collection_of_other_sizes_is_refused() -> None:
    client = QdrantClient(":memory:")
    open_version(client, "v1")
    with pytest.raises(FailedPreconditionError) as error:
        ClientStore(client, StoreSchema("v1", VECTOR_SIZE, 2))
    assert str(error.value) == (
        "collection 'facts-v1-1' in Qdrant at :memory: was made for model version 'v1' "
        "(format 2, vector size 8, prompt width 4), but this service runs model version 'v1' "
        "(format 2, vector size 8, prompt width 2); "
        "delete that collection and rebuild it from the log"
    )


def test_a_collection_made_by_something_else_is_refused() -> None:
    client = QdrantClient(":memory:")
    client.create_collection("facts-v1-1", VectorParams(size=VECTOR_SIZE, distance=Distance.DOT))
    with pytest.raises(FailedPreconditionError, match="does not say which model version it was made for"):
        open_version(client, "v1")


def test_a_collection_that_another_service_creates_meanwhile_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    client = QdrantClient(":memory:")
    create = client.create_collection

    def create_after_another(*args: Any, **kwargs: Any) -> bool:
        create(*args, **kwargs)
        raise UnexpectedResponse(409, "Conflict", b"collection exists", Headers())

    monkeypatch.setattr(client, "create_collection", create_after_another)
    assert open_version(client, "v1").count("n") == 0


@pytest.mark.parametrize("model_version", ["", "v/1", "v 1", "v" * 101])
def test_a_version_that_cannot_name_a_collection_is_refused(model_version: str) -> None:
    with pytest.raises(InvalidArgumentError) as error:
        open_client_store(":memory:", model_version, VECTOR_SIZE, PROMPT_WIDTH)
    assert [violation.field for violation in error.value.violations] == ["model_version"]


@pytest.mark.filterwarnings("ignore:Failed to obtain server version")
def test_a_server_that_does_not_answer_is_unavailable() -> None:
    others = set(threading.enumerate())
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # bound but not listening, so that nobody else gets the port meanwhile
        port = closed.getsockname()[1]
        url = f"http://127.0.0.1:{port}"
        with pytest.raises(StoreUnavailableError, match=f"Qdrant at {url} does not work: UNAVAILABLE"):
            open_client_store(url, MODEL_VERSION, VECTOR_SIZE, PROMPT_WIDTH, grpc_port=port, timeout_seconds=2)
        for version_check in set(threading.enumerate()) - others:
            version_check.join(timeout=5)  # its warning must not fall into another test
