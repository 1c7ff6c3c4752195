"""Reading one's own writes: waiting until the store has applied a place in the log."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final

from recipe_common.errors import FailedPreconditionError
from recipe_store import LogPosition

LONGEST_WAIT_SECONDS: Final = 30.0
POLL_SECONDS: Final = 0.02
# Of the caller's time, so that the answer, or the reason why there is none, still arrives.
KEPT_SECONDS: Final = 0.1


async def wait_until_applied(
    wanted: LogPosition,
    applied: Callable[[], Awaitable[int | None]],
    time_remaining: float | None,
) -> LogPosition:
    """Wait until a partition is applied up to an offset; returns how far it is then.

    `applied` asks the store for the partition; `time_remaining` is the caller's, in seconds, None without a deadline.
    Raises FailedPreconditionError, with how far the partition is, if it takes longer.
    """
    longest = LONGEST_WAIT_SECONDS if time_remaining is None else min(LONGEST_WAIT_SECONDS, time_remaining)
    deadline = time.monotonic() + longest - KEPT_SECONDS
    while True:
        offset = await applied()
        if offset is not None and offset >= wanted.offset:
            return LogPosition(wanted.topic, wanted.partition, offset)
        if time.monotonic() + POLL_SECONDS > deadline:
            far = "nothing of that partition is" if offset is None else f"that partition is up to {offset}"
            raise FailedPreconditionError(
                f"min_position: {wanted.topic}/{wanted.partition}/{wanted.offset} is not applied yet, {far}; "
                "ask again with a longer deadline, and see whether the encoder runs"
            )
        await asyncio.sleep(POLL_SECONDS)
