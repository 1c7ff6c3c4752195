"""What the parts of a training run have in common: the learning rate, the state to resume from, the report."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from recipe_common.errors import FieldViolation, InvalidArgumentError
from recipe_trainer.plots import plot_progress

_SLOTS = ("step", "exp_avg", "exp_avg_sq")  # of AdamW


def rate(step: int, steps: int, warmup: int) -> float:
    """Linear warm-up, then a cosine down to zero at the last step; between 0 and 1."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def save_state(file: Path, step: int, tensors: Mapping[str, Tensor], optimizer: torch.optim.Optimizer) -> None:
    """Write the step, the part's tensors and what the optimiser keeps of those that it trains, atomically."""
    names = {id(value): name for name, value in tensors.items()}
    state = {f"model.{name}": value.detach() for name, value in tensors.items()}
    for parameter, slots in optimizer.state.items():
        state |= {f"optimizer.{slot}.{names[id(parameter)]}": slots[slot] for slot in _SLOTS}
    state["step"] = torch.tensor(step)
    scratch = file.with_suffix(".partial")
    save_file({name: value.contiguous() for name, value in state.items()}, scratch)
    scratch.replace(file)


def restore_state(file: Path, tensors: Mapping[str, Tensor], optimizer: torch.optim.Optimizer) -> int:
    """Fill the part's tensors and the optimiser from a file of `save_state`; returns the step, 0 without a file.

    Raises InvalidArgumentError for a file of another release.
    """
    if not file.exists():
        return 0
    state = _fill(file, tensors)
    for name, value in tensors.items():
        if f"optimizer.step.{name}" in state:
            optimizer.state[value] = {slot: state[f"optimizer.{slot}.{name}"] for slot in _SLOTS}
    step = int(state["step"])
    print(f"resumed at step {step} from {file}", flush=True)
    return step


def read_state(file: Path, tensors: Mapping[str, Tensor]) -> None:
    """Fill the tensors of a part that is not trained on, from a file of `save_state`.

    Raises InvalidArgumentError for a file of another release.
    """
    step = int(_fill(file, tensors)["step"])
    print(f"read what was trained in {step} steps from {file}", flush=True)


def _fill(file: Path, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Fill a part's tensors; returns all that the file holds."""
    state = load_file(file)
    if missing := sorted(tensors.keys() - {name.removeprefix("model.") for name in state}):
        holds = f"{file.parent} holds a run of another release, without {', '.join(missing)}; choose another folder"
        raise InvalidArgumentError([FieldViolation("out", holds)])
    with torch.no_grad():
        for name, value in tensors.items():
            value.copy_(state[f"model.{name}"])
    return state


class Report:
    """`progress.jsonl` and `progress.png` of a run, to which each of its parts adds."""

    def __init__(self, folder: Path, part: str, steps: int) -> None:
        self._file = folder / "progress.jsonl"
        self._part = part
        self._steps = steps

    def forget_after(self, step: int) -> None:
        """Steps that are taken again must not stand in the report twice."""
        kept = [line for line in self._lines() if line["part"] != self._part or line["step"] <= step]
        self._file.write_text("".join(f"{json.dumps(line)}\n" for line in kept))

    def add(self, step: int, figures: Mapping[str, float], seconds_per_step: float, dev: Mapping[str, float]) -> None:
        """One line, also on the screen, for means since the last one and figures (in percent) on dev."""
        parts = "  ".join(f"{name} {value:.3f}" for name, value in figures.items())
        left = (self._steps - step) * seconds_per_step / 60
        done = f"{self._part} {step}/{self._steps}"
        print(f"{done}  {parts}  {seconds_per_step:.2f} s/step  {left:.0f} min left", flush=True)
        if dev:
            print("  " + "  ".join(f"{name} {value:.1f} %" for name, value in dev.items()), flush=True)
        line = {"part": self._part, "step": step, **figures, "seconds_per_step": seconds_per_step, "dev": dict(dev)}
        with self._file.open("a") as file:
            file.write(json.dumps(line) + "\n")
        plot_progress(self._lines(), self._file.with_suffix(".png"))

    def _lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self._file.read_text().splitlines()] if self._file.exists() else []
