"""The knowledge base in this process: Qdrant's own engine on a directory, without a server (qdrant-edge)."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np
import qdrant_edge as edge
from numpy.typing import NDArray

from recipe_common.errors import FailedPreconditionError
from recipe_store.errors import StoreUnavailableError
from recipe_store.filters import Condition, Equals, InRange, Where
from recipe_store.payload import HISTORY_FIELDS, KEYWORD_FIELDS, VALIDITY_FIELDS, Field, Part, Payload
from recipe_store.point_store import VECTOR, ConditionalPoint, PointStore
from recipe_store.schema import StoreSchema

METADATA_FILE: Final = "knowledge-base.json"
SHARD_FOLDER: Final = "shard"
HISTORY_FOLDER: Final = "history"
FLUSH_EVERY: Final = 2_000  # operations; replaying as many takes a fraction of a second when the shard is opened

_PAGE: Final = 100
_IndexParams = edge.KeywordIndexParams | edge.IntegerIndexParams
# The fields that order revisions need no index: they are only ever compared on a point named by its id.
_FACT_INDEXES: Final[Mapping[Field, _IndexParams]] = {
    **{field: edge.KeywordIndexParams(is_tenant=field == Field.NAMESPACE) for field in KEYWORD_FIELDS},
    **{field: edge.IntegerIndexParams(lookup=False, range=True) for field in VALIDITY_FIELDS},
}
_HISTORY_INDEXES: Final[Mapping[Field, _IndexParams]] = {
    field: edge.KeywordIndexParams(is_tenant=field == Field.NAMESPACE) for field in HISTORY_FIELDS
}

_READ: Final[Mapping[Part, edge.PayloadSelector]] = {
    part: edge.PayloadSelector.Exclude(list(part.value)) for part in Part
}


def open_edge_store(path: Path, model_version: str, vector_size: int, prompt_width: int) -> "EdgeStore":
    """Open the knowledge base in the directory `path`, creating it if there is none.

    Raises `FailedPreconditionError` if it was made for another model version or sizes, and
    `StoreUnavailableError` if another process has it open or it cannot be read.
    """
    schema = StoreSchema(model_version, vector_size, prompt_width)
    path.mkdir(parents=True, exist_ok=True)
    _claim(path, schema)
    with _edge_errors(path):
        shard = _Shard(path / SHARD_FOLDER, _fact_config(vector_size), _FACT_INDEXES)
        # A shard cannot do without a vector, and the history has none to keep.
        no_vector = edge.EdgeVectorParams(size=1, distance=edge.Distance.Dot)
        history = _Shard(path / HISTORY_FOLDER, edge.EdgeConfig(no_vector), _HISTORY_INDEXES)
    return EdgeStore(shard, history, path, schema)


class EdgeStore(PointStore):
    """A `KnowledgeStore` on two qdrant-edge shards: the facts, and what they superseded.

    A shard takes its own locks, so threads may read while one writes. Nothing but `index` calls `optimize`, because an
    upsert reuses the place of the point that it replaces and leaves nothing to clean up.
    """

    def __init__(self, facts: "_Shard", history: "_Shard", path: Path, schema: StoreSchema) -> None:
        super().__init__(schema)
        self._facts = facts
        self._history = history
        self._path = path

    def index(self) -> int:
        """Build the index of what is stored, if that is enough to need one; returns how many facts are in it.

        The engine calls it enough from 10 MB of vectors on. Nothing in this process runs meanwhile, as the engine keeps
        the interpreter lock: several seconds for 10,000 facts.
        """
        with _edge_errors(self._path):
            self._facts.engine.optimize()
            return int(self._facts.engine.info().indexed_vectors_count)

    def close(self) -> None:
        with _edge_errors(self._path):
            self._facts.engine.close()
            self._history.engine.close()

    def _upsert(self, points: Sequence[ConditionalPoint]) -> None:
        with _edge_errors(self._path):
            self._facts.apply(
                [
                    edge.UpdateOperation.upsert_points(
                        [edge.Point(point.id, point.vectors, point.payload)], condition=_filter(point.replaces)
                    )
                    for point in points
                ]
            )

    def _keep(self, superseded: Mapping[str, Payload]) -> None:
        points = [edge.Point(revision, [0.0], dict(payload)) for revision, payload in superseded.items()]
        insert = edge.UpdateOperation.upsert_points(points, update_mode=edge.UpdateMode.InsertOnly)
        with _edge_errors(self._path):
            self._history.apply([insert])

    def _kept(self, where: Where) -> list[Payload]:
        found: list[Payload] = []
        following: Any = None
        while True:
            request = edge.ScrollRequest(offset=following, limit=_PAGE, filter=_filter(where), with_payload=True)
            with _edge_errors(self._path):
                records, following = self._history.engine.scroll(request)
            found += [record.payload or {} for record in records]
            if following is None:
                return found

    def _nearest(
        self, vector: NDArray[np.float32], where: Where, limit: int, above: float | None
    ) -> list[tuple[Payload, float]]:
        request = edge.QueryRequest(
            limit=limit,
            query=edge.Query.Nearest(vector.tolist(), using=VECTOR),
            filter=_filter(where),
            score_threshold=above,
            with_payload=False,  # a call of its own takes half the time
        )
        with _edge_errors(self._path):
            scores = {str(point.id): point.score for point in self._facts.engine.query(request)}
        payloads = self._fetch(list(scores), Part.WITH_TOKENS) if scores else {}
        return [(payloads[name], score) for name, score in scores.items() if name in payloads]

    def _fetch(self, ids: Sequence[str], part: Part = Part.FACT) -> dict[str, Payload]:
        with _edge_errors(self._path):
            records = self._facts.engine.retrieve(list(ids), _READ[part], False)
        return {str(record.id): record.payload or {} for record in records}

    def _page(self, where: Where, limit: int, first_id: str | None) -> tuple[list[Payload], str | None]:
        request = edge.ScrollRequest(offset=first_id, limit=limit, filter=_filter(where), with_payload=_READ[Part.FACT])
        with _edge_errors(self._path):
            records, following = self._facts.engine.scroll(request)
        return [record.payload or {} for record in records], None if following is None else str(following)

    def _count(self, where: Where) -> int:
        with _edge_errors(self._path):
            return self._facts.engine.count(edge.CountRequest(exact=True, filter=_filter(where)))


class _Shard:
    """One shard of the engine and its durability.

    A write is durable once the write-ahead log is on disk. `flush` would see to that too, but it also writes
    some fifty files of the segments and holds the interpreter lock all the while, so it comes only now and
    then, to let the shard drop the old part of its log.
    """

    def __init__(self, path: Path, config: edge.EdgeConfig, indexes: Mapping[Field, _IndexParams]) -> None:
        self.engine = _open_shard(path, config, indexes)
        self._log = path / "wal"
        self._unflushed = 0  # operations that only the write-ahead log holds for certain

    def apply(self, operations: Sequence[edge.UpdateOperation]) -> None:
        """Apply the operations in their order; on return they are durable."""
        for operation in operations:
            self.engine.update(operation)
        _sync_log(self._log)
        self._unflushed += len(operations)
        if self._unflushed >= FLUSH_EVERY:
            self.engine.flush()
            self._unflushed = 0


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


def _open_shard(path: Path, config: edge.EdgeConfig, indexes: Mapping[Field, _IndexParams]) -> edge.EdgeShard:
    # `load` replays what the write-ahead log holds and the segments lack.
    exists = (path / "edge_config.json").exists()
    path.mkdir(exist_ok=True)
    open_ = edge.EdgeShard.load if exists else edge.EdgeShard.create
    shard = open_(str(path), config)
    present = shard.info().payload_schema
    for field, params in indexes.items():
        if field.value not in present:
            shard.update(edge.UpdateOperation.create_field_index(field.value, params))
    return shard


def _fact_config(vector_size: int) -> edge.EdgeConfig:
    return edge.EdgeConfig({VECTOR: edge.EdgeVectorParams(size=vector_size, distance=edge.Distance.Cosine)})


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
