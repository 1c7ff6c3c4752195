"""A knowledge base that is rebuilt from the log of a real broker, while it is asked."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from threading import Event

import pytest
from qdrant_client import QdrantClient

from contract.store.samples import make_fact, make_write
from encoder_harness import PROMPT_WIDTH, VECTOR_SIZE, EncoderHarness, HashEncoder, vector_of
from recipe_client import rebuild
from recipe_client.rebuild import Rebuild, Rebuilt
from recipe_common.errors import FailedPreconditionError, NotFoundError
from recipe_store import Match
from recipe_store.client_store import ClientStore, go_back_to
from recipe_store.schema import StoreSchema

NOW = datetime(2026, 6, 1, tzinfo=UTC)


def base_of(client: QdrantClient, version: str = "hash-1") -> ClientStore:
    return ClientStore(client, StoreSchema(version, VECTOR_SIZE, PROMPT_WIDTH))


@pytest.fixture
def client() -> QdrantClient:
    return QdrantClient(":memory:")


@pytest.fixture
def published(harness: EncoderHarness) -> EncoderHarness:
    """A log of 40 facts, ten of them superseded, five retracted, and a record that is no fact."""
    for number in range(40):
        harness.upsert(f"f{number}", f"statement {number}")
    for number in range(10):
        harness.upsert(f"f{number}", f"newer statement {number}")
    for number in range(35, 40):
        harness.retract(f"f{number}")
    harness.publish(b"x/y", b"nonsense")
    return harness


def rebuilt(harness: EncoderHarness, store: ClientStore, switched: Callable[[], None] = lambda: None) -> Rebuilt:
    return Rebuild(harness.broker, harness.topics.updates, HashEncoder(), store).run(switched)


def statements(harness: EncoderHarness, store: ClientStore) -> set[str]:
    facts, _ = store.list(harness.namespace, limit=100)
    return {fact.statement for fact in facts if not fact.retracted}


EXPECTED = {f"newer statement {number}" for number in range(10)} | {f"statement {number}" for number in range(10, 35)}


def test_the_live_base_is_rebuilt_from_the_log_and_the_damaged_one_kept(
    published: EncoderHarness, client: QdrantClient
) -> None:
    live = base_of(client)
    live.write([make_write(make_fact(published.namespace, "f0", 1, 1_000, statement="damaged"))])

    result = rebuilt(published, live)

    assert (result.collection, result.replaced) == ("facts-hash-1-2", "facts-hash-1-1")
    assert (result.events, result.refused, result.facts) == (56, 1, 35)
    assert statements(published, live) == EXPECTED
    assert [fact.statement for fact in live.history(published.namespace, "f0")][:2] == [
        "newer statement 0",
        "statement 0",
    ]
    assert go_back_to(client, result.replaced) == "hash-1"
    assert statements(published, live) == {"damaged"}


def test_queries_go_on_while_the_base_is_rebuilt(published: EncoderHarness, client: QdrantClient) -> None:
    live = base_of(client)
    rebuilt(published, live)

    def ask() -> list[Match]:
        return live.search(vector_of("statement 20"), namespace=published.namespace, as_of=NOW, limit=1)

    (before,) = ask()
    with asking(ask) as answers:
        rebuilt(published, live)
    assert len(answers) > 10
    assert all([match.fact for match in answer] == [before.fact] for answer in answers)


@contextmanager
def asking(ask: Callable[[], list[Match]]) -> Iterator[list[list[Match]]]:
    """Asks again and again in a thread; an error of it is raised at the end."""
    stop, answers = Event(), list[list[Match]]()

    def again() -> None:
        while not stop.is_set():
            answers.append(ask())
            time.sleep(0.002)  # local mode's lock would never come free for the rebuild

    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(again)
        try:
            yield answers
        finally:
            stop.set()
        asked.result()


def test_a_new_checkpoints_base_is_built_beside_the_old_ones_which_goes_on(
    published: EncoderHarness, client: QdrantClient
) -> None:
    old = base_of(client, "hash-0")
    rebuilt(published, old)
    new = base_of(client, "hash-1")

    result = rebuilt(published, new)

    assert (result.collection, result.replaced) == ("facts-hash-1-1", "facts-hash-0-2")
    assert new.live_model_version() == "hash-1"
    assert statements(published, old) == statements(published, new) == EXPECTED


def test_what_is_published_around_the_switch_is_not_lost(published: EncoderHarness, client: QdrantClient) -> None:
    live = base_of(client)

    def publish() -> None:
        published.upsert("late", "published right after the switch")

    rebuilt(published, live, switched=publish)
    assert "published right after the switch" in statements(published, live)


def test_a_base_that_is_not_what_the_log_says_is_not_switched_to(
    published: EncoderHarness, client: QdrantClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    live = base_of(client)
    monkeypatch.setattr(ClientStore, "count", lambda *_: 34)
    with pytest.raises(FailedPreconditionError) as error:
        rebuilt(published, live)
    assert str(error.value) == (
        f"'facts-hash-1-2' is not what {published.topics.updates} says: it holds 34 facts of namespace "
        f"{published.namespace!r}, not 35; nothing was switched. Does another encoder write to it?"
    )
    assert live.live_collection() == "facts-hash-1-1"


def test_a_sample_finds_a_fact_that_is_another_one(
    published: EncoderHarness, client: QdrantClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    live = base_of(client)
    other = make_fact(published.namespace, "f20", 0, 20, statement="another one")
    monkeypatch.setattr(ClientStore, "get", lambda *_: other)
    with pytest.raises(FailedPreconditionError, match="is another one; nothing was switched"):
        rebuilt(published, live)


def test_a_missing_topic_changes_nothing(published: EncoderHarness, client: QdrantClient) -> None:
    live = base_of(client)
    with pytest.raises(NotFoundError, match="does not exist"):
        Rebuild(published.broker, "no-such-topic", HashEncoder(), live).run()
    assert live.live_collection() == "facts-hash-1-1"


def test_more_records_than_one_batch_are_read(
    published: EncoderHarness, client: QdrantClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rebuild, "BATCH", 7)
    live = base_of(client)
    assert rebuilt(published, live).events == 56
    assert statements(published, live) == EXPECTED
