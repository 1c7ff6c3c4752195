"""RECIPE at inference: texts to the vectors that are searched, the tokens that are compared, and continuous prompts."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from recipe_common.errors import FieldViolation, InvalidArgumentError
from recipe_common.knowledge_text import question_part, statement_text
from recipe_common.token_states import TokenStates
from recipe_model.checkpoint import build_model, read_checkpoint
from recipe_model.decision import Decider
from recipe_model.defaults import DEFAULT_DEVICE
from recipe_model.encoded import EncodedFact, EncodedQuery
from recipe_model.networks import RecipeModel, question_means
from recipe_model.number_signature import number_signature
from recipe_model.onnx_encoder import on_onnx_runtime
from recipe_model.pretrained import available_device, load_text_encoder, load_word_embeddings
from recipe_model.prompt_words import PromptWords
from recipe_model.tokenized_texts import TokenizedTexts, tokenize
from recipe_model.verifier import Verifier

_SENTENCE_END: Final = re.compile(r"[.!?]\s|\n")
_SPACE: Final = re.compile(r"\s")

Float32 = npt.NDArray[np.float32]


class QueryEncoder:
    """Text encoder and verifier, ready for queries; threads may share it."""

    decider: Decider

    def __init__(self, model: RecipeModel, tokenizer: PreTrainedTokenizerBase, max_tokens: int, version: str) -> None:
        self.model_version = version
        self.vector_size = model.sizes.vector
        self.prompt_width = model.sizes.llm_hidden  # d
        self._model = model
        self._tokenizer = tokenizer  # always told to pad: it keeps that setting, and threads share it
        self._max_tokens = max_tokens
        self._device = model.min_similarity.device
        self.decider = _decider(model, Verifier(model.verifier))

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

    def query(self, questions: Sequence[str]) -> list[EncodedQuery]:
        """Encode questions; of one that is longer than the encoder can read, its last part."""
        # An arrow in a question is no mark, as one that a publisher wrote is none.
        texts = [self.last_part(statement_text(question)) for question in questions]
        tokens = self._tokens(texts, "query")
        hidden = self._states(tokens)
        states = _token_states(tokens, hidden)
        return [EncodedQuery(*each) for each in zip(self._vectors(texts, tokens, hidden), states, texts, strict=True)]

    def last_part(self, text: str) -> str:
        """The text, if the encoder can read it, else its last sentences, or of a longer one its last words."""
        room = self._max_tokens - self._tokenizer.num_special_tokens_to_add()
        if len(text) <= room:  # no token is shorter than a character
            return text
        offsets = self._tokenizer(text, padding=True, add_special_tokens=False, return_offsets_mapping=True)
        places = offsets["offset_mapping"]
        if len(places) <= room:
            return text
        start = places[-room][0]
        found = _SENTENCE_END.search(text, start, len(text.rstrip())) or _SPACE.search(text, start)
        # Again, as half a word may be more tokens by itself than it was within the whole.
        return self.last_part(text[found.end() if found else start :])

    def reads(self, text: str) -> bool:
        """Whether a text is short enough to be encoded."""
        return len(self._tokenizer(text, padding=True)["input_ids"]) <= self._max_tokens

    def unknown_share(self, text: str) -> float:
        """The share of a text's tokens, 0 to 1, that the encoder has no word for: it cannot tell one from another."""
        ids = self._tokenizer(text, padding=True, add_special_tokens=False)["input_ids"]
        return ids.count(self._tokenizer.unk_token_id) / len(ids) if ids else 0.0

    @torch.inference_mode()
    def _states(self, tokens: TokenizedTexts) -> Tensor:
        """Hidden states [b, t, h]."""
        return self._model.states(tokens.to(self._device))

    @torch.inference_mode()
    def _means(self, tokens: TokenizedTexts, hidden: Tensor) -> Tensor:
        """Mean states of questions [b, h], of length 1."""
        return question_means(hidden, tokens.to(self._device).question_mask)

    def _vectors(self, texts: Sequence[str], tokens: TokenizedTexts, hidden: Tensor) -> Float32:
        """Vectors [b, h + NUMBERS], of length 1."""
        numbers = np.stack([number_signature(text) for text in texts])
        joined = np.concatenate([self._means(tokens, hidden).cpu().numpy(), numbers], axis=1)
        return joined / np.linalg.norm(joined, axis=1, keepdims=True)  # type: ignore[no-any-return]

    def _speed_up(self) -> None:
        if self._device.type != DEFAULT_DEVICE:
            return  # PyTorch is at home there
        self._model.encoder = on_onnx_runtime(self._model.encoder)  # type: ignore[assignment]
        self.decider = _decider(self._model, Verifier.load(self._model.verifier))

    def _tokens(self, texts: Sequence[str], field: str) -> TokenizedTexts:
        tokens = tokenize(self._tokenizer, texts)
        if (length := tokens.input_ids.shape[1]) > self._max_tokens:
            description = f"is {length} tokens long, at most {self._max_tokens} can be encoded; shorten it"
            raise InvalidArgumentError([FieldViolation(field, description)])
        return tokens


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

    def encode(self, texts: Sequence[str]) -> list[EncodedFact]:
        """Encode texts of facts, as `recipe_common.knowledge_text` makes them.

        Raises InvalidArgumentError for a text that is longer than the encoder can read: cutting it would
        store a fact nobody published.
        """
        tokens = self._tokens(texts, "statement")
        hidden = self._states(tokens)
        prompts = self._prompts(texts, tokens, hidden).cpu().numpy()
        # By itself: within the text the encoder lets answer and aliases colour each word of the prompt.
        questions = [question_part(text) for text in texts]
        alone = self._tokens(questions, "statement")
        vectors = self._vectors(questions, alone, self._states(alone))
        return [EncodedFact(*each) for each in zip(vectors, _token_states(tokens, hidden), prompts, strict=True)]

    @torch.inference_mode()
    def _prompts(self, texts: Sequence[str], tokens: TokenizedTexts, hidden: Tensor) -> Tensor:
        """Prompts [b, l, d] in float16."""
        keys = self._model.keys(hidden, tokens.to(self._device).question_mask)
        return self._model.prompts(keys, self._prompt_words(texts).to(self._device)).to(torch.float16)


def _decider(model: RecipeModel, verifier: Verifier) -> Decider:
    scale, offset, min_confidence, min_similarity = (
        round(float(value), 6)  # of float32 no more is meant
        for value in (model.confidence_scale, model.confidence_offset, model.min_confidence, model.min_similarity)
    )
    return Decider(verifier, scale, offset, min_confidence, min_similarity)


def _token_states(tokens: TokenizedTexts, hidden: Tensor) -> Iterator[TokenStates]:
    """What the second step reads of each text; the arrays are their own, not views of a batch."""
    ids = tokens.input_ids.numpy().astype(np.int32)
    roles = tokens.roles.numpy().astype(np.uint8)
    states = hidden.to(torch.float16).cpu().numpy()
    for row, words in enumerate(tokens.word_mask.bool().numpy()):
        yield TokenStates(ids[row][words], roles[row][words], states[row][words])
