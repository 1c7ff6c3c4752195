"""The knowledge base in this process: Qdrant's own engine on a directory, without a server (qdrant-edge)."""

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np
import qdrant_edge as edge
from numpy.typing import NDArray

from recipe_common.errors import FailedPreconditionError
from recipe_store.errors import StoreUnavailableError
from recipe_store.filters import Condition, Equals, InRange, Where
from recipe_store.payload import KEYWORD_FIELDS, VALIDITY_FIELDS, Field, Payload
from recipe_store.point_store import ConditionalPoint, PointStore
from recipe_store.schema import StoreSchema

METADATA_FILE: Final = "knowledge-base.json"
SHARD_FOLDER: Final = "shard"
FLUSH_EVERY: Final = 2_000  # writes; replaying as many takes a fraction of a second when the shard is opened

_WITHOUT_PROMPT: Final = edge.PayloadSelector.Exclude([Field.PROMPT.value])


def open_edge_store(path: Path, model_version: str, key_size: int, prompt_shape: tuple[int, int]) -> "EdgeStore":
    """Open the knowledge base in the directory `path`, creating it if there is none.

    Raises `FailedPreconditionError` if it was made for another model version or sizes, and
    `StoreUnavailableError` if another process has it open or it cannot be read.
    """
    schema = StoreSchema(model_version, key_size, prompt_shape)
    path.mkdir(parents=True, exist_ok=True)
    _claim(path, schema)
    with _edge_errors(path):
        shard = _open_shard(path / SHARD_FOLDER, key_size)
    return EdgeStore(shard, path, schema)


class EdgeStore(PointStore):
    """A `KnowledgeStore` on one qdrant-edge shard.

    The shard takes its own locks, so threads may read while one writes. It is searched exactly: a graph
    index is only built by `optimize`, which is never called, because an upsert reuses the place of the point
    that it replaces and leaves nothing to clean up.

    A write is durable once its write-ahead log is on disk. `flush` would see to that too, but it also writes
    some fifty files of the segments and holds the interpreter lock all the while, so it comes only now and
    then, to let the shard drop the old part of its log.
    """

    def __init__(self, shard: edge.EdgeShard, path: Path, schema: StoreSchema) -> None:
        super().__init__(schema)
        self._shard = shard
        self._path = path
        self._unflushed = 0  # writes that only the write-ahead log holds for certain

    def close(self) -> None:
        with _edge_errors(self._path):
            self._shard.close()

    def _upsert(self, points: Sequence[ConditionalPoint]) -> None:
        with _edge_errors(self._path):
            for point in points:
                stored = edge.Point(point.id, point.key.tolist(), point.payload)
                condition = _filter(point.replaces)
                self._shard.update(edge.UpdateOperation.upsert_points([stored], condition=condition))
            _sync_log(self._path / SHARD_FOLDER / "wal")
            self._unflushed += len(points)
            if self._unflushed >= FLUSH_EVERY:
                self._shard.flush()
                self._unflushed = 0

    def _nearest(
        self, query: NDArray[np.float32], where: Where, threshold: float | None, limit: int
    ) -> list[tuple[float, Payload]]:
        request = edge.QueryRequest(
            limit=limit,
            query=edge.Query.Nearest(query.tolist()),
            filter=_filter(where),
            score_threshold=threshold,
            with_payload=True,
        )
        with _edge_errors(self._path):
            return [(point.score, point.payload or {}) for point in self._shard.query(request)]

    def _fetch(self, ids: Sequence[str]) -> list[Payload]:
        with _edge_errors(self._path):
            records = self._shard.retrieve(list(ids), _WITHOUT_PROMPT, False)
        return [record.payload or {} for record in records]

    def _page(self, where: Where, limit: int, first_id: str | None) -> tuple[list[Payload], str | None]:
        request = edge.ScrollRequest(offset=first_id, limit=limit, filter=_filter(where), with_payload=_WITHOUT_PROMPT)
        with _edge_errors(self._path):
            records, following = self._shard.scroll(request)
        return [record.payload or {} for record in records], None if following is None else str(following)

    def _count(self, where: Where) -> int:
        with _edge_errors(self._path):
            return self._shard.count(edge.CountRequest(exact=True, filter=_filter(where)))


@contextmanager
def _edge_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # qdrant-edge raises nothing more specific
        raise StoreUnavailableError(
            f"the knowledge base in {path} cannot be used: {error}; "
            "check that no other process has it open and that its disk is writable and not full"
        ) from error


def _claim(path: Path, schema: StoreSchema) -> None:
    metadata = path / METADATA_FILE
    unfinished = metadata.with_suffix(".unfinished")
    if metadata.exists():
        stored = _read_metadata(metadata)
        fix = "configure another directory, or delete this one and rebuild it from the log"
        schema.require_same(stored, f"the knowledge base in {path}", fix)
    elif any(entry != unfinished for entry in path.iterdir()):
        raise FailedPreconditionError(
            f"{path} holds files but no {METADATA_FILE}, so it is not a knowledge base; configure another directory"
        )
    else:
        unfinished.write_text(json.dumps(schema.to_json()) + "\n", encoding="utf-8")
        unfinished.replace(metadata)


def _read_metadata(file: Path) -> dict[str, Any] | None:
    try:
        metadata: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        return None  # a power cut may have left it empty
    return metadata


def _sync_log(folder: Path) -> None:
    # On Linux this includes what was written through a memory map, which is how the log is written.
    # Files named tmp-* hold nothing yet: a thread of the shard prepares them and renames them at any moment.
    for path in (folder, *(path for path in folder.iterdir() if not path.name.startswith("tmp-"))):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _open_shard(path: Path, key_size: int) -> edge.EdgeShard:
    # `load` replays what the write-ahead log holds and the segments lack.
    vectors = edge.EdgeVectorParams(size=key_size, distance=edge.Distance.Dot)
    exists = (path / "edge_config.json").exists()
    path.mkdir(exist_ok=True)
    shard = edge.EdgeShard.load(str(path)) if exists else edge.EdgeShard.create(str(path), edge.EdgeConfig(vectors))
    _create_indexes(shard)
    return shard


def _create_indexes(shard: edge.EdgeShard) -> None:
    # The fields that order revisions need no index: they are only ever compared on a point named by its id.
    present = shard.info().payload_schema
    wanted: dict[Field, edge.KeywordIndexParams | edge.IntegerIndexParams] = {
        **{field: edge.KeywordIndexParams(is_tenant=field == Field.NAMESPACE) for field in KEYWORD_FIELDS},
        **{field: edge.IntegerIndexParams(lookup=False, range=True) for field in VALIDITY_FIELDS},
    }
    for field, params in wanted.items():
        if field.value not in present:
            shard.update(edge.UpdateOperation.create_field_index(field.value, params))


def _filter(where: Where) -> edge.Filter:
    return edge.Filter(
        must=[_condition(condition) for condition in where.must] or None,
        should=[_condition(condition) for condition in where.should] or None,
        must_not=[_condition(condition) for condition in where.must_not] or None,
    )


def _condition(condition: Condition) -> "edge.FieldCondition | edge.Filter":
    match condition:
        case Equals(field, value):
            return edge.FieldCondition(field.value, match=edge.MatchValue(value))
        case InRange(field, lt, lte, gt):
            return edge.FieldCondition(field.value, range=edge.RangeFloat(lt=lt, lte=lte, gt=gt))
        case Where():
            return _filter(condition)
