"""Starting and stopping a service in order."""

import asyncio
import signal
from collections.abc import Callable
from contextlib import suppress
from threading import Event, Thread
from types import FrameType
from typing import Any, TypeVar

SIGNALS = (signal.SIGINT, signal.SIGTERM)

Result = TypeVar("Result")


def stop_event() -> asyncio.Event:
    """An event that is set on the first SIGINT or SIGTERM.

    Call it in the running loop, before the service warms up, so that a stop during warm-up is in order too. A
    second signal ends the process at once, as if nobody had caught the first.
    """
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()

    def on_signal() -> None:
        for number in SIGNALS:
            loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_DFL)  # SIGINT's own would wait for threads that are running
        stop.set()

    for number in SIGNALS:
        loop.add_signal_handler(number, on_signal)
    return stop


def stop_on_signals() -> Event:
    """As `stop_event`, for a service without an event loop."""
    stop = Event()

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        for number in SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        stop.set()

    for number in SIGNALS:
        signal.signal(number, on_signal)
    return stop


async def run_abandonable(work: Callable[[], Result]) -> Result:
    """Run blocking work in a thread that the end of the process does not wait for, unlike `asyncio.to_thread`.

    For loading a model, which takes longer than a user who presses Ctrl-C waits.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Result] = loop.create_future()

    def settle(how: Callable[[Any], None], outcome: object) -> None:
        if not future.done():
            how(outcome)

    def run() -> None:
        how: Callable[[Any], None] = future.set_result
        try:
            outcome: object = work()
        except BaseException as error:  # noqa: BLE001 (it is raised where the result is awaited)
            how, outcome = future.set_exception, error
        with suppress(RuntimeError):  # the loop has been closed: nobody waits any more
            loop.call_soon_threadsafe(settle, how, outcome)

    Thread(target=run, daemon=True).start()
    return await future


async def unless_stopped(stop: asyncio.Event, work: Callable[[], Result]) -> Result | None:
    """The result of blocking work, or None if `stop` is set first; the work is then abandoned."""
    working = asyncio.ensure_future(run_abandonable(work))
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait([working, stopping], return_when=asyncio.FIRST_COMPLETED)
    if working.done():
        stopping.cancel()
        return working.result()
    working.cancel()
    return None
