"""Waiting for what happens elsewhere; imports nothing that a part of the product might lack."""

import time
from collections.abc import Callable

DEADLINE_SECONDS = 30.0


def wait_for(condition: Callable[[], bool], what: str, seconds: float = DEADLINE_SECONDS) -> None:
    """Polls until the condition holds, or fails at the deadline."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds:g} s in vain for {what}"
        time.sleep(0.01)
