"""Which write of a fact is the newest: the one with the greatest (revision, log offset)."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

from recipe_store.facts import Fact, FactWrite

FactName = tuple[str, str]  # namespace, fact id
Order = tuple[int, int]  # revision, offset

_NEVER_WRITTEN: Order = (0, -1)


def fact_name(fact: Fact) -> FactName:
    """What identifies a fact."""
    return fact.namespace, fact.fact_id


def newest_writes(writes: Iterable[FactWrite], stored: Mapping[FactName, Fact]) -> list[FactWrite]:
    """Per fact the write that would stand after all of them were applied one by one, its revision resolved.

    `stored` holds the facts among them that exist. A fact whose writes all lose is left out; the others must still
    be compared with what is stored when they are applied.
    """
    return list({fact_name(write.fact): write for write, wins in _resolved(writes, stored) if wins}.values())


def superseded_facts(writes: Iterable[FactWrite], stored: Mapping[FactName, Fact]) -> list[Fact]:
    """What `newest_writes` leaves behind: stored revisions that were replaced, and writes that lost.

    A repetition of what stands, from the same place in the log, is neither.
    """
    newest = dict(stored)
    behind: list[Fact] = []
    for write, wins in _resolved(writes, stored):
        name = fact_name(write.fact)
        before = newest.get(name)
        if wins:
            newest[name] = write.fact
            behind.extend([] if before is None else [before])
        elif before is None or before.position != write.fact.position:
            behind.append(write.fact)
    return behind


def _resolved(writes: Iterable[FactWrite], stored: Mapping[FactName, Fact]) -> Iterator[tuple[FactWrite, bool]]:
    """The writes one by one, revision 0 replaced by the one before it, and whether each wins over all before it."""
    order: dict[FactName, Order] = {name: (fact.revision, fact.position.offset) for name, fact in stored.items()}
    for write in writes:
        name = fact_name(write.fact)
        current = order.get(name, _NEVER_WRITTEN)
        revision = write.fact.revision or current[0]
        wins = (revision, write.fact.position.offset) > current
        if wins:
            order[name] = (revision, write.fact.position.offset)
        yield replace(write, fact=replace(write.fact, revision=revision)), wins
