"""Figures of a run on data that it does not train on, cheap enough to be taken while it trains.

Retrieval is exact and in memory, in the precision of training: close to the figures of `recipe eval`, not the same.
Every figure is a percentage.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from recipe_model.language_model import LanguageModel
from recipe_model.networks import RecipeModel, sentinel_rise
from recipe_model.prompt_words import PromptWords
from recipe_store.crowd import CROWD_FACTS, crowd_rise
from recipe_trainer.datasets import Edit
from recipe_trainer.teacher_forcing import answer_logits, answer_targets, answered

ASKED_OF_LLM = 96  # edits, from the first: the LLM is the slow part


def exact_decisions(queries: Tensor, keys: Tensor, thresholds: Tensor, crowd_weight: float) -> Tensor:
    """KS(q) (arXiv 2405.03279, equation 7) for queries [n, R] among keys [m, R]: row of the key, or -1 for none.

    `thresholds` [n] are what the best key must exceed if it is alone, `crowd_weight` is gamma of recipe_model.networks.
    Keys of facts that state the same count as rivals here, as no statements are known.
    """
    best = (queries @ keys.T).topk(min(CROWD_FACTS, len(keys)), dim=1)
    rises = torch.tensor([crowd_rise(row, crowd_weight, keys.shape[1]) for row in best.values.tolist()])
    return torch.where(best.values[:, 0] > thresholds + rises, best.indices[:, 0], -1)


class Watch:
    """Edits that a run looks at, but does not learn from."""

    def __init__(
        self,
        edits: Sequence[Edit],
        model: RecipeModel,
        llm: LanguageModel,
        features: Callable[[Sequence[str]], Tensor],
        prompt_words: PromptWords,
    ) -> None:
        self._edits = edits
        self._model = model
        self._llm = llm
        self._features = features
        self._prompt_words = prompt_words

    @torch.no_grad()
    def figures(self) -> dict[str, float]:
        """Hits among all edits at once, and the share of the first edits' answer tokens behind their own prompt.

        A figure that the edits have no question for is left out.
        """
        edits = self._edits
        with _evaluating(self._model):
            keys = self._model.keys(self._features([edit.knowledge for edit in edits]))
            sentinel = self._model.sentinel()
            rise = self._model.threshold_offset + self._model.threshold_growth * sentinel_rise(len(edits))

            def decide(texts: Sequence[str]) -> Tensor:
                queries = self._model.queries(self._features(texts))
                return exact_decisions(queries, keys, queries @ sentinel + rise, self._model.threshold_crowd)

            paraphrased = [(row, text) for row, edit in enumerate(edits) for text in edit.paraphrases]
            unrelated = [question.text for edit in edits for question in edit.unrelated]
            found = {"dev right hits": decide([edit.prompt for edit in edits]) == torch.arange(len(edits))}
            if paraphrased:
                rows = torch.tensor([row for row, _ in paraphrased])
                found["dev paraphrased right hits"] = decide([text for _, text in paraphrased]) == rows
            if unrelated:
                found["dev false hits"] = decide(unrelated) >= 0
            found["dev answer tokens right"] = self._answers_right(keys[:ASKED_OF_LLM])
        return {name: 100.0 * float(rows.float().mean()) for name, rows in found.items()}

    def _answers_right(self, keys: Tensor) -> Tensor:
        edits = self._edits[: len(keys)]
        asked = [answered(self._llm, edit.prompt, edit.answer) for edit in edits]
        prompts = self._model.prompts(keys, self._prompt_words([edit.knowledge for edit in edits]))
        return answer_logits(self._llm, asked, prompts).argmax(dim=-1) == answer_targets(asked)


@contextmanager
def _evaluating(model: RecipeModel) -> Iterator[None]:
    """Evaluation mode, and afterwards every part's own mode again: the encoder's need not be the model's."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
