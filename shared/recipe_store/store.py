"""The interface of the knowledge base, whatever holds it."""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from recipe_store.facts import DamagedMatch, Fact, FactWrite, LogPosition, Match

# Named here because inside the class below `list` is its method.
Matches = list[Match]
Facts = list[Fact]
Prompt = NDArray[np.float16]
FactPage = tuple[list[Fact], str]


class KnowledgeStore(Protocol):
    """Facts of any number of namespaces, encoded by one model version.

    One store may be used by several threads. Every call raises `StoreUnavailableError` when the backend does
    not answer, and `InvalidArgumentError` when an argument can never be accepted.
    """

    model_version: str
    vector_size: int  # h
    prompt_width: int  # d

    def write(self, writes: Sequence[FactWrite], superseded: Sequence[Fact] = ()) -> None:
        """Make the writes durable; per fact the newest wins, whatever the order, batching or repetition.

        A write replaces what is stored exactly when (stored revision, stored offset) < (revision, offset).
        Revision 0 takes the stored revision first, so that it wins by its place in the log alone. What is replaced,
        or comes too late, stays in the fact's history; so do the `superseded`, which need no vectors because writes of
        the same call replace them.
        """
        ...

    def advance(self, applied: Sequence[LogPosition]) -> None:
        """Record that every event of these partitions up to these positions has had its effect; never goes back."""
        ...

    def applied(self, topic: str, partition: int) -> int | None:
        """The offset up to which events of a partition have had their effect, None if that was never recorded."""
        ...

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
        """The facts valid at `as_of` whose vectors are the most similar to `vector` [h] by cosine, best first.

        None as `as_of` finds all that are not retracted, valid or not. With `min_similarity` none are found that are
        less similar; where nothing is near, nothing is transferred.

        A fact found whose token states are not what was written is left out and told to `damaged`, also best first; it
        counts towards `limit`. Without `damaged` it raises `CorruptTokensError`.
        """
        ...

    def prompt(self, match: Match) -> Prompt | None:
        """The checked prompt p_k [l, d] of a match, or None if another revision has replaced it since the search.

        Raises `CorruptPromptError` if the prompt is not what was written.
        """
        ...

    def get(self, namespace: str, fact_id: str) -> Fact | None:
        """The newest revision, which may be a retraction marker, or None if the fact was never written."""
        ...

    def history(self, namespace: str, fact_id: str) -> Facts:
        """All known revisions of a fact, newest first, retraction markers included; empty if it was never written."""
        ...

    def list(self, namespace: str, *, limit: int, page_token: str = "") -> FactPage:
        """A page of facts, live and retracted, in a fixed order, and the next page's token, "" at the end."""
        ...

    def count(self, namespace: str) -> int:
        """How many facts are not retracted, whether or not they are valid now."""
        ...

    def empty(self, namespace: str) -> bool:
        """Whether `count` is 0, without counting."""
        ...

    def close(self) -> None:
        """Release the backend; the store cannot be used afterwards."""
        ...
