"""Which write of a fact is the newest: the one with the greatest (revision, log offset)."""

from collections.abc import Iterable, Iterator, Mapping
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


def mixed_facts(writes: Iterable[FactWrite]) -> set[FactName]:
    """The facts of which some writes have a revision and some have revision 0.

    Only for these does it depend on what is stored which of the writes is the newest.
    """
    kinds: dict[FactName, set[bool]] = {}
    for write in writes:
        kinds.setdefault(fact_name(write.fact), set()).add(write.fact.revision == 0)
    return {name for name, both in kinds.items() if len(both) > 1}


def newest_writes(writes: Iterable[FactWrite], stored: Mapping[FactName, Order]) -> list[FactWrite]:
    """Per fact the write that would stand after all of them were applied one by one, its revision resolved.

    `stored` holds the order of those facts that exist. A fact whose writes all lose is left out; the others must still
    be compared with what is stored when they are applied.
    """
    newest = newest_facts(((write.fact, write) for write in writes), stored)
    return [replace(write, fact=fact) for fact, write in newest.values()]


def newest_facts(events: Iterable[tuple[Fact, T]], stored: Mapping[FactName, Order]) -> dict[FactName, tuple[Fact, T]]:
    """The same for facts in the order of the log, each with whatever belongs to it."""
    return {fact_name(fact): (fact, item) for fact, item, wins in _resolved(events, stored) if wins}


def superseded_facts(facts: Iterable[Fact], stored: Mapping[FactName, Fact]) -> list[Fact]:
    """What the newest leave behind: stored revisions that were replaced, and facts that lost.

    A repetition of what stands, from the same place in the log, is neither.
    """
    standing = dict(stored)
    behind: list[Fact] = []
    orders = {name: fact_order(fact) for name, fact in stored.items()}
    for fact, _, wins in _resolved(((fact, None) for fact in facts), orders):
        before = standing.get(fact_name(fact))
        if wins:
            standing[fact_name(fact)] = fact
            behind.extend([] if before is None else [before])
        elif before is None or before.position != fact.position:
            behind.append(fact)
    return behind


def _resolved(events: Iterable[tuple[Fact, T]], stored: Mapping[FactName, Order]) -> Iterator[tuple[Fact, T, bool]]:
    """The facts one by one, revision 0 replaced by the one before it, and whether each wins over all before it."""
    order = dict(stored)
    for fact, item in events:
        name = fact_name(fact)
        current = order.get(name, _NEVER_WRITTEN)
        resolved = replace(fact, revision=fact.revision or current[0])
        wins = fact_order(resolved) > current
        if wins:
            order[name] = fact_order(resolved)
        yield resolved, item, wins
