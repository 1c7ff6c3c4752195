"""Which write of a fact is the newest: the one with the greatest (revision, log offset)."""

from collections.abc import Iterable, Mapping
from dataclasses import replace

from recipe_store.facts import Fact, FactWrite

FactName = tuple[str, str]  # namespace, fact id
Order = tuple[int, int]  # revision, offset

_NEVER_WRITTEN: Order = (0, -1)


def fact_name(fact: Fact) -> FactName:
    """What identifies a fact."""
    return fact.namespace, fact.fact_id


def unrevisioned_facts(writes: Iterable[FactWrite]) -> list[FactName]:
    """The facts of which some write has revision 0, whose stored order `newest_writes` therefore needs."""
    return list(dict.fromkeys(fact_name(write.fact) for write in writes if write.fact.revision == 0))


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

    `stored` holds the order of the `unrevisioned_facts` that exist. A fact whose writes all lose is left out;
    the others must still be compared with what is stored when they are applied.
    """
    order = dict(stored)
    newest: dict[FactName, FactWrite] = {}
    for write in writes:
        name = fact_name(write.fact)
        current = order.get(name, _NEVER_WRITTEN)
        revision = write.fact.revision or current[0]
        if (revision, write.fact.position.offset) > current:
            order[name] = (revision, write.fact.position.offset)
            newest[name] = replace(write, fact=replace(write.fact, revision=revision))
    return list(newest.values())
