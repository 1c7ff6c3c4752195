"""After training: how sure a margin makes that a fact answers.

That is taken on facts that nothing was learnt from, asked by people, with what looks alike beside them. Questions and
near misses count half each, and each source as much as any other. The confidence is Platt's: sigmoid(scale m + offset).
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from recipe_model.editor import RecipeEditor
from recipe_model.networks import RecipeModel
from recipe_model.pretrained import TextEncoder
from recipe_model.prompt_words import PromptWords
from recipe_trainer.natural import PEOPLE, NaturalFact, load_facts, sources
from recipe_trainer.recognition import Recognition, ask_about

FACTS: Final = 60  # of each source, stored together
_EVALUATED_ONLY: Final = frozenset({"webnlg", "elken"})  # their licence is for no commercial use

Floats = NDArray[np.float64]


def calibrate(model: RecipeModel, encoder: TextEncoder, words: PromptWords, dev: Path) -> None:
    """Set the confidence from the facts in `dev`."""
    model.confidence_scale.fill_(1.0)
    model.confidence_offset.fill_(0.0)
    editor = RecipeEditor(model.eval(), encoder.tokenizer, encoder.max_tokens, "calibration", words)
    files = [path for name, path in sources(dev, "facts").items() if name not in _EVALUATED_ONLY]
    found = [each for path in files if (each := _asked_by_people(load_facts(path), editor))]
    scale, offset = fit_confidence(*_pooled(found))
    model.confidence_scale.fill_(scale)
    model.confidence_offset.fill_(offset)
    print(f"confidence = sigmoid({scale:.3f} margin + {offset:.3f})", flush=True)


def fit_confidence(margins: Floats, right: Floats, weights: Floats) -> tuple[float, float]:
    """Scale and offset of the likeliest sigmoid(scale m + offset), for decisions [n] that were right (1) or not (0)."""
    scale, offset = torch.tensor(1.0, requires_grad=True), torch.tensor(0.0, requires_grad=True)
    given, target, weight = (torch.from_numpy(each).float() for each in (margins, right, weights))
    optimizer = torch.optim.LBFGS([scale, offset], max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        wrong = functional.binary_cross_entropy_with_logits(scale * given + offset, target, weight)
        wrong.backward()  # type: ignore[no-untyped-call]
        return wrong

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    return float(scale.detach()), float(offset.detach())


def _asked_by_people(facts: Sequence[NaturalFact], editor: RecipeEditor) -> Recognition | None:
    """The first facts that people, or an LLM, asked for, in these words only; None if there are none."""
    asked, forms = [], []
    for fact in facts[:FACTS]:
        worded = [(ask, by) for ask, by in zip(fact.edit.paraphrases, fact.asks_wording, strict=True) if by in PEOPLE]
        asked.append(replace(fact.edit, paraphrases=tuple(ask for ask, _ in worded)))
        forms.append([by for _, by in worded])
    return ask_about(asked, forms, [], editor) if any(forms) else None


def _pooled(found: Sequence[Recognition]) -> tuple[Floats, Floats, Floats]:
    """Margins, whether right, and weights of all decisions that had a candidate."""
    margins, right, weights = [], [], []
    for each in found:
        for group in (each.asks, each.near_misses):
            decided = [item for item in group if item.candidates]
            margins += [item.candidates[0].margin for item in decided]
            right += [float(item.candidates[0].record == item.record) for item in decided]
            weights += [1 / len(decided)] * len(decided)
    return np.array(margins), np.array(right), np.array(weights) * len(weights) / sum(weights)
