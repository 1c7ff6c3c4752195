"""A generator whose texts never end before their greatest length, so that engines and prompts are compared fairly.

`python -m bench.generation_server ENGINE RETRIEVER` serves as the product does, prints its port as JSON, and stops when
its input ends. It runs in the environment of its engine.
"""

import asyncio
import json
import sys
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import Any, cast

import torch

from generation_harness import in_front
from recipe_common.lifecycle import run_abandonable
from recipe_generator.engine import Decoding, Edit, Engine, Finish, Piece, Text, tokens_in_front
from recipe_generator.server import GeneratorServer, start_vllm
from recipe_generator.settings import GeneratorSettings
from recipe_generator.transformers_engine import TransformersEngine
from recipe_model.checkpoint import read_checkpoint
from recipe_model.language_model import LanguageModel
from recipe_model.outside_llm import OutsideLlm

ONE_BY_ONE, TRANSFORMERS, VLLM = "transformers_one_by_one", "transformers", "vllm"


class OneByOne:
    """What most would run: `generate` of transformers with its cache of keys and values, one request after another."""

    def __init__(self, llm: LanguageModel) -> None:
        self._llm = llm
        self._thread = ThreadPoolExecutor(1)  # the one that computes, as an engine's is
        self.max_tokens = llm.max_tokens
        self.kv_tokens = self.kv_tokens_taken = 0
        self.chats = llm.chats

    def token_ids(self, text: Text) -> list[int]:
        return (
            self._llm.token_ids(text) if isinstance(text, str) else self._llm.chat_ids([asdict(turn) for turn in text])
        )

    def tokens_in_front(self, edit: Edit) -> int:
        return tokens_in_front(self._llm, edit)

    async def write(self, edit: Edit | None, ids: list[int], decoding: Decoding) -> AsyncGenerator[Piece, None]:
        loop = asyncio.get_running_loop()
        new = await loop.run_in_executor(self._thread, self._generate, edit, ids, decoding.max_new_tokens)
        yield Piece(self._llm.text(new), len(new), Finish.LENGTH)

    async def failure(self) -> None:
        await asyncio.Event().wait()

    def stop(self) -> None:
        self._thread.shutdown()

    def _generate(self, edit: Edit | None, ids: list[int], tokens: int) -> list[int]:
        inputs = self._llm.inputs(None if edit is None else in_front(self._llm, edit), ids)
        with torch.inference_mode():
            model = cast("Any", self._llm.model)
            output: list[int] = model.generate(**inputs, max_new_tokens=tokens, do_sample=False)[0].tolist()
        return output[-tokens:]


def load(engine: str, settings: GeneratorSettings) -> Engine:
    """An engine whose LLM has no end-of-text token."""
    if engine == VLLM:
        outside = OutsideLlm.load()
        outside.end_ids = []
        return start_vllm(outside, settings.max_rows, settings.kv_cache_gib)
    llm = LanguageModel.load()
    config = llm.model.generation_config
    if engine == ONE_BY_ONE:
        config.eos_token_id = None
        return OneByOne(llm)
    config.eos_token_id = []
    return TransformersEngine(llm, settings.max_rows, settings.kv_cache_gib)


async def serve(load_engine: Callable[[GeneratorSettings], Engine], retriever: str) -> None:
    """Serve until the input ends."""
    settings = GeneratorSettings(port=0, metrics_port=0, retriever=retriever, request_seconds=600, drain_seconds=0)
    engine = await run_abandonable(lambda: load_engine(settings))  # as the product does it
    server = GeneratorServer(settings, engine, read_checkpoint())
    try:
        print(json.dumps({"port": await server.start()}), flush=True)
        await asyncio.to_thread(sys.stdin.read)
    finally:
        await server.stop()


if __name__ == "__main__":
    asyncio.run(serve(lambda settings: load(sys.argv[1], settings), sys.argv[2]))
