"""The loss of one step of the prompts' training: what the LLM says behind the prompts of a few edits."""

from collections.abc import Sequence

import torch
from torch import Tensor

from recipe_common.knowledge_text import split_at_mark
from recipe_model.language_model import LanguageModel
from recipe_model.networks import RecipeModel
from recipe_model.pretrained import TextEncoder
from recipe_model.prompt_words import PromptWords
from recipe_model.tokenized_texts import tokenize
from recipe_trainer.batches import Draw
from recipe_trainer.conversations import reply
from recipe_trainer.losses import answer_loss, locality_loss
from recipe_trainer.options import TrainOptions
from recipe_trainer.teacher_forcing import (
    Answered,
    answer_logits,
    answer_targets,
    answer_weights,
    answered,
    answered_and_ended,
    replied_and_ended,
)

MAX_TOKENS = 256  # of a text, if the encoder reads that many; of what is longer the rest is cut


class Objective:
    """L_rel + L_gen + L_loc (arXiv 2405.03279, section 3.4); LLM and text encoder are frozen."""

    def __init__(
        self,
        model: RecipeModel,
        encoder: TextEncoder,
        llm: LanguageModel,
        prompt_words: PromptWords,
        options: TrainOptions,
    ) -> None:
        self._model = model
        self._tokenizer = encoder.tokenizer
        self._max_tokens = min(MAX_TOKENS, encoder.max_tokens)
        self._llm = llm
        self._prompt_words = prompt_words
        self._options = options

    def states(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Token states [b, t, h] of texts of facts and the mask [b, t] of those of their questions."""
        tokens = tokenize(self._tokenizer, texts, self._max_tokens)
        with torch.no_grad():
            return self._model.states(tokens), tokens.question_mask

    def prompts(self, texts: Sequence[str]) -> list[Tensor]:
        """What stands in front of texts about these facts [l + n, d]: the prompt of each, then its words."""
        made = self._model.prompts(self._model.keys(*self.states(texts)), self._prompt_words(texts))
        statements = [split_at_mark(text)[0] for text in texts]
        return [self._llm.told(statement, prompt) for statement, prompt in zip(statements, made, strict=True)]

    def losses(self, draws: Sequence[Draw]) -> dict[str, Tensor]:
        """The loss parts of a batch, by name."""
        prompts = self.prompts([draw.knowledge for draw in draws])
        own = [row for row, draw in enumerate(draws) if draw.own]
        others = [row for row, draw in enumerate(draws) if not draw.own]
        near = [row for row, draw in enumerate(draws) if draw.unrelated][: self._options.locality_edits]
        asked = [self._asked(draws[row]) for row in own + others]
        left_alone = [answered(self._llm, q.text, q.answer) for row in near if (q := draws[row].unrelated)]
        batch = asked + left_alone
        logits = answer_logits(self._llm, batch, [prompts[row] for row in own + others + near])
        groups = (asked[: len(own)], asked[len(own) :], left_alone)
        parts = torch.split(logits, [sum(len(item.predicted) for item in group) for group in groups])
        losses = {
            name: answer_loss(part, answer_targets(group), answer_weights(group))
            for name, part, group in zip(("reliability", "generality"), parts, groups, strict=False)
        }
        return losses | {"locality": self._options.locality_weight * self._locality(parts[2], left_alone)}

    def _asked(self, draw: Draw) -> Answered:
        if draw.earlier is None or not self._llm.chats:
            return answered_and_ended(self._llm, draw.question, draw.edit.answer)
        messages = [*draw.earlier, {"role": "user", "content": draw.question}]
        return replied_and_ended(self._llm, messages, reply(draw.edit))

    def _locality(self, edited: Tensor, left_alone: list[Answered]) -> Tensor:
        if not left_alone:
            return edited.sum()
        with torch.no_grad():
            unedited = answer_logits(self._llm, left_alone, None)
        return locality_loss(edited, unedited, answer_weights(left_alone))
