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
from recipe_model.decision import Decider
from recipe_model.editor import RecipeEditor
from recipe_model.encoded import EncodedQuery
from recipe_retriever.server import RetrieverServer
from recipe_retriever.settings import RetrieverSettings
from recipe_store.edge_store import EdgeStore, open_edge_store

ENCODED: Final = 1_000
WRITES_PER_SECOND: Final = 50
DECISIONS: Final = 300
ROUNDS: Final = 40  # searches of each way
LOCAL_ROUNDS: Final = 10  # qdrant-client's local mode is slow
REST_SECONDS: Final = 0.01  # before each search: torch's threads spin for a while after a scan, on the next one's time

Vectors = NDArray[np.float32]


def serve(pipe: Connection, folder: Path, sizes: Sequence[int]) -> None:
    """Build the bases, compare ways to search them, then serve them until told to stop."""
    editor = RecipeEditor.load()
    encoded = encode(editor, ENCODED)
    queries = [editor.query([text])[0] for text in questions(encoded)]
    with ExitStack() as stack:
        bases: dict[int, tuple[EdgeStore, Vectors]] = {}
        compared: dict[int, Any] = {}
        for size in sizes:
            begun = time.monotonic()
            store = open_edge_store(folder / str(size), editor.model_version, editor.vector_size, editor.prompt_width)
            stack.enter_context(closing(store))
            vectors = encoded.vectors_of(size)
            write(store, encoded, vectors)
            written = time.monotonic()
            indexed = store.index()
            building = {"write_seconds": written - begun, "index_seconds": time.monotonic() - written}
            compared[size] = {**building, "indexed_facts": indexed, **compare(store, vectors, queries, editor.decider)}
            bases[size] = (store, vectors)
        pipe.send({"model_version": editor.model_version, "sizes": compared})
        asyncio.run(_serve(pipe, editor, encoded, bases))


def questions(encoded: Encoded) -> list[str]:
    """Half of them hit."""
    hits = [statement.prompt for statement in encoded.statements[:: len(encoded.statements) // DECISIONS * 2]]
    return [text for pair in zip(hits, MISSES * (len(hits) // len(MISSES) + 1), strict=False) for text in pair]


def compare(store: EdgeStore, vectors: Vectors, queries: Sequence[EncodedQuery], decider: Decider) -> dict[str, Any]:
    """Time of one search in ms, in turns, and the share of an exact comparison's candidates that the store finds."""
    table = torch.from_numpy(vectors)
    limit, least = decider.candidates, decider.min_similarity

    def stored(query: EncodedQuery) -> set[str]:
        found = store.search(query.vector, namespace=NAMESPACE, as_of=NOW, limit=limit, min_similarity=least)
        return {match.fact.fact_id for match in found}

    def full_scan(query: EncodedQuery) -> set[str]:
        # As the reference implementation searches: all products, and all of them sorted.
        scores, order = torch.sort(table @ torch.from_numpy(query.vector), descending=True)
        return {str(int(row)) for row, score in zip(order[:limit], scores[:limit], strict=True) if score >= least}

    ways: dict[str, Callable[[EncodedQuery], object]] = {"store": stored, "full_scan": full_scan}
    seconds: dict[str, list[float]] = {name: [] for name in (*ways, "local_mode")}
    with closing(local_mode(vectors)) as client:
        ways["local_mode"] = lambda query: client.query_points(
            NAMESPACE, query.vector, limit=limit, score_threshold=least
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
    exact = [full_scan(query) for query in queries]
    shares = [len(stored(query) & wanted) / len(wanted) for query, wanted in zip(queries, exact, strict=True) if wanted]
    medians = {name: 1000 * float(np.median(each)) for name, each in seconds.items()}
    return {
        "search_ms": medians,
        "recall": float(np.mean(shares)),
        "searches": len(exact),
        "with_candidates": len(shares),
    }


def local_mode(vectors: Vectors) -> QdrantClient:
    """qdrant-client's own search in this process."""
    client = QdrantClient(":memory:")
    parameters = models.VectorParams(size=vectors.shape[1], distance=models.Distance.COSINE)
    client.create_collection(NAMESPACE, vectors_config=parameters)
    client.upload_collection(NAMESPACE, vectors, ids=range(len(vectors)))
    return client


async def _serve(
    pipe: Connection, editor: RecipeEditor, encoded: Encoded, bases: dict[int, tuple[EdgeStore, Vectors]]
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


def _write_on(stop: threading.Event, encoded: Encoded, store: EdgeStore, vectors: Vectors) -> None:
    """Replace facts one by one, at a steady rate."""
    revision = time.monotonic_ns()  # higher than at the last time
    for number in range(len(vectors)):
        if stop.wait(1 / WRITES_PER_SECOND):
            return
        store.write([fact_write(encoded, vectors, number, revision)])
