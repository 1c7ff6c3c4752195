"""Generation engines: a continuous prompt and a text in, a continuation out."""

from threading import Event
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

from recipe_common.errors import FieldViolation, InvalidArgumentError
from recipe_model.language_model import Generation, LanguageModel


class Engine(Protocol):
    """Whatever runs the LLM."""

    def generate(self, prompt: npt.NDArray[np.float16] | None, text: str, max_new_tokens: int) -> Generation:
        """Continue `text` greedily behind a continuous prompt [l, d]; without one, as the plain LLM."""
        ...

    def stop(self) -> None:
        """End what is running after its current token; nothing can be generated afterwards."""
        ...


class TransformersEngine:
    """The LLM in this process, through transformers. One call at a time."""

    def __init__(self, llm: LanguageModel) -> None:
        self._llm = llm
        self._stopped = Event()

    def stop(self) -> None:
        """As the protocol says."""
        self._stopped.set()

    def generate(self, prompt: npt.NDArray[np.float16] | None, text: str, max_new_tokens: int) -> Generation:
        """As the protocol says. Raises InvalidArgumentError for a text longer than the LLM's context."""
        tokens = len(self._llm.token_ids(text)) + (0 if prompt is None else len(prompt))
        if tokens + max_new_tokens > self._llm.max_tokens:
            raise InvalidArgumentError(
                [
                    FieldViolation(
                        "prompt",
                        f"has {tokens} tokens; with max_new_tokens {max_new_tokens} that exceeds the LLM's "
                        f"{self._llm.max_tokens}; shorten one of them",
                    )
                ]
            )
        prefix = None if prompt is None else torch.from_numpy(prompt.copy())
        return self._llm.generate(prefix, text, max_new_tokens, self._stopped)
