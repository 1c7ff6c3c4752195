import asyncio
import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from recipe_common.lifecycle import SIGNALS, run_abandonable, stop_event, unless_stopped
from recipe_common.settings import without_environment
from recipe_encoder.settings import EncoderSettings


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_first_signal_sets_the_event_and_the_second_one_is_not_caught(number: signal.Signals) -> None:
    before = {each: signal.getsignal(each) for each in SIGNALS}

    async def scenario() -> None:
        stop = stop_event()
        assert not stop.is_set()
        os.kill(os.getpid(), number)
        await asyncio.wait_for(stop.wait(), timeout=10)
        assert [signal.getsignal(each) for each in SIGNALS] == [signal.SIG_DFL, signal.SIG_DFL]

    try:
        asyncio.run(scenario())
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def test_blocking_work_is_left_when_the_stop_comes_first() -> None:
    finish = threading.Event()

    async def scenario() -> list[object]:
        stop = asyncio.Event()
        first = await unless_stopped(stop, lambda: 7)
        stop.set()
        return [first, await unless_stopped(stop, finish.wait)]

    assert asyncio.run(scenario()) == [7, None]
    finish.set()


def test_the_result_and_the_error_of_the_work_are_the_awaiters() -> None:
    assert asyncio.run(run_abandonable(lambda: 7)) == 7
    with pytest.raises(ZeroDivisionError):
        asyncio.run(run_abandonable(lambda: 1 // 0))
    with pytest.raises(SystemExit):
        asyncio.run(run_abandonable(sys.exit))


def test_the_end_of_the_loop_does_not_wait_for_abandoned_work() -> None:
    finish = threading.Event()

    async def abandon() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(run_abandonable(finish.wait), 0.05)

    started = time.monotonic()
    asyncio.run(abandon())
    assert time.monotonic() - started < 30  # it would wait for ever
    finish.set()


def test_settings_without_environment_are_given_or_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECIPE_ENCODER_TOPIC", "elsewhere")
    monkeypatch.setenv("RECIPE_ENCODER_QDRANT_URL", "http://127.0.0.1:6333")
    settings = without_environment(EncoderSettings)(store_path=Path("kb"), batch_size=3)
    assert (settings.topic, settings.batch_size, settings.qdrant_url) == ("recipe.knowledge-updates.v1", 3, None)
