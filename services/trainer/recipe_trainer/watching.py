"""Figures of the prompts' training on facts that it does not train on, cheap enough to be taken while it goes on."""

from collections.abc import Sequence

import torch

from recipe_model.language_model import LanguageModel
from recipe_trainer.datasets import Edit
from recipe_trainer.objective import Objective
from recipe_trainer.teacher_forcing import answer_logits, answer_targets, answered

WATCHED = 96  # edits: the LLM is slow


class Watch:
    """Edits that a run looks at, but does not learn from."""

    def __init__(self, edits: Sequence[Edit], objective: Objective, llm: LanguageModel) -> None:
        self._edits = list(edits[:WATCHED])
        self._objective = objective
        self._llm = llm

    @torch.no_grad()
    def figures(self) -> dict[str, float]:
        """Shares of answer tokens, in percent, that the LLM predicts behind the right prompt, by form of question."""
        prompts = self._objective.prompts([edit.knowledge for edit in self._edits])
        asked = {"dev own": [edit.prompt for edit in self._edits]}
        asked["dev paraphrased"] = [edit.paraphrases[0] if edit.paraphrases else edit.prompt for edit in self._edits]
        found = {}
        for name, texts in asked.items():
            batch = [answered(self._llm, text, edit.answer) for text, edit in zip(texts, self._edits, strict=True)]
            right = answer_logits(self._llm, batch, prompts).argmax(dim=-1) == answer_targets(batch)
            found[name] = 100.0 * float(right.float().mean())
        return found
