import asyncio
import os
import signal

import pytest

from recipe_common.lifecycle import stop_event


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_first_signal_sets_the_event_and_the_second_one_is_not_caught(number: signal.Signals) -> None:
    async def scenario() -> None:
        stop = stop_event()
        assert not stop.is_set()
        os.kill(os.getpid(), number)
        await asyncio.wait_for(stop.wait(), timeout=10)
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler

    asyncio.run(scenario())
