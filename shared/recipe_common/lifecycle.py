"""Stopping a service in order."""

import asyncio
import signal


def stop_event() -> asyncio.Event:
    """An event that is set on the first SIGINT or SIGTERM.

    Call it in the running loop, before the service warms up, so that a stop during warm-up is in order too. A
    second signal ends the process at once, as if nobody had caught the first.
    """
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    signals = (signal.SIGINT, signal.SIGTERM)

    def on_signal() -> None:
        for number in signals:
            loop.remove_signal_handler(number)
        stop.set()

    for number in signals:
        loop.add_signal_handler(number, on_signal)
    return stop
