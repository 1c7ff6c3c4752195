"""The knowledge base in Qdrant: a server through its client, or the client's local mode.

A collection holds what one model version made of the facts; aliases name the current one of each version, and the
live one. What was superseded is kept in a collection of its own.
"""

import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from copy import copy
from typing import Any, Final

import grpc
import numpy as np
from numpy.typing import NDArray
from qdrant_client import QdrantClient, models
from qdrant_client.common.client_exceptions import QdrantException
from qdrant_client.http.exceptions import ApiException

from recipe_common.errors import FailedPreconditionError, FieldViolation, InvalidArgumentError, NotFoundError
from recipe_common.grpc_errors import describe_rpc_error
from recipe_store.errors import StoreUnavailableError
from recipe_store.filters import Condition, Equals, InRange, Where
from recipe_store.payload import (
    HISTORY_FIELDS,
    KEYWORD_FIELDS,
    ORDER_FIELDS,
    VALIDITY_FIELDS,
    Field,
    Part,
    Payload,
)
from recipe_store.point_store import VECTOR, ConditionalPoint, PointStore
from recipe_store.schema import StoreSchema

LIVE_ALIAS: Final = "facts-live"
HISTORY_COLLECTION: Final = "facts-history"  # without vectors, so common to all model versions
IN_MEMORY: Final = ":memory:"

_REFUSALS: Final = (grpc.RpcError, ApiException, QdrantException)
_READ: Final[Mapping[Part, models.PayloadSelectorExclude]] = {
    part: models.PayloadSelectorExclude(exclude=list(part.value)) for part in Part
}
_PAGE: Final = 100
_COLLECTION_SAFE: Final = re.compile(r"[A-Za-z0-9._-]{1,100}")


def open_client_store(
    location: str,
    model_version: str,
    vector_size: int,
    prompt_width: int,
    *,
    api_key: str | None = None,
    grpc_port: int = 6334,
    timeout_seconds: int = 5,
    must_be_live: bool = False,
) -> "ClientStore":
    """Open the knowledge base at `location`: a server's URL, a directory for local mode, or ":memory:".

    Raises `StoreUnavailableError` if the server does not answer and `FailedPreconditionError` if the model
    version's collection was made for other sizes or, with `must_be_live`, if another version's is the live one.
    """
    client = connect(location, api_key=api_key, grpc_port=grpc_port, timeout_seconds=timeout_seconds)
    return ClientStore(client, StoreSchema(model_version, vector_size, prompt_width), must_be_live=must_be_live)


def connect(
    location: str, *, api_key: str | None = None, grpc_port: int = 6334, timeout_seconds: int = 5
) -> QdrantClient:
    """A client of a server's URL, of a directory for local mode, or of ":memory:"; nothing is asked yet."""
    if location.startswith(("http://", "https://")):
        return QdrantClient(
            url=location, api_key=api_key, grpc_port=grpc_port, prefer_grpc=True, timeout=timeout_seconds
        )
    if location == IN_MEMORY:
        return QdrantClient(location)
    # The store's lock makes it safe to use local mode's SQLite connection from several threads.
    return QdrantClient(path=location, force_disable_check_same_thread=True)


class ClientStore(PointStore):
    """A `KnowledgeStore` in the current collection of one model version, created if there is none.

    The alias `facts-VERSION` names that collection, and every call goes through it: when the alias moves to a rebuilt
    collection, running services follow at once, and never to vectors of another version. The alias `facts-live` says
    which version answers. Only what `new_collection` returns goes to its collection by name.
    """

    def __init__(self, client: QdrantClient, schema: StoreSchema, *, must_be_live: bool = False) -> None:
        super().__init__(schema)
        options = client.init_options
        self._client = client
        self._location = _location(client)
        self._local = options["path"] is not None or options["location"] == IN_MEMORY
        # Local mode is plain Python without locks of its own.
        self._turn: AbstractContextManager[Any] = threading.Lock() if self._local else nullcontext()
        self._alias = _alias(schema.model_version)
        self._collection = self._alias
        if must_be_live:
            self._require_live()
        with self._calling():
            self._open_current()

    def live_collection(self) -> str | None:
        """The collection that is live, or None if none is."""
        with self._calling():
            return self._target(LIVE_ALIAS)

    def live_model_version(self) -> str | None:
        """The model version whose collection is live, or None if none is."""
        with self._calling():
            collection = self._target(LIVE_ALIAS)
            metadata = None if collection is None else _metadata(self._client, collection)
            return None if metadata is None else metadata["model_version"]

    @property
    def collection(self) -> str:
        """The collection that the calls go to now."""
        with self._calling():
            return self._target(self._collection) or self._collection

    def new_collection(self) -> "ClientStore":
        """The same base in a new, empty collection, which nobody sees until its `make_live`."""
        with self._calling():
            made = re.compile(rf"{re.escape(self._alias)}-(\d+)")
            names = [collection.name for collection in self._client.get_collections().collections]
            numbers = [int(found[1]) for name in names if (found := made.fullmatch(name))]
            name = f"{self._alias}-{max(numbers, default=0) + 1}"
            self._create_collection(name)
        beside = copy(self)
        beside._collection = name
        return beside

    def make_live(self) -> None:
        """Let the aliases name this store's collection, in one step; call it when the collection is complete."""
        collection = self.collection
        with self._calling():
            _point_aliases(self._client, [self._alias, LIVE_ALIAS], collection)

    def close(self) -> None:
        with self._calling():
            self._client.close()

    def _upsert(self, points: Sequence[ConditionalPoint]) -> None:
        operations = [
            models.UpsertOperation(
                upsert=models.PointsList(
                    points=[models.PointStruct(id=point.id, vector=point.vectors, payload=point.payload)],
                    update_filter=_filter(point.replaces),
                )
            )
            for point in points
        ]
        with self._calling():
            self._client.batch_update_points(self._collection, operations, wait=True)

    def _keep(self, superseded: Mapping[str, Payload]) -> None:
        points = [
            models.PointStruct(id=revision, vector={}, payload=dict(payload))
            for revision, payload in superseded.items()
        ]
        with self._calling():
            self._client.upsert(HISTORY_COLLECTION, points, wait=True, update_mode=models.UpdateMode.INSERT_ONLY)

    def _kept(self, where: Where) -> list[Payload]:
        found: list[Payload] = []
        following: Any = None
        while True:
            with self._calling():
                records, following = self._client.scroll(
                    HISTORY_COLLECTION, scroll_filter=_filter(where), limit=_PAGE, offset=following, with_payload=True
                )
            found += [record.payload or {} for record in records]
            if following is None:
                return found

    def _nearest(
        self, vector: NDArray[np.float32], where: Where, limit: int, above: float | None
    ) -> list[tuple[Payload, float]]:
        with self._calling():
            response = self._client.query_points(
                self._collection,
                query=vector.tolist(),
                using=VECTOR,
                query_filter=_filter(where),
                limit=limit,
                score_threshold=above,
                with_payload=_READ[Part.WITH_TOKENS],
            )
        return [(point.payload or {}, point.score) for point in response.points]

    def _fetch(self, ids: Sequence[str], part: Part = Part.FACT) -> dict[str, Payload]:
        with self._calling():
            records = self._client.retrieve(self._collection, ids, with_payload=_READ[part])
        return {str(record.id): record.payload or {} for record in records}

    def _page(self, where: Where, limit: int, first_id: str | None) -> tuple[list[Payload], str | None]:
        with self._calling():
            records, following = self._client.scroll(
                self._collection,
                scroll_filter=_filter(where),
                limit=limit,
                offset=first_id,
                with_payload=_READ[Part.FACT],
            )
        return [record.payload or {} for record in records], None if following is None else str(following)

    def _count(self, where: Where) -> int:
        with self._calling():
            return self._client.count(self._collection, count_filter=_filter(where), exact=True).count

    @contextmanager
    def _calling(self) -> Iterator[None]:
        with _refusals(self._client), self._turn:
            yield

    def _require_live(self) -> None:
        if (live := self.live_model_version()) not in (None, self.model_version):
            raise FailedPreconditionError(
                f"the live collection in Qdrant at {self._location} holds the vectors of model version {live}, and the "
                f"loaded checkpoint is {self.model_version}: load that version's checkpoint, or re-encode the facts "
                "with this one ('recipe rebuild')"
            )

    def _open_current(self) -> None:
        current = self._target(self._alias)
        if current is None:
            current = f"{self._alias}-1"
            if not self._client.collection_exists(current):
                self._create_collection(current)
            _point_aliases(self._client, [self._alias], current)
        if not self._client.collection_exists(HISTORY_COLLECTION):
            self._create(HISTORY_COLLECTION, vectors_config={})
        self._create_indexes(HISTORY_COLLECTION, _HISTORY_INDEXES)
        self._schema.require_same(
            _metadata(self._client, current),
            f"collection {current!r} in Qdrant at {self._location}",
            "delete that collection and rebuild it from the log",
        )
        if self._target(LIVE_ALIAS) is None:
            _point_aliases(self._client, [LIVE_ALIAS], current)

    def _create_collection(self, name: str) -> None:
        self._create(
            name,
            vectors_config={VECTOR: models.VectorParams(size=self.vector_size, distance=models.Distance.COSINE)},
            metadata=self._schema.to_json(),
        )
        self._create_indexes(name, _FACT_INDEXES)

    def _create(self, collection: str, **config: Any) -> None:  # noqa: ANN401 (what the client takes)
        try:
            self._client.create_collection(collection, **config)
        except _REFUSALS:
            # Another service may have created it at the same moment.
            if not self._client.collection_exists(collection):
                raise

    def _create_indexes(self, collection: str, schemas: Mapping[Field, models.PayloadSchemaParams]) -> None:
        if self._local:  # local mode has no indexes
            return
        present = self._client.get_collection(collection).payload_schema
        for field, schema in schemas.items():
            if field.value not in present:
                self._client.create_payload_index(collection, field.value, field_schema=schema)

    def _target(self, name: str) -> str | None:
        """The collection that an alias names."""
        aliases = self._client.get_aliases().aliases
        return next((alias.collection_name for alias in aliases if alias.alias_name == name), None)


def go_back_to(client: QdrantClient, collection: str) -> str:
    """Make a collection of facts the current one of its model version, and that version live; returns the version.

    Raises NotFoundError if there is no such collection, and StoreUnavailableError.
    """
    with _refusals(client):
        metadata = _metadata(client, collection) if client.collection_exists(collection) else None
        if metadata is None or "model_version" not in metadata:
            names = sorted(each.name for each in client.get_collections().collections)
            raise NotFoundError(f"{collection!r} is no collection of facts; there are {', '.join(names) or 'none'}")
        version: str = metadata["model_version"]
        _point_aliases(client, [_alias(version), LIVE_ALIAS], collection)
    return version


def _point_aliases(client: QdrantClient, names: Sequence[str], collection: str) -> None:
    operations: list[models.AliasOperations] = []
    for name in names:
        create = models.CreateAlias(collection_name=collection, alias_name=name)
        operations.append(models.DeleteAliasOperation(delete_alias=models.DeleteAlias(alias_name=name)))
        operations.append(models.CreateAliasOperation(create_alias=create))
    client.update_collection_aliases(operations)


@contextmanager
def _refusals(client: QdrantClient) -> Iterator[None]:
    # Whatever a server refuses, the arguments were checked before, so the fault is the server's state or
    # settings: the caller must wait for it to be put right, not drop its data.
    try:
        yield
    except _REFUSALS as error:
        reason = describe_rpc_error(error) if isinstance(error, grpc.RpcError) else str(error)
        raise StoreUnavailableError(
            f"Qdrant at {_location(client)} does not work: {reason}; start it, or correct its URL or API key"
        ) from error


def _location(client: QdrantClient) -> str:
    options = client.init_options
    return str(options["url"] or options["host"] or options["path"] or options["location"])


def _keyword(field: Field) -> models.KeywordIndexParams:
    return models.KeywordIndexParams(type=models.KeywordIndexType.KEYWORD, is_tenant=field == Field.NAMESPACE)


def _integer(field: Field) -> models.IntegerIndexParams:
    lookup = field in ORDER_FIELDS
    return models.IntegerIndexParams(type=models.IntegerIndexType.INTEGER, lookup=lookup, range=True)


_FACT_INDEXES: Final[Mapping[Field, models.PayloadSchemaParams]] = {
    **{field: _keyword(field) for field in KEYWORD_FIELDS},
    **{field: _integer(field) for field in VALIDITY_FIELDS + ORDER_FIELDS},
}
_HISTORY_INDEXES: Final[Mapping[Field, models.PayloadSchemaParams]] = {
    field: _keyword(field) for field in HISTORY_FIELDS
}


def _alias(model_version: str) -> str:
    if not _COLLECTION_SAFE.fullmatch(model_version):
        description = "must be 1 to 100 letters, digits, dots, dashes or underscores"
        raise InvalidArgumentError([FieldViolation("model_version", description)])
    return f"facts-{model_version}"


def _metadata(client: QdrantClient, collection: str) -> dict[str, Any] | None:
    return client.get_collection(collection).config.metadata or None


def _filter(where: Where) -> models.Filter:
    return models.Filter(
        must=[_condition(condition) for condition in where.must] or None,
        should=[_condition(condition) for condition in where.should] or None,
        must_not=[_condition(condition) for condition in where.must_not] or None,
    )


def _condition(condition: Condition) -> models.Condition:
    match condition:
        case Equals(field, value):
            return models.FieldCondition(key=field.value, match=models.MatchValue(value=value))
        case InRange(field, lt, lte, gt):
            return models.FieldCondition(key=field.value, range=models.Range(lt=lt, lte=lte, gt=gt))
        case Where():
            return _filter(condition)
