"""All of the answer path in this process, with models so small that they say nothing sensible."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from threading import Thread
from typing import Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from generation_harness import MODEL_VERSION, generator
from recipe_generator.server import GeneratorServer
from recipe_generator.transformers_engine import TransformersEngine
from recipe_model.editor import QueryVector
from recipe_retriever.server import RetrieverServer
from recipe_retriever.settings import RetrieverSettings
from tiny_models import SIZES, make_language_model

KEY_SIZE: Final = 4
PROMPT_SHAPE: Final = (SIZES.prompt_tokens, SIZES.llm_hidden)

Open = TypeVar("Open")


class Editor:
    """A model to which every fact answers every question, but for those about something unknown."""

    model_version = MODEL_VERSION

    def encode(self, statements: Sequence[str]) -> tuple[NDArray[np.float32], NDArray[np.float16]]:
        keys = np.ones((len(statements), KEY_SIZE), np.float32)
        return keys, np.zeros((len(statements), *PROMPT_SHAPE), np.float16)

    def query(self, questions: Sequence[str]) -> list[QueryVector]:
        vector = np.full(KEY_SIZE, 10.0, np.float32)
        return [QueryVector(vector, 70.0 if "unknown" in question else 10.0) for question in questions]


@contextmanager
def in_background(context: AbstractAsyncContextManager[Open]) -> Iterator[Open]:
    """What is open in an event loop of its own thread."""
    loop = asyncio.new_event_loop()
    thread = Thread(target=loop.run_forever)
    thread.start()

    def run(coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, loop).result(60)

    try:
        opened = run(context.__aenter__())
        try:
            yield opened
        finally:
            run(context.__aexit__(None, None, None))
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@asynccontextmanager
async def answering(store: Any) -> AsyncIterator[tuple[RetrieverServer, GeneratorServer, str]]:
    """A retriever, a generator and its address."""
    retriever = RetrieverServer(RetrieverSettings(port=0, metrics_port=0, drain_seconds=0), Editor(), store)
    try:
        address = f"127.0.0.1:{await retriever.start()}"
        async with generator(TransformersEngine(make_language_model()), address) as (server, asked):
            yield retriever, server, asked
    finally:
        await retriever.stop()
