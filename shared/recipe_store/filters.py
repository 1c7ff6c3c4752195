"""The conditions the store is asked to apply, said once for every backend; each adapter translates them."""

from dataclasses import dataclass

from recipe_store.payload import LIVE, Field, revision_halves


@dataclass(frozen=True, slots=True)
class Equals:
    """The field holds this value."""

    field: Field
    value: str | int


@dataclass(frozen=True, slots=True)
class InRange:
    """The field holds a number within the bounds; a field without a value is in no range."""

    field: Field
    lt: int | None = None
    lte: int | None = None
    gt: int | None = None


@dataclass(frozen=True, slots=True)
class Where:
    """All of `must`, at least one of `should` if there are any, none of `must_not`."""

    must: tuple["Condition", ...] = ()
    should: tuple["Condition", ...] = ()
    must_not: tuple["Condition", ...] = ()


Condition = Equals | InRange | Where


def in_namespace(namespace: str) -> Where:
    """Every fact of the namespace, retraction markers included."""
    return Where(must=(Equals(Field.NAMESPACE, namespace),))


def of_fact(namespace: str, fact_id: str) -> Where:
    """Everything that is kept of one fact."""
    return Where(must=(Equals(Field.NAMESPACE, namespace), Equals(Field.FACT_ID, fact_id)))


def live(namespace: str) -> Where:
    """The facts of the namespace that are not retracted."""
    return Where(must=(Equals(Field.NAMESPACE, namespace), Equals(Field.STATE, LIVE)))


def live_at(namespace: str, moment: int) -> Where:
    """The facts of the namespace that are not retracted and valid at `moment`, in microseconds since 1970."""
    # Said by what rules a fact out, because an unbounded end is stored as no value.
    expired = (InRange(Field.VALID_FROM, gt=moment), InRange(Field.VALID_UNTIL, lte=moment))
    return Where(must=live(namespace).must, must_not=expired)


def older_than(revision: int, offset: int) -> Where:
    """Stored (revision, offset) < this one; in halves, because backends compare numbers as doubles."""
    high, low = revision_halves(revision)
    same_high = Equals(Field.REVISION_HIGH, high)
    same_low = Equals(Field.REVISION_LOW, low)
    return Where(
        should=(
            InRange(Field.REVISION_HIGH, lt=high),
            Where(must=(same_high, InRange(Field.REVISION_LOW, lt=low))),
            Where(must=(same_high, same_low, InRange(Field.OFFSET, lt=offset))),
        )
    )
