"""RECIPE at inference: statements to keys and prompts, questions to queries and their sentinel score."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from recipe_common.errors import FieldViolation, InvalidArgumentError
from recipe_common.knowledge_text import statement_text
from recipe_model.checkpoint import build_model, read_checkpoint
from recipe_model.defaults import DEFAULT_DEVICE
from recipe_model.networks import RecipeModel, sentinel_rise
from recipe_model.onnx_encoder import on_onnx_runtime
from recipe_model.pretrained import available_device, load_text_encoder, load_word_embeddings
from recipe_model.prompt_words import PromptWords
from recipe_model.tokenized_texts import tokenize

Float32 = npt.NDArray[np.float32]
Float16 = npt.NDArray[np.float16]


@dataclass(frozen=True, slots=True)
class QueryVector:
    """A question as retrieval sees it."""

    vector: Float32  # r~_q [R], along the axes of the stored keys
    sentinel_similarity: float  # r~_q . r_Theta + a sqrt(R), r_Theta taken as keys are stored
    sentinel_growth: float = 0.0  # b sqrt(R)
    sentinel_crowd: float = 0.0  # gamma

    def threshold(self, facts: int) -> float:
        """What the similarity of a fact that stands alone must exceed for a hit, among so many facts."""
        return self.sentinel_similarity + self.sentinel_growth * sentinel_rise(facts)


class QueryEncoder:
    """The trained text encoder, ready for queries; threads may share it."""

    def __init__(self, model: RecipeModel, tokenizer: PreTrainedTokenizerBase, max_tokens: int, version: str) -> None:
        self.model_version = version
        self.key_size = model.sizes.representation
        self.prompt_shape = (model.sizes.prompt_tokens, model.sizes.llm_hidden)
        self._model = model
        self._tokenizer = tokenizer
        self._max_tokens = max_tokens
        self._device = model.key_axes.device
        with torch.inference_mode():
            self._sentinel = model.stored_keys(model.sentinel())
            self._offset, self._growth = model.threshold_offset, model.threshold_growth
            self._crowd = model.threshold_crowd

    @classmethod
    def load(
        cls, checkpoint: Path | None = None, encoder_id: str | None = None, *, device: str = DEFAULT_DEVICE
    ) -> "QueryEncoder":
        """Load a checkpoint (default: the shipped one) and join it to its encoder, on a device that PyTorch names.

        `encoder_id` says where that encoder lies, if not where it lay when the checkpoint was trained.

        Raises CheckpointError or ModelUnavailableError, each with the reason and the fix.
        """
        place = available_device(device)
        verified = read_checkpoint(checkpoint)
        encoder = load_text_encoder(encoder_id or verified.config.encoder.model_id)
        model = build_model(verified, encoder).to(place)
        queries = QueryEncoder(model, encoder.tokenizer, encoder.max_tokens, verified.model_version)
        queries._speed_up()
        return queries

    def query(self, questions: Sequence[str]) -> list[QueryVector]:
        """Encode questions. Raises InvalidArgumentError for one that is longer than the encoder can read."""
        queries, scores = (result.cpu().numpy() for result in self._compared(questions))
        return [
            QueryVector(vector, float(score), self._growth, self._crowd)
            for vector, score in zip(queries, scores, strict=True)
        ]

    def reads(self, text: str) -> bool:
        """Whether a text is short enough to be encoded."""
        return len(self._tokenizer(text)["input_ids"]) <= self._max_tokens

    @torch.inference_mode()
    def _compared(self, questions: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Query representations [b, R] and what the similarity of a fact must exceed [b]."""
        # An arrow in a question is no mark, as one that a publisher wrote is none.
        texts = [statement_text(question) for question in questions]
        queries = self._model.searching_queries(self._model.queries(self._features(texts, "query")))
        return queries, queries @ self._sentinel + self._offset

    def _speed_up(self) -> None:
        if self._device.type != DEFAULT_DEVICE:
            return  # PyTorch is at home there
        # After the sentinel has been computed, which is made of embeddings that no token has.
        self._model.encoder = on_onnx_runtime(self._model.encoder)  # type: ignore[assignment]

    def _features(self, texts: Sequence[str], field: str) -> Tensor:
        tokens = tokenize(self._tokenizer, texts)
        if (length := tokens.input_ids.shape[1]) > self._max_tokens:
            raise InvalidArgumentError(
                [
                    FieldViolation(
                        field,
                        f"is {length} tokens long, at most {self._max_tokens} can be encoded; shorten it",
                    )
                ]
            )
        return self._model.features(tokens.to(self._device))


class RecipeEditor(QueryEncoder):
    """All of RECIPE's networks and the LLM's words: encodes facts beside queries."""

    def __init__(
        self,
        model: RecipeModel,
        tokenizer: PreTrainedTokenizerBase,
        max_tokens: int,
        version: str,
        prompt_words: PromptWords,
    ) -> None:
        super().__init__(model, tokenizer, max_tokens, version)
        self._prompt_words = prompt_words

    @classmethod
    def load(
        cls,
        checkpoint: Path | None = None,
        encoder_id: str | None = None,
        llm_id: str | None = None,
        *,
        device: str = DEFAULT_DEVICE,
    ) -> Self:
        """Load as QueryEncoder does, and the words of the checkpoint's LLM.

        `llm_id` says where that LLM lies, if not where it lay when the checkpoint was trained.

        Raises CheckpointError or ModelUnavailableError, each with the reason and the fix.
        """
        place = available_device(device)
        verified = read_checkpoint(checkpoint)
        config = verified.config
        encoder = load_text_encoder(encoder_id or config.encoder.model_id)
        model = build_model(verified, encoder).to(place)
        words = load_word_embeddings(llm_id or config.llm.model_id)
        verified.require_words(words)
        prompt_words = PromptWords(words.table, words.tokenizer, config.sizes.prompt_tokens)
        editor = cls(model, encoder.tokenizer, encoder.max_tokens, verified.model_version, prompt_words)
        editor._speed_up()
        return editor

    def encode(self, texts: Sequence[str]) -> tuple[Float32, Float16]:
        """Encode texts of facts: keys r_k [b, R] and continuous prompts p_k [b, l, d].

        Raises InvalidArgumentError for a text that is longer than the encoder can read: cutting it would
        store a fact nobody published.
        """
        keys, prompts = self._encoded(texts)
        return keys.cpu().numpy(), prompts.cpu().numpy()

    @torch.inference_mode()
    def _encoded(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Stored keys [b, R] in float32 and prompts [b, l, d] in float16."""
        keys = self._model.keys(self._features(texts, "statement"))
        prompts = self._model.prompts(keys, self._prompt_words(texts).to(self._device))
        return self._model.stored_keys(keys), prompts.to(torch.float16)
