"""The serving side of the retrieval benchmark: a process with one retriever for each size of the base."""

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from qdrant_client import QdrantClient, models

from bench.base_of_facts import MISSES, NAMESPACE, NOW, Encoded, encode, fact_write, write
from recipe_model.editor import QueryVector, RecipeEditor
from recipe_retriever.server import RetrieverServer
from recipe_retriever.settings import RetrieverSettings
from recipe_store.crowd import CROWD_FACTS, crowd_rise
from recipe_store.edge_store import EdgeStore, open_edge_store

ENCODED: Final = 1_000
WRITES_PER_SECOND: Final = 50
DECISIONS: Final = 300
ROUNDS: Final = 40  # searches of each way
LOCAL_ROUNDS: Final = 10  # qdrant-client's local mode is slow
REST_SECONDS: Final = 0.01  # before each search: torch's threads spin for a while after a scan, on the next one's time

Keys = NDArray[np.float32]


def serve(pipe: Connection, folder: Path, sizes: Sequence[int]) -> None:
    """Build the bases, compare ways to search them, then serve them until told to stop."""
    editor = RecipeEditor.load()
    encoded = encode(editor, ENCODED)
    queries = query_vectors(editor, encoded)
    with ExitStack() as stack:
        bases: dict[int, tuple[EdgeStore, Keys]] = {}
        compared: dict[int, Any] = {}
        for size in sizes:
            begun = time.monotonic()
            store = open_edge_store(folder / str(size), editor.model_version, editor.key_size, editor.prompt_shape)
            stack.enter_context(closing(store))
            keys = encoded.keys_of(size)
            write(store, encoded, keys)
            written = time.monotonic()
            indexed = store.index()
            building = {"write_seconds": written - begun, "index_seconds": time.monotonic() - written}
            compared[size] = {**building, "indexed_facts": indexed, **compare(store, keys, queries)}
            bases[size] = (store, keys)
        pipe.send({"model_version": editor.model_version, "sizes": compared})
        asyncio.run(_serve(pipe, editor, encoded, bases))


def questions(encoded: Encoded) -> list[str]:
    """Half of them hit."""
    hits = [statement.prompt for statement in encoded.statements[:: len(encoded.statements) // DECISIONS * 2]]
    return [text for pair in zip(hits, MISSES * (len(hits) // len(MISSES) + 1), strict=False) for text in pair]


def query_vectors(editor: RecipeEditor, encoded: Encoded) -> list[QueryVector]:
    """The questions' vectors."""
    return [editor.query([text])[0] for text in questions(encoded)]


def compare(store: EdgeStore, keys: Keys, queries: Sequence[QueryVector]) -> dict[str, Any]:
    """Time of one search in ms, in turns, and how often the store decides as an exact comparison of all keys does."""
    table = torch.from_numpy(keys)

    def stored(query: QueryVector) -> str | None:
        found = store.hit(
            query.vector,
            namespace=NAMESPACE,
            as_of=NOW,
            threshold=query.threshold(len(keys)),
            crowd_weight=query.sentinel_crowd,
        )
        return None if found is None else found.fact.fact_id

    def full_scan(query: QueryVector) -> str | None:
        # As the reference implementation searches and decides: all products, and all of them sorted.
        scores, order = torch.sort(table @ torch.from_numpy(query.vector), descending=True)
        return str(int(order[0])) if float(scores[0]) > query.threshold(len(keys)) else None

    ways: dict[str, Callable[[QueryVector], object]] = {"store": stored, "full_scan": full_scan}
    seconds: dict[str, list[float]] = {name: [] for name in (*ways, "local_mode")}
    with closing(local_mode(keys)) as client:
        ways["local_mode"] = lambda query: client.query_points(
            NAMESPACE, query.vector, limit=1, score_threshold=query.threshold(len(keys))
        )
        for round_ in range(-3, ROUNDS):  # the first ones warm up
            query = queries[round_ % len(queries)]
            for name, way in ways.items():
                if name == "local_mode" and round_ >= LOCAL_ROUNDS:
                    continue
                time.sleep(REST_SECONDS)
                begun = time.perf_counter()
                way(query)
                if round_ >= 0:
                    seconds[name].append(time.perf_counter() - begun)
    exact = [exact_decision(query, keys) for query in queries]
    same = [stored(query) == decision for query, decision in zip(queries, exact, strict=True)]
    medians = {name: 1000 * float(np.median(each)) for name, each in seconds.items()}
    hits = sum(decision is not None for decision in exact)
    return {"search_ms": medians, "recall": float(np.mean(same)), "decisions": len(same), "hits": hits}


def exact_decision(query: QueryVector, keys: Keys) -> str | None:
    """The fact that a query hits by an exact comparison with all keys."""
    scores = keys @ query.vector
    best, *others = np.argsort(-scores)[:CROWD_FACTS]
    rivals = [row for row in others if row % ENCODED != best % ENCODED]  # those of like remainder state the same
    rise = crowd_rise(scores[[best, *rivals]].tolist(), query.sentinel_crowd, len(query.vector))
    return str(best) if scores[best] > query.threshold(len(keys)) + rise else None


def local_mode(keys: Keys) -> QdrantClient:
    """qdrant-client's own search in this process."""
    client = QdrantClient(":memory:")
    vectors = models.VectorParams(size=keys.shape[1], distance=models.Distance.DOT)
    client.create_collection(NAMESPACE, vectors_config=vectors)
    client.upload_collection(NAMESPACE, keys, ids=range(len(keys)))
    return client


async def _serve(
    pipe: Connection, editor: RecipeEditor, encoded: Encoded, bases: dict[int, tuple[EdgeStore, Keys]]
) -> None:
    servers = {
        size: RetrieverServer(RetrieverSettings(port=0, metrics_port=0, drain_seconds=1), editor, store)
        for size, (store, _) in bases.items()
    }
    try:
        ports = {size: await server.start() for size, server in servers.items()}
        pipe.send({size: (ports[size], server.metrics_port) for size, server in servers.items()})
        loop = asyncio.get_running_loop()
        while (size := await loop.run_in_executor(None, pipe.recv)) is not None:
            stop = threading.Event()
            writing = threading.Thread(target=_write_on, args=(stop, encoded, *bases[size]))
            writing.start()
            pipe.send("writing")
            await loop.run_in_executor(None, pipe.recv)
            stop.set()
            await loop.run_in_executor(None, writing.join)
            pipe.send("stopped")
    finally:
        for server in servers.values():
            await server.stop()


def _write_on(stop: threading.Event, encoded: Encoded, store: EdgeStore, keys: Keys) -> None:
    """Replace facts one by one, at a steady rate."""
    revision = time.monotonic_ns()  # higher than at the last time
    for number in range(len(keys)):
        if stop.wait(1 / WRITES_PER_SECOND):
            return
        store.write([fact_write(encoded, keys, number, revision)])
