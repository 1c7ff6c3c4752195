"""The words that a fact's continuous prompt starts from, in the LLM's own embedding space.

A key r_k [R] pools a whole sentence and cannot spell a name it never saw. So a prompt begins as words of the fact
itself, and MLP_P adds what it learnt on top.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from recipe_common.errors import FieldViolation, InvalidArgumentError
from recipe_common.knowledge_text import split_at_mark


class PromptWords:
    """Texts of facts to word embeddings [b, l, d], from a table [v, d] and its tokenizer."""

    def __init__(self, table: Tensor, tokenizer: PreTrainedTokenizerBase, prompt_tokens: int) -> None:
        self._table = table
        self._tokenizer = tokenizer
        self._places = prompt_tokens

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Word embeddings [b, l, d], float32, of what the prompts of these texts start from.

        Raises InvalidArgumentError for a text that the tokenizer makes nothing of.
        """
        return self._table[torch.tensor([self._words(text) for text in texts])].float()

    def _words(self, text: str) -> list[int]:
        """First the answer again and again, as LLMs copy best what they saw twice; then the statement's last words.

        Where no answer is marked, only those: a statement mostly ends with what is new.
        """
        sentence, answer = split_at_mark(text)
        statement = self._ids(sentence)
        if answer is None:
            return _last(statement, self._places)
        half = self._places // 2
        spoken = [*self._ids(answer), *self._ids(".", space=False)]
        return _first(spoken, self._places - half) + _last(statement, half)

    def _ids(self, text: str, *, space: bool = True) -> list[int]:
        ids = list(self._tokenizer(f" {text}" if space else text, add_special_tokens=False)["input_ids"])
        if not ids:
            raise InvalidArgumentError([FieldViolation("statement", f"{text!r} holds no word that the LLM knows")])
        return ids


def _first(ids: list[int], places: int) -> list[int]:
    """The first so many tokens; fewer are repeated."""
    return (ids * (places // len(ids) + 1))[:places]


def _last(ids: list[int], places: int) -> list[int]:
    """The last so many tokens; fewer are repeated."""
    return _first(ids[-places:], places) if places else []
