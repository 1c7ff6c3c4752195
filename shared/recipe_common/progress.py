"""A bar for work that takes minutes, on standard error: standard output is for results."""

from collections.abc import Iterable
from typing import TypeVar

from rich.console import Console
from rich.progress import track

Item = TypeVar("Item")


def with_progress(items: Iterable[Item], what: str, total: float | None = None) -> Iterable[Item]:
    """The items, with a bar that names `what` is done to them; `total` counts items that do not know their number."""
    return track(items, what, total, console=Console(stderr=True))
