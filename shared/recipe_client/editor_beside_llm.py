"""RECIPE's networks in a process that runs an LLM too, without slowing it down.

OpenMP, by which PyTorch uses several cores, keeps workers for every thread that has computed with it, for as long as
the thread lives. Once all workers outnumber the cores they wait for work asleep, not spinning: each step of the LLM,
which gives them hundreds of small pieces, then takes half as long again. So others compute in threads that end.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from recipe_model.editor import RecipeEditor
from recipe_model.encoded import EncodedFact, EncodedQuery

Result = TypeVar("Result")


class EditorBesideLlm(RecipeEditor):
    """Does what its base class does, in a thread of its own for each batch."""

    def encode(self, texts: Sequence[str]) -> list[EncodedFact]:
        """As of the base class."""
        encode = super().encode
        return _in_passing(lambda: encode(texts))

    def query(self, questions: Sequence[str]) -> list[EncodedQuery]:
        """As of the base class."""
        query = super().query
        if len(questions) == 1:  # too little for OpenMP, and a thread would take longer than it saves
            return query(questions)
        return _in_passing(lambda: query(questions))


def _in_passing(work: Callable[[], Result]) -> Result:
    with ThreadPoolExecutor(1, thread_name_prefix="encode") as thread:
        return thread.submit(work).result()
