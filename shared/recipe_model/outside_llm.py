"""An LLM that runs outside this process: all that is needed here to feed it, and nothing of its layers."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from recipe_model.defaults import DEFAULT_LLM, Precision
from recipe_model.identity import ModelIdentity, fingerprint
from recipe_model.llm_tokens import LlmTokens, end_ids
from recipe_model.pretrained import (
    CausalLmFiles,
    WordEmbeddings,
    find_causal_lm,
    load_word_embeddings,
    resolve_precision,
)


class OutsideLlm(LlmTokens):
    """A causal LM's tokens, word embeddings and place on disk."""

    def __init__(self, model_id: str, files: CausalLmFiles, words: WordEmbeddings, dtype: torch.dtype) -> None:
        identity = ModelIdentity(
            model_id=model_id,
            hidden_size=int(files.config.hidden_size),
            layers=int(files.config.num_hidden_layers),
            vocabulary=words.table.shape[0],
            embeddings_sha256=fingerprint(words.table),
        )
        super().__init__(words.tokenizer, identity)
        self.folder = files.folder
        self.max_tokens = int(files.config.max_position_embeddings)  # the longest sequence that it was trained for
        self.end_ids = end_ids(files.generation)
        self.dtype = dtype
        self._table = words.table.to(dtype)  # [v, d]

    @classmethod
    def load(cls, model_id: str = DEFAULT_LLM, precision: Precision = "auto") -> "OutsideLlm":
        """Load by id; raises ModelUnavailableError naming the fix."""
        dtype = resolve_precision(precision, gpu=torch.cuda.is_available())
        return cls(model_id, find_causal_lm(model_id), load_word_embeddings(model_id), dtype)

    def embed(self, prompt: npt.NDArray[np.float16] | None, ids: Sequence[int], statement: str = "") -> Tensor:
        """[a fact's prompt; its words; words of a text]: an optional prompt [l, d] and t ids to [l + n + t, d].

        `statement` is the prompt's fact, of n words.
        """
        words = self._table[torch.tensor(list(ids))]
        if prompt is None:
            return words
        told = self._table[torch.tensor(self.sentence_ids(statement))]
        return torch.cat([torch.from_numpy(prompt.copy()).to(words), told, words])
