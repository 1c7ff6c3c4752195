"""Plots of what people would rather look at than read."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from matplotlib.figure import Figure

if TYPE_CHECKING:
    from recipe_trainer.evaluation import Evaluation


def plot_curve(results: "Sequence[Evaluation]", file: Path, *, title: str) -> None:
    """Draw the figures of several evaluations over the number of stored facts, as a PNG."""
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    stored = [result.edits + result.distractors for result in results]
    lines = {
        "reliability": [result.teacher_forced.reliability for result in results],
        "generality": [result.teacher_forced.generality for result in results],
        "locality": [result.teacher_forced.locality for result in results],
        "reliability, free generation": [result.free_generation.reliability for result in results],
        "right hits": [result.retrieval.right_hit for result in results],
        "false hits": [result.retrieval.false_hit for result in results],
    }
    for name, values in lines.items():
        known = [(count, value) for count, value in zip(stored, values, strict=True) if value is not None]
        axes.plot([count for count, _ in known], [value for _, value in known], marker="o", label=name)
    axes.set(title=title, xlabel="facts stored", ylabel="percent", xscale="log", ylim=(-2, 102))
    axes.grid(alpha=0.3)
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    figure.savefig(file, format="png", dpi=120)


def plot_progress(lines: Sequence[Mapping[str, float]], file: Path) -> None:
    """Draw the loss parts of a training run over its steps, as a PNG; `lines` are those of `progress.jsonl`."""
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    parts = dict.fromkeys(name for line in lines for name in line if name not in ("step", "seconds_per_step"))
    for name in parts:
        known = [(line["step"], line[name]) for line in lines if name in line]
        axes.plot([step for step, _ in known], [value for _, value in known], label=name)
    axes.set(title="loss parts", xlabel="step", ylabel="mean since the last report", yscale="log")
    axes.grid(alpha=0.3)
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    figure.savefig(file, format="png", dpi=120)
