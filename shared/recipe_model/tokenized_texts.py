"""Texts as the encoder reads them, and what each of their tokens is: of the question, the answer, or another name."""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from recipe_common.knowledge_text import ALIAS_MARK, question_part
from recipe_common.token_states import ROLE_ALIAS, ROLE_ANSWER, ROLE_QUESTION


@dataclass(frozen=True, slots=True)
class TokenizedTexts:
    """A batch of texts; where a mark stands, the question is what stands before it, else all of the text."""

    input_ids: Tensor  # [b, t]
    attention_mask: Tensor  # [b, t]
    word_mask: Tensor  # [b, t], without the tokens that begin and end a text, unless it has no others
    roles: Tensor  # [b, t], ROLE_*; a mark has the role of what it begins

    @property
    def question_mask(self) -> Tensor:
        """[b, t], of the question's tokens and those that begin and end the text."""
        return self.attention_mask * (self.roles == ROLE_QUESTION)

    def to(self, device: torch.device) -> "TokenizedTexts":
        """The same on a device."""
        return TokenizedTexts(*(getattr(self, each.name).to(device) for each in fields(self)))


def tokenize(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], max_tokens: int | None = None) -> TokenizedTexts:
    """Tokenize texts for an encoder, with a tokenizer that tells offsets; what exceeds `max_tokens` is cut."""
    tokens = tokenizer(
        list(texts),
        padding=True,
        truncation=max_tokens is not None,
        max_length=max_tokens,
        return_offsets_mapping=True,
        return_special_tokens_mask=True,
        return_tensors="pt",
    )
    mask: Tensor = tokens["attention_mask"]
    words = mask * (1 - tokens["special_tokens_mask"])
    words = torch.where(words.any(dim=1, keepdim=True), words, mask)
    return TokenizedTexts(tokens["input_ids"], mask, words, _roles(texts, tokens["offset_mapping"][..., 1]))


def _roles(texts: Sequence[str], ends: Tensor) -> Tensor:
    """ROLE_* [b, t] of tokens by where each ends in its text; those that begin and end a text end at 0."""
    question = torch.tensor([[_question_end(text)] for text in texts])
    aliases = torch.tensor([[_alias_start(text)] for text in texts])
    roles = torch.where(ends > question, ROLE_ANSWER, ROLE_QUESTION)
    return torch.where(ends > aliases, ROLE_ALIAS, roles)


def _question_end(text: str) -> int:
    question = question_part(text)
    return text.index(question) + len(question)


def _alias_start(text: str) -> int:
    """Where what stands before the aliases ends."""
    return len(text.partition(ALIAS_MARK)[0].rstrip()) if ALIAS_MARK in text else len(text)
