"""The store's rules, common to every backend; an adapter adds only how to reach its own."""

import math
import threading
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import Enum, auto
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from recipe_common.errors import FieldViolation, InvalidArgumentError
from recipe_store.crowd import CROWD_FACTS, CROWD_WIDTH, crowd_rise, rise_among
from recipe_store.facts import Fact, FactWrite, LogPosition, Match
from recipe_store.filters import Where, in_namespace, live, live_at, of_fact, older_than
from recipe_store.ordering import FactName, fact_name, fact_order, newest_writes, superseded_facts
from recipe_store.payload import (
    Field,
    Payload,
    epoch_microseconds,
    partition_id,
    point_id,
    position_payload,
    revision_id,
    to_fact,
    to_payload,
)
from recipe_store.prompt_codec import decode_prompt, stored_digest
from recipe_store.schema import StoreSchema
from recipe_store.store import FactPage, Facts, Matches, Prompt
from recipe_store.validation import require_query, require_writable

# A key's first numbers tell most of it. Whole keys and their first numbers are kept in two bits each beside float32.
# The nearest by either copy are candidates, whose whole keys are compared in float32. Of more facts than SCANNED_FACTS
# the copies are made anew, by what the keys look like.
#
# Facts that differ in little, such as those of a thousand servers, may crowd the right one out of the candidates by
# first numbers. Then CROWD_FACTS of these are near the best or the threshold, and whole keys find the candidates.
KEY: Final = "key"  # the vectors of a point, by name
LEADING: Final = "leading"
LEADING_NUMBERS: Final = 256
SCANNED_FACTS: Final = 10_000
LEADING_CANDIDATES: Final = 64
CANDIDATES: Final = 128  # by whole keys, and not less than
CANDIDATES_PER_FACT: Final = 4

# Of so many points and more, those of other namespaces are left out first; of fewer, that costs more than they do.
MANY_POINTS: Final = 200_000
RECOUNT_SECONDS: Final = 10.0


@dataclass(frozen=True, slots=True)
class ConditionalPoint:
    """A point to insert if it is new, or to put in the place of the stored one if that matches `replaces`."""

    id: str
    key: NDArray[np.float32]  # [R]
    payload: dict[str, object]
    replaces: Where

    @property
    def vectors(self) -> dict[str, Any]:
        """The key [R] and its leading part as lists of numbers, by name."""
        return {KEY: self.key.tolist(), LEADING: leading(self.key).tolist()}


class Part(Enum):
    """What is read of a payload; the prompt is most of it."""

    WITHOUT_PROMPT = auto()
    WITHOUT_PROMPT_DATA = auto()  # but with its digest
    WHOLE = auto()


class PointStore(ABC):
    """A `KnowledgeStore` over points: one per fact; a retraction marker has the zero vector as its key."""

    def __init__(self, schema: StoreSchema) -> None:
        self.model_version = schema.model_version
        self.key_size = schema.key_size
        self.prompt_shape = schema.prompt_shape
        self._schema = schema
        self._writing = threading.Lock()
        self._counted: tuple[float, int] | None = None  # all points, and when that was

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
                self._keep({revision_id(fact): to_payload(FactWrite(fact, None, None)) for fact in past})
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
                key=np.zeros(self.key_size, np.float32),
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
        query: NDArray[np.float32],
        *,
        namespace: str,
        as_of: datetime | None,
        limit: int = 1,
    ) -> Matches:
        """See `KnowledgeStore.search`."""
        require_query(query, limit, self._schema)
        where = live(namespace) if as_of is None else live_at(namespace, epoch_microseconds(as_of, "as_of"))
        # Each condition costs a backend about as much as the comparison of keys. The nearest mostly count, so what else
        # a fact must fulfil is looked at afterwards.
        near = self._nearest(query, in_namespace(namespace), None, limit)
        matches = self._counting(near, namespace, as_of)
        if len(matches) < limit and len(near) == limit:  # there may be more behind those that do not count
            matches = self._counting(self._nearest(query, where, None, limit), namespace, as_of)
        return matches

    def hit(
        self, query: NDArray[np.float32], *, namespace: str, as_of: datetime, threshold: float, crowd_weight: float
    ) -> Match | None:
        """See `KnowledgeStore.hit`."""
        require_query(query, 1, self._schema)
        epoch_microseconds(as_of, "as_of")
        threshold, width = float(np.float32(threshold)), self._crowd_width
        where = in_namespace(namespace)
        near = self._nearest_by_leading(query, where if self._holds_many() else None, threshold - width)
        if len(near) == CROWD_FACTS and near[-1][1] >= max(threshold, near[0][1]) - width:
            near = self._nearest(query, where, threshold - width, CROWD_FACTS)
        if not near or near[0][1] <= threshold:
            return None
        matches = self._best_and_rivals(near, threshold, crowd_weight, namespace, as_of)
        if not matches:
            matches = self.search(query, namespace=namespace, as_of=as_of, limit=CROWD_FACTS)
        if not matches or matches[0].similarity <= threshold + rise_among(matches, crowd_weight, self.key_size):
            return None
        return matches[0]

    def prompt(self, match: Match) -> Prompt | None:
        """See `KnowledgeStore.prompt`."""
        fact = match.fact
        payload = self._one(point_id(fact.namespace, fact.fact_id), Part.WHOLE)
        if payload is None or to_fact(payload) != fact:
            return None
        encoded = payload.get(Field.PROMPT)
        return decode_prompt(encoded, self.prompt_shape, namespace=fact.namespace, fact_id=fact.fact_id)

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
        self, query: NDArray[np.float32], where: Where, threshold: float | None, limit: int
    ) -> Sequence[tuple[str, float]]:
        """Ids and scores in float32, best first, of points at or above the threshold."""

    @abstractmethod
    def _nearest_by_leading(
        self, query: NDArray[np.float32], where: Where | None, threshold: float
    ) -> Sequence[tuple[str, float]]:
        """As `_nearest`, the CROWD_FACTS best of LEADING_CANDIDATES that the leading parts of keys find."""

    @abstractmethod
    def _points(self) -> int:
        """How many points there are, about."""

    @abstractmethod
    def _fetch(self, ids: Sequence[str], part: Part = Part.WITHOUT_PROMPT) -> Mapping[str, Payload]:
        """The payloads of those points that exist, by id."""

    @abstractmethod
    def _page(self, where: Where, limit: int, first_id: str | None) -> tuple[Sequence[Payload], str | None]:
        """Payloads, without prompts, in the order of ids from `first_id` on, and the id after them if any."""

    @abstractmethod
    def _count(self, where: Where) -> int:
        """How many points match, exactly."""

    def _best_and_rivals(
        self, near: Sequence[tuple[str, float]], threshold: float, crowd_weight: float, namespace: str, as_of: datetime
    ) -> Matches:
        """The best of points near a query, and its rivals if they may decide; nothing if these points do not tell.

        They do not if the best one does not count, or if others do not and more may be behind them. Each payload that
        is read costs time: where all points together would not raise the threshold too far, that of the best will do.
        """
        similarity = near[0][1]
        if similarity > threshold + crowd_rise([score for _, score in near], crowd_weight, self.key_size):
            wanted = near[:1]
        else:
            wanted = [(name, score) for name, score in near if score >= similarity - self._crowd_width]
        matches = self._counting(wanted, namespace, as_of)
        complete = len(matches) == len(wanted) or len(wanted) < CROWD_FACTS
        return matches if complete and matches and matches[0].similarity == similarity else []

    def _counting(self, near: Sequence[tuple[str, float]], namespace: str, as_of: datetime | None) -> Matches:
        """Those of the points, given by id and score, that are facts of the namespace, not retracted and valid then."""
        payloads = self._fetch([name for name, _ in near], Part.WITHOUT_PROMPT_DATA) if near else {}
        found = [(score, payloads[name]) for name, score in near if name in payloads]
        inside = [(score, payload) for score, payload in found if payload[Field.NAMESPACE] == namespace]
        facts = [(to_fact(payload), score, payload.get(Field.PROMPT)) for score, payload in inside]
        return [Match(fact, score, stored_digest(prompt)) for fact, score, prompt in facts if _holds(fact, as_of)]

    @property
    def _crowd_width(self) -> float:
        return CROWD_WIDTH * math.sqrt(self.key_size)

    def _holds_many(self) -> bool:
        now = time.monotonic()
        if self._counted is None or now - self._counted[0] >= RECOUNT_SECONDS:
            self._counted = (now, self._points())
        return self._counted[1] >= MANY_POINTS

    def _stored(self, names: Sequence[FactName]) -> dict[FactName, Fact]:
        payloads = self._fetch([point_id(*name) for name in names]) if names else {}
        return {fact_name(fact): fact for fact in map(to_fact, payloads.values())}

    def _one(self, name: str, part: Part = Part.WITHOUT_PROMPT) -> Payload | None:
        return self._fetch([name], part).get(name)

    def _to_point(self, write: FactWrite) -> ConditionalPoint:
        fact = write.fact
        return ConditionalPoint(
            id=point_id(fact.namespace, fact.fact_id),
            key=np.zeros(self.key_size, np.float32) if write.key is None else write.key,
            payload=to_payload(write),
            replaces=older_than(fact.revision, fact.position.offset),
        )


def vector_sizes(key_size: int) -> dict[str, int]:
    """How many numbers each vector of a point has, by name."""
    return {KEY: key_size, LEADING: min(LEADING_NUMBERS, key_size)}


def leading(vector: NDArray[np.float32]) -> NDArray[np.float32]:
    """The first numbers of a key or query [R], by which candidates are found."""
    return vector[:LEADING_NUMBERS]


def oversampling(limit: int) -> float:
    """How many candidates a search by whole keys has for each fact that is wanted."""
    return max(CANDIDATES / limit, CANDIDATES_PER_FACT)


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
