"""The second part of a run: key and prompt head learn what stands in front of a question; the LLM is frozen."""

import random
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from recipe_model.checkpoint import trained_tensors
from recipe_model.language_model import LanguageModel
from recipe_model.networks import RecipeModel, pool
from recipe_trainer.batches import EditPool
from recipe_trainer.objective import Objective
from recipe_trainer.options import TrainOptions
from recipe_trainer.runs import Report, rate, restore_state, save_state
from recipe_trainer.watching import Watch

PART = "prompts"
REPORT_EVERY = 20
SAVE_EVERY = 100
STARTING_EDITS = 512  # on which the initial heads are measured
_HEADS = ("key_head", "prompt_head")


def prompt_tensors(model: RecipeModel) -> dict[str, Tensor]:
    """What this part sets or trains: parameters and constants of the two heads, by name."""
    return {name: value for name, value in trained_tensors(model).items() if name.split(".")[0] in _HEADS}


def start_prompts(model: RecipeModel, objective: Objective, pool_: EditPool, llm: LanguageModel, seed: int) -> None:
    """Initial heads, from what facts look like to the encoder and the scale of the LLM's words.

    The prompt head's statistics are taken here and stay: keys move little, as only the LLM's steps move them.
    """
    typical = pool_.sample(random.Random(seed), STARTING_EDITS)  # noqa: S311 (no secret)
    features = []
    for start in range(0, len(typical), 64):
        states, mask = objective.states([edit.knowledge for edit in typical[start : start + 64]])
        features.append(pool(states, mask))
    with torch.no_grad():
        model.start_keys(torch.cat(features))
        model.settle_keys(model.key_head(torch.cat(features)))
        model.start_prompts(float(llm.words().square().mean().sqrt()))


class PromptTraining:
    """The loop, in a run's folder: `prompts.safetensors` to resume from, written every SAVE_EVERY steps."""

    def __init__(
        self,
        folder: Path,
        model: RecipeModel,
        objective: Objective,
        pool_: EditPool,
        options: TrainOptions,
        watch: Watch | None = None,
    ) -> None:
        self._model = model
        self._objective = objective
        self._pool = pool_
        self._options = options
        self._watch = watch
        self._tensors = prompt_tensors(model)
        self._trained = {name: value for name, value in self._tensors.items() if value.requires_grad}
        self._optimizer = self._build_optimizer()
        self._file = folder / f"{PART}.safetensors"
        self._step = restore_state(self._file, self._tensors, self._optimizer)
        self._report = Report(folder, PART, options.steps_prompts)
        self._report.forget_after(self._step)

    def run(self, saved: Callable[[], object]) -> None:
        """Train to the last step; `saved` is called whenever the state has been written."""
        self._model.eval()  # the prompt head's statistics stay
        since, steps = time.monotonic(), 0
        seen: dict[str, list[float]] = {}
        while self._step < self._options.steps_prompts:
            for name, value in self._train_step().items():
                seen.setdefault(name, []).append(value)
            steps += 1
            last = self._step == self._options.steps_prompts
            seconds = (time.monotonic() - since) / steps
            if save := last or self._step % SAVE_EVERY == 0:
                save_state(self._file, self._step, self._tensors, self._optimizer)
                saved()
            if last or self._step % REPORT_EVERY == 0:
                means = {name: sum(values) / len(values) for name, values in seen.items()}
                dev = self._watch.figures() if self._watch and save else {}
                self._report.add(self._step, means, seconds, dev)
                since, steps, seen = time.monotonic(), 0, {}

    def _train_step(self) -> Mapping[str, float]:
        """One optimiser step; a draw that depends on seed and step alone."""
        options = self._options
        random_ = random.Random(f"{options.seed}/{self._step}")  # noqa: S311 (no secret)
        share = rate(self._step, options.steps_prompts, options.warmup_steps)
        for group in self._optimizer.param_groups:
            group["lr"] = group["peak"] * share
        losses = self._objective.losses(self._pool.draw(random_, options))
        self._optimizer.zero_grad()
        torch.stack(list(losses.values())).sum().backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(list(self._trained.values()), options.gradient_norm)
        self._optimizer.step()
        self._step += 1
        return {name: float(value.detach()) for name, value in losses.items()}

    def _build_optimizer(self) -> torch.optim.AdamW:
        options = self._options
        peaks = {"key_head": options.heads_learning_rate, "prompt_head": options.prompt_learning_rate}
        groups = [
            {
                "params": [value],
                "peak": options.common_learning_rate if name == "prompt_head.common" else peaks[name.split(".")[0]],
            }
            for name, value in self._trained.items()
        ]
        return torch.optim.AdamW(groups, lr=0.0, weight_decay=options.weight_decay)
