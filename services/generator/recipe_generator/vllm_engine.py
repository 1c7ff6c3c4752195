"""The LLM in processes of vLLM's own, fed with embeddings that were made here.

vLLM decides which texts each step takes, and its products' sums depend on that: unlike the transformers engine it does
not promise a text the bits that it gets alone. Sampling settings that vLLM cannot combine with embeddings (penalties,
logprobs of the prompt) are never set, whatever the LLM's own generation settings say.
"""

import asyncio
import logging
import os
import uuid
from collections.abc import AsyncGenerator, Coroutine
from contextlib import aclosing, suppress
from dataclasses import asdict
from threading import Lock, Thread
from typing import Any, Final, TypeVar

# Read when vLLM is imported: it would report its use to a server on the internet, log in a format of its own at length,
# and start its processes as forks of this one, whose threads they would not have.
os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
os.environ.setdefault("VLLM_WORKER_MULTIPROC_METHOD", "spawn")
# The model runner that CPUs have; the other one takes logits processors of another kind.
os.environ.setdefault("VLLM_USE_V2_MODEL_RUNNER", "0")

from vllm import SamplingParams
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.inputs import EngineInput, embeds_input, tokens_input
from vllm.platforms import current_platform
from vllm.sampling_params import RequestOutputKind
from vllm.v1.engine.async_llm import AsyncLLM

from recipe_generator.engine import Decoding, Edit, Piece, Text, tokens_in_front
from recipe_generator.text_stream import TextStream, failed, stopping
from recipe_generator.vllm_copying import PROCESSOR, copying_argument
from recipe_model.errors import ModelUnavailableError
from recipe_model.outside_llm import OutsideLlm

logger = logging.getLogger(__name__)

_LOOK_SECONDS: Final = 1.0  # between two looks at whether vLLM's processes live
_TRIAL: Final = Decoding(max_new_tokens=8)

Result = TypeVar("Result")


class VllmEngine:
    """Writes up to `max_rows` texts at once, whose keys and values share `kv_cache_gib`; further ones wait inside vLLM.

    Raises ModelUnavailableError if vLLM cannot run the LLM, or does not write from its word embeddings what it writes
    from its ids.
    """

    def __init__(self, llm: OutsideLlm, max_rows: int = 32, kv_cache_gib: float = 1.0) -> None:
        self._llm = llm
        self._end_ids = frozenset(llm.end_ids)
        self._submitting = Lock()  # guards _stopped
        self._stopped = False
        self._tasks: set[asyncio.Task[None]] = set()  # of the thread's loop
        self._failed = asyncio.Event()
        # vLLM stays with the event loop that it was started in; this one lives as long as the engine.
        self._loop = asyncio.new_event_loop()
        self._thread = Thread(target=self._loop.run_forever, name="vllm", daemon=True)
        self._thread.start()
        try:
            self._vllm = self._in_thread(_start(llm, max_rows, kv_cache_gib))
        except BaseException:
            self._end_thread()
            raise
        try:
            self._in_thread(self._try_embeddings())
        except BaseException:
            self.stop()
            raise

    @property
    def max_tokens(self) -> int:
        """As the protocol says."""
        return self._llm.max_tokens

    @property
    def kv_tokens(self) -> int:
        """0: vLLM divides the memory by itself."""
        return 0

    @property
    def kv_tokens_taken(self) -> int:
        """0, as `kv_tokens`."""
        return 0

    def token_ids(self, text: Text) -> list[int]:
        """As the protocol says."""
        if isinstance(text, str):
            return self._llm.token_ids(text)
        return self._llm.chat_ids([asdict(turn) for turn in text])

    @property
    def chats(self) -> bool:
        """As the protocol says."""
        return self._llm.chats

    def tokens_in_front(self, edit: Edit) -> int:
        """As the protocol says."""
        return tokens_in_front(self._llm, edit)

    async def write(self, edit: Edit | None, ids: list[int], decoding: Decoding) -> AsyncGenerator[Piece, None]:
        """As the protocol says, but for company: tokens that are about equally likely may change places in it."""
        stream = TextStream(self._llm, decoding, self._end_ids)
        with self._submitting:
            if self._stopped:
                raise stopping()
            future = asyncio.run_coroutine_threadsafe(self._write(stream, edit, ids, decoding), self._loop)
        try:
            async for piece in stream.pieces():
                yield piece
        finally:
            future.cancel()

    async def failure(self) -> None:
        """As the protocol says; from then on at once, if vLLM's processes have died."""
        while not (self._failed.is_set() or self._vllm.errored):
            with suppress(TimeoutError):
                await asyncio.wait_for(self._failed.wait(), _LOOK_SECONDS)
        self._failed.clear()

    def stop(self) -> None:
        """As the protocol says."""
        with self._submitting:
            if self._stopped:
                return
            self._stopped = True
        self._in_thread(self._end())
        self._end_thread()

    async def _write(self, stream: TextStream, edit: Edit | None, ids: list[int], decoding: Decoding) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 (run as one)
        self._tasks.add(task)
        try:
            async for token in self._tokens(self._input(edit, ids), decoding, self._extra(edit)):
                stream.add(token)
                if stream.over:
                    return
            raise RuntimeError("vLLM ended a text before its end")  # noqa: TRY301
        except asyncio.CancelledError:
            stream.fail(stopping())
            raise
        except Exception:  # the thread's boundary: this text fails, others live on
            logger.exception("vLLM failed on a text")
            stream.fail(failed())
            stream.in_loop(self._failed.set)
        finally:
            self._tasks.discard(task)

    def _input(self, edit: Edit | None, ids: list[int]) -> EngineInput:
        """Ids for a text alone, as plain vLLM would get it; embeddings, made here and nowhere else, behind a prompt."""
        if edit is None or edit.prompt is None:
            return tokens_input(ids)
        return embeds_input(self._llm.embed(edit.prompt, ids, edit.statement))

    def _extra(self, edit: Edit | None) -> dict[str, Any] | None:
        """What vLLM's processes need to help the text to state the edit's answer."""
        if edit is None or not edit.answer or not edit.copying:
            return None
        return copying_argument(self._llm.copying_arguments(edit.statement, edit.answer, self._llm.end_ids))

    async def _tokens(
        self, asked: EngineInput, decoding: Decoding, extra: dict[str, Any] | None = None
    ) -> AsyncGenerator[int, None]:
        """Tokens up to the LLM's end or the greatest number; closing it takes the text out of vLLM's next step."""
        outputs = self._vllm.generate(asked, _sampling(decoding, self._end_ids, extra), str(uuid.uuid4()))
        async with aclosing(outputs):
            async for output in outputs:
                for token in output.outputs[0].token_ids:
                    yield token

    async def _try_embeddings(self) -> None:
        """Word embeddings, read off the LLM's files, must mean to vLLM what the ids mean."""
        ids = self._llm.token_ids("The quick brown fox")
        asked = (tokens_input(ids), embeds_input(self._llm.embed(None, ids)))
        by_ids, by_embeddings = [[token async for token in self._tokens(each, _TRIAL)] for each in asked]
        if by_ids != by_embeddings:
            raise ModelUnavailableError(
                f"llm: vLLM does not take the word embeddings of {self._llm.identity.model_id} as they are in its "
                "files, so it cannot put a continuous prompt in front of them; use the transformers engine"
            )

    async def _end(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._vllm.shutdown(timeout=0)  # its processes have nothing left to save
        del self._vllm  # which shuts down once more when it is collected, and fails at that as Python exits

    def _in_thread(self, work: Coroutine[Any, Any, Result]) -> Result:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def _end_thread(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


async def _start(llm: OutsideLlm, max_rows: int, kv_cache_gib: float) -> AsyncLLM:
    arguments = AsyncEngineArgs(
        model=llm.folder,
        skip_tokenizer_init=True,  # texts become tokens here
        dtype=llm.dtype,
        max_model_len=llm.max_tokens,
        max_num_seqs=max_rows,
        kv_cache_memory_bytes=int(kv_cache_gib * 2**30),
        enable_prompt_embeds=True,
        logits_processors=[PROCESSOR],
        enable_prefix_caching=False,
        enforce_eager=current_platform.is_cpu(),  # compiling takes minutes there and gains little
        generation_config="vllm",  # no sampling settings but ours
        disable_log_stats=True,
    )
    try:
        return AsyncLLM.from_engine_args(arguments)
    except (ImportError, OSError, RuntimeError, ValueError) as error:
        raise ModelUnavailableError(f"llm: vLLM cannot run {llm.identity.model_id}: {error}") from error


def _sampling(decoding: Decoding, end_ids: frozenset[int], extra: dict[str, Any] | None) -> SamplingParams:
    """Stop sequences and texts are left out: they are looked after here, as for every engine."""
    return SamplingParams(
        max_tokens=decoding.max_new_tokens,
        temperature=decoding.temperature,
        top_p=decoding.top_p,
        seed=decoding.seed if decoding.temperature else None,
        stop_token_ids=sorted(end_ids),
        ignore_eos=True,
        detokenize=False,
        output_kind=RequestOutputKind.DELTA,
        extra_args=extra,
    )
