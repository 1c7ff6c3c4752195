"""How far the sentinel depends on sizes of training: short runs that differ in one size each."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recipe_model.editor import RecipeEditor
from recipe_model.language_model import LanguageModel
from recipe_trainer.ablation import Base
from recipe_trainer.batches import EditPool
from recipe_trainer.datasets import Edit
from recipe_trainer.evaluation import RetrievalRates
from recipe_trainer.options import TrainOptions
from recipe_trainer.training import Trainer

SIZES: Mapping[str, Sequence[int]] = {"contrast_edits": (20, 40, 80), "queue": (256, 1_000, 4_000)}


@dataclass(frozen=True, slots=True)
class SizeRates:
    """Retrieval after a run with one option changed."""

    option: str
    value: int
    rates: RetrievalRates


def evaluate_sizes(
    folder: Path,
    options: TrainOptions,
    pool: EditPool,
    llm: LanguageModel,
    data: Mapping[str, Any],
    edits: Sequence[Edit],
) -> list[SizeRates]:
    """Train once for each of SIZES, without the LLM, and ask all of `edits`; a run that was stopped is resumed."""
    found: list[SizeRates] = []
    for option, values in SIZES.items():
        for value in values:
            changed = options.model_copy(update=_cheap(options) | {option: value} | _companions(options, option, value))
            run = folder / f"{option}-{value}"
            Trainer(run, changed, pool, llm, data).run()
            base = Base(edits, RecipeEditor.load(run / "recipe.safetensors", options.encoder, options.llm))
            found.append(SizeRates(option, value, base.rates(None)))
    return found


def _cheap(options: TrainOptions) -> dict[str, int]:
    """Only the first step goes through the LLM: the prompts' part is not what is compared."""
    return {"llm_every": options.steps, "warmup_steps": max(1, options.steps // 5)}


def _companions(options: TrainOptions, option: str, value: int) -> dict[str, int]:
    """The sizes that go with a batch's, in their old proportion, so that its make-up stays the same."""
    if option != "contrast_edits":
        return {}
    share = value / options.contrast_edits
    return {name: round(share * getattr(options, name)) for name in ("other_relations", "ordinary_texts", "versions")}
