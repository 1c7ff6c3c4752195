"""The store's rules, common to every backend; an adapter adds only how to reach its own."""

import threading
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from recipe_common.errors import FieldViolation, InvalidArgumentError
from recipe_store.errors import CorruptTokensError
from recipe_store.facts import DamagedMatch, Fact, FactWrite, LogPosition, Match
from recipe_store.filters import Where, in_namespace, live, live_at, of_fact, older_than
from recipe_store.ordering import FactName, fact_name, fact_order, newest_writes, superseded_facts
from recipe_store.payload import (
    Field,
    Part,
    Payload,
    epoch_microseconds,
    partition_id,
    point_id,
    position_payload,
    revision_id,
    to_fact,
    to_payload,
)
from recipe_store.prompt_codec import decode_prompt
from recipe_store.schema import StoreSchema
from recipe_store.sealed import stored_digest
from recipe_store.store import FactPage, Facts, Matches, Prompt
from recipe_store.token_cache import TokenCache
from recipe_store.token_codec import decode_tokens
from recipe_store.validation import require_search, require_writable

VECTOR: Final = "text"  # the one vector of a point, by name


@dataclass(frozen=True, slots=True)
class ConditionalPoint:
    """A point to insert if it is new, or to put in the place of the stored one if that matches `replaces`."""

    id: str
    vector: NDArray[np.float32] | None  # [h]; no search finds a point without
    payload: dict[str, object]
    replaces: Where

    @property
    def vectors(self) -> dict[str, Any]:
        """The vector [h] as a list of numbers, by name."""
        return {} if self.vector is None else {VECTOR: self.vector.tolist()}


class PointStore(ABC):
    """A `KnowledgeStore` over points: one per fact, of which a retraction marker has no vector."""

    def __init__(self, schema: StoreSchema) -> None:
        self.model_version = schema.model_version
        self.vector_size = schema.vector_size
        self.prompt_width = schema.prompt_width
        self._schema = schema
        self._writing = threading.Lock()
        self._tokens = TokenCache()

    def write(self, writes: Sequence[FactWrite], superseded: Sequence[Fact] = ()) -> None:
        """See `KnowledgeStore.write`.

        The backend compares and replaces in one step, so several processes may write. Only what the writes supersede,
        and the revision that a write of revision 0 takes over, is read beforehand. That is safe because every writer
        of a fact reads the same partition in order: what another one stores in between is either older than this
        write, or comes later in the log and wins over it in any case.

        The history comes first: after a crash in between, the same write finds the same revisions to keep.
        """
        require_writable(writes, self._schema)
        with self._writing:
            stored = self._stored(list(dict.fromkeys(fact_name(write.fact) for write in writes)))
            if past := superseded_facts([*superseded, *(write.fact for write in writes)], stored):
                self._keep({revision_id(fact): to_payload(FactWrite(fact, None, None, None)) for fact in past})
            orders = {name: fact_order(fact) for name, fact in stored.items()}
            points = [self._to_point(write) for write in newest_writes(writes, orders)]
            if points:
                self._upsert(points)

    def advance(self, applied: Sequence[LogPosition]) -> None:
        """See `KnowledgeStore.advance`."""
        furthest: dict[tuple[str, int], LogPosition] = {}
        for position in sorted(applied, key=lambda position: position.offset):
            furthest[position.topic, position.partition] = position
        points = [
            ConditionalPoint(
                id=partition_id(position.topic, position.partition),
                vector=None,
                payload=position_payload(position),
                replaces=older_than(0, position.offset),
            )
            for position in furthest.values()
        ]
        if points:
            self._upsert(points)

    def applied(self, topic: str, partition: int) -> int | None:
        """See `KnowledgeStore.applied`."""
        payload = self._one(partition_id(topic, partition))
        return None if payload is None else int(payload[Field.OFFSET])

    def search(
        self,
        vector: NDArray[np.float32],
        *,
        namespace: str,
        as_of: datetime | None,
        limit: int,
        min_similarity: float | None = None,
        damaged: Callable[[DamagedMatch], object] | None = None,
    ) -> Matches:
        """See `KnowledgeStore.search`."""
        require_search(vector, limit, min_similarity, self._schema)
        where = live(namespace) if as_of is None else live_at(namespace, epoch_microseconds(as_of, "as_of"))
        # Each condition costs a backend about as much as the comparison of vectors. The nearest mostly count, so what
        # else a fact must fulfil is looked at afterwards.
        above = _just_below(min_similarity)
        near = self._nearest(vector, in_namespace(namespace), limit, above)
        counting = _counting(near, as_of)
        if len(counting) < limit and len(near) == limit:  # there may be more behind those that do not count
            counting = _counting(self._nearest(vector, where, limit, above), as_of)
        return self._readable(counting, damaged)

    def prompt(self, match: Match) -> Prompt | None:
        """See `KnowledgeStore.prompt`."""
        fact = match.fact
        payload = self._one(point_id(fact.namespace, fact.fact_id), Part.WITH_PROMPT)
        if payload is None or to_fact(payload) != fact:
            return None
        encoded = payload.get(Field.PROMPT)
        return decode_prompt(encoded, self.prompt_width, namespace=fact.namespace, fact_id=fact.fact_id)

    def get(self, namespace: str, fact_id: str) -> Fact | None:
        """See `KnowledgeStore.get`."""
        payload = self._one(point_id(namespace, fact_id))
        return None if payload is None else to_fact(payload)

    def history(self, namespace: str, fact_id: str) -> Facts:
        """See `KnowledgeStore.history`."""
        newest = self._fetch([point_id(namespace, fact_id)])
        facts = map(to_fact, [*newest.values(), *self._kept(of_fact(namespace, fact_id))])
        # After a crash, or while a fact is being replaced, its newest revision may be in both places.
        once = {revision_id(fact): fact for fact in facts}
        return sorted(once.values(), key=fact_order, reverse=True)

    def list(self, namespace: str, *, limit: int, page_token: str = "") -> FactPage:
        """See `KnowledgeStore.list`; the order is that of the point ids."""
        if limit < 1:
            raise InvalidArgumentError([FieldViolation("limit", f"must be at least 1, is {limit}")])
        payloads, following = self._page(in_namespace(namespace), limit, _first_id(page_token))
        return [to_fact(payload) for payload in payloads], following or ""

    def count(self, namespace: str) -> int:
        """See `KnowledgeStore.count`."""
        return self._count(live(namespace))

    def empty(self, namespace: str) -> bool:
        """See `KnowledgeStore.empty`."""
        payloads, _ = self._page(live(namespace), 1, None)
        return not payloads

    @abstractmethod
    def close(self) -> None:
        """See `KnowledgeStore.close`."""

    @abstractmethod
    def _upsert(self, points: Sequence[ConditionalPoint]) -> None:
        """Apply each point by its own condition, atomically, and make all durable. Ids are distinct."""

    @abstractmethod
    def _keep(self, superseded: Mapping[str, Payload]) -> None:
        """Insert payloads by id into the history, which is common to all model versions, and make them durable.

        What is there already stays: an event that is read again may not find what it first superseded.
        """

    @abstractmethod
    def _kept(self, where: Where) -> Sequence[Payload]:
        """The payloads of the history that match."""

    @abstractmethod
    def _nearest(
        self, vector: NDArray[np.float32], where: Where, limit: int, above: float | None
    ) -> Sequence[tuple[Payload, float]]:
        """Payloads with tokens, and similarities strictly `above`, best first; points without vector are left out.

        A payload may have changed since the search, so that it need not match `where` any more.
        """

    @abstractmethod
    def _fetch(self, ids: Sequence[str], part: Part = Part.FACT) -> Mapping[str, Payload]:
        """The payloads of those points that exist, by id."""

    @abstractmethod
    def _page(self, where: Where, limit: int, first_id: str | None) -> tuple[Sequence[Payload], str | None]:
        """Payloads of facts in the order of ids from `first_id` on, and the id after them if any."""

    @abstractmethod
    def _count(self, where: Where) -> int:
        """How many points match, exactly."""

    def _readable(
        self, found: Sequence[tuple[Fact, Payload, float]], damaged: Callable[[DamagedMatch], object] | None
    ) -> Matches:
        """Matches of what was found; `damaged` hears of those whose tokens are corrupt, without it they raise."""
        matches = []
        for fact, payload, similarity in found:
            try:
                matches.append(self._match(fact, payload, similarity))
            except CorruptTokensError as error:
                if damaged is None:
                    raise
                damaged(DamagedMatch(fact, similarity, error))
        return matches

    def _match(self, fact: Fact, payload: Payload, similarity: float) -> Match:
        sealed = payload.get(Field.TOKENS)
        tokens = self._tokens.get(
            (fact.namespace, fact.fact_id, stored_digest(sealed)),
            lambda: decode_tokens(sealed, namespace=fact.namespace, fact_id=fact.fact_id),
        )
        return Match(fact, similarity, tokens, stored_digest(payload.get(Field.PROMPT)))

    def _stored(self, names: Sequence[FactName]) -> dict[FactName, Fact]:
        payloads = self._fetch([point_id(*name) for name in names]) if names else {}
        return {fact_name(fact): fact for fact in map(to_fact, payloads.values())}

    def _one(self, name: str, part: Part = Part.FACT) -> Payload | None:
        return self._fetch([name], part).get(name)

    def _to_point(self, write: FactWrite) -> ConditionalPoint:
        fact = write.fact
        return ConditionalPoint(
            id=point_id(fact.namespace, fact.fact_id),
            vector=write.vector,
            payload=to_payload(write),
            replaces=older_than(fact.revision, fact.position.offset),
        )


def _counting(near: Sequence[tuple[Payload, float]], as_of: datetime | None) -> list[tuple[Fact, Payload, float]]:
    """Those that are not retracted and are valid then."""
    facts = [(to_fact(payload), payload, similarity) for payload, similarity in near]
    return [found for found in facts if _holds(found[0], as_of)]


def _just_below(similarity: float | None) -> float | None:
    # Backends find what is strictly above a threshold, in float32.
    return None if similarity is None else float(np.nextafter(np.float32(similarity), np.float32(-np.inf)))


def _holds(fact: Fact, as_of: datetime | None) -> bool:
    # Needed behind a backend's filter too: a server scores points first and reads their payloads after.
    return not fact.retracted and (as_of is None or fact.valid_at(as_of))


def _first_id(page_token: str) -> str | None:
    if not page_token:
        return None
    try:
        return str(uuid.UUID(page_token))
    except ValueError as error:
        description = "must be empty or the token of the page before"
        raise InvalidArgumentError([FieldViolation("page_token", description)]) from error
