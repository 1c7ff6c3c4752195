"""Texts as the encoder reads them, and which of their tokens a text is compared by: those of its question."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from recipe_common.knowledge_text import ANSWER_MARK


@dataclass(frozen=True, slots=True)
class TokenizedTexts:
    """A batch of texts; where an answer is marked, the question is what stands before the mark, else all of it."""

    input_ids: Tensor  # [b, t]
    attention_mask: Tensor  # [b, t]
    question_mask: Tensor  # [b, t], of the question's tokens and those that begin and end the text
    questions: list[str]  # [b]

    def to(self, device: torch.device) -> "TokenizedTexts":
        """The same with its tensors on a device."""
        return replace(
            self,
            input_ids=self.input_ids.to(device),
            attention_mask=self.attention_mask.to(device),
            question_mask=self.question_mask.to(device),
        )


def tokenize(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], max_tokens: int | None = None) -> TokenizedTexts:
    """Tokenize texts for an encoder that ends each with a token of its own; what exceeds `max_tokens` is cut."""
    tokens = tokenizer(
        list(texts), padding=True, truncation=max_tokens is not None, max_length=max_tokens, return_tensors="pt"
    )
    mask: Tensor = tokens["attention_mask"]
    questions = [text.partition(ANSWER_MARK)[0].strip() for text in texts]
    question_mask = mask.clone()
    marked = [row for row, text in enumerate(texts) if ANSWER_MARK in text]
    ends = tokenizer([questions[row] for row in marked])["input_ids"] if marked else []
    for row, ids in zip(marked, ends, strict=True):
        question_mask[row, len(ids) - 1 : int(mask[row].sum()) - 1] = 0
    return TokenizedTexts(tokens["input_ids"], mask, question_mask, questions)
