import asyncio
import threading
import time
from pathlib import Path

import pytest

from recipe_common.lifecycle import run_abandonable
from recipe_common.settings import without_environment
from recipe_encoder.settings import EncoderSettings


def test_the_result_and_the_error_of_the_work_are_the_awaiters() -> None:
    assert asyncio.run(run_abandonable(lambda: 7)) == 7
    with pytest.raises(ZeroDivisionError):
        asyncio.run(run_abandonable(lambda: 1 // 0))


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
