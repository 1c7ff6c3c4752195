"""All of the answer path in this process, with models so small that they say nothing sensible."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from threading import Thread
from typing import Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from generation_harness import MODEL_VERSION, generator
from recipe_common.token_states import TokenStates
from recipe_generator.server import GeneratorServer
from recipe_generator.transformers_engine import TransformersEngine
from recipe_model.decision import Decider
from recipe_model.encoded import EncodedFact, EncodedQuery
from recipe_retriever.server import RetrieverServer
from recipe_retriever.settings import RetrieverSettings
from tiny_models import SIZES, make_language_model

VECTOR_SIZE: Final = 4
PROMPT_WIDTH: Final = SIZES.llm_hidden
_VECTOR: Final = np.full(VECTOR_SIZE, 0.5, np.float32)
_UNKNOWN: Final = 1  # the id of the token of a question that nothing answers

Open = TypeVar("Open")


class Verifier:
    """To which every fact answers every question, but for those about something unknown."""

    def margins(self, query: TokenStates, facts: Sequence[TokenStates]) -> NDArray[np.float32]:
        return np.full(len(facts), -3.0 if _UNKNOWN in query.ids else 3.0, np.float32)


class Editor:
    """A model to which all texts are alike."""

    model_version = MODEL_VERSION

    def __init__(self) -> None:
        self.decider = Decider(Verifier())

    def encode(self, texts: Sequence[str]) -> list[EncodedFact]:
        prompt = np.zeros((SIZES.prompt_tokens, PROMPT_WIDTH), np.float16)
        return [EncodedFact(_VECTOR, _tokens(0), prompt) for _ in texts]

    def unknown_share(self, text: str) -> float:
        return 0.0

    def query(self, questions: Sequence[str]) -> list[EncodedQuery]:
        return [EncodedQuery(_VECTOR, _tokens(_UNKNOWN if "unknown" in question else 0)) for question in questions]


def _tokens(number: int) -> TokenStates:
    return TokenStates(np.array([number], np.int32), np.zeros(1, np.uint8), np.ones((1, VECTOR_SIZE), np.float16))


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
