"""Which write of a fact is the newest: the one with the greatest (revision, log offset)."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TypeVar

from recipe_store.facts import Fact, FactWrite

FactName = tuple[str, str]  # namespace, fact id
Order = tuple[int, int]  # revision, offset
T = TypeVar("T")

_NEVER_WRITTEN: Order = (0, -1)


def fact_name(fact: Fact) -> FactName:
    """What identifies a fact."""
    return fact.namespace, fact.fact_id


def fact_order(fact: Fact) -> Order:
    """What decides between two events of one fact, once the revision is resolved."""
    return fact.revision, fact.position.offset


def unrevisioned_facts(writes: Iterable[FactWrite]) -> list[FactName]:
    """The facts of which some write has revision 0, whose stored order `newest_writes` therefore needs."""
    return list(dict.fromkeys(fact_name(write.fact) for write in writes if write.fact.revision == 0))


def newest_writes(writes: Iterable[FactWrite], stored: Mapping[FactName, Order]) -> list[FactWrite]:
    """Per fact the write that would stand after all of them were applied one by one, its revision resolved.

    `stored` holds the order of the `unrevisioned_facts` that exist. A fact whose writes all lose is left out;
    the others must still be compared with what is stored when they are applied.
    """
    newest = newest_facts(((write.fact, write) for write in writes), stored)
    return [replace(write, fact=fact) for fact, write in newest.values()]


def newest_facts(events: Iterable[tuple[Fact, T]], stored: Mapping[FactName, Order]) -> dict[FactName, tuple[Fact, T]]:
    """The same for facts in the order of the log, each with whatever belongs to it."""
    order = dict(stored)
    newest: dict[FactName, tuple[Fact, T]] = {}
    for fact, item in events:
        name = fact_name(fact)
        current = order.get(name, _NEVER_WRITTEN)
        resolved = replace(fact, revision=fact.revision or current[0])
        if fact_order(resolved) > current:
            order[name] = fact_order(resolved)
            newest[name] = (resolved, item)
    return newest
