"""Plots of what people would rather look at than read."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

if TYPE_CHECKING:
    from recipe_trainer.ablation import VariantScores
    from recipe_trainer.evaluation import Evaluation


_NO_MEANS = ("part", "step", "seconds_per_step", "dev")  # of a line of `progress.jsonl`


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


def plot_ablation(variants: "Sequence[VariantScores]", file: Path, *, title: str) -> None:
    """Draw what each part of the method is worth, as a PNG."""
    figure = Figure(figsize=(10, 4.5), layout="constrained")
    axes = figure.subplots()
    columns = {
        "reliability": [variant.reliability for variant in variants],
        "generality": [variant.generality for variant in variants],
        "locality": [variant.locality for variant in variants],
        "false hits": [variant.rates.false_hit or 0.0 for variant in variants],
    }
    for column, (name, values) in enumerate(columns.items()):
        places = [row + (column - 1.5) * 0.2 for row in range(len(variants))]
        axes.bar_label(axes.bar(places, values, width=0.19, label=name), fmt="%.0f", fontsize=8)
    names = [fill(variant.variant, 16) for variant in variants]
    axes.set(title=title, ylabel="percent", ylim=(0, 115), xticks=range(len(variants)), xticklabels=names)
    axes.legend(loc="upper center", ncols=4)
    figure.savefig(file, format="png", dpi=120)


def plot_reliability(bins: Sequence[tuple[float, float, int]], file: Path, *, title: str) -> None:
    """Draw how often decisions of a confidence were right, and how many there are of each, as a PNG.

    `bins` are mean confidence, share that was right, and count.
    """
    figure = Figure(figsize=(6, 7), layout="constrained")
    above, below = figure.subplots(2, height_ratios=[3, 1], sharex=True)
    above.plot([0, 1], [0, 1], color="grey", linestyle=":")
    above.plot([said for said, _, _ in bins], [right for _, right, _ in bins], marker="o")
    above.set(title=title, ylabel="share that was right", ylim=(-0.02, 1.02))
    above.grid(alpha=0.3)
    below.bar([said for said, _, _ in bins], [count for _, _, count in bins], width=0.05)
    below.set(xlabel="confidence", ylabel="decisions", xlim=(-0.02, 1.02), yscale="log")
    figure.savefig(file, format="png", dpi=120)


def plot_progress(lines: Sequence[Mapping[str, Any]], file: Path) -> None:
    """Draw means and dev figures of each part of a run over its steps, as a PNG; `lines` are of `progress.jsonl`."""
    parts = list(dict.fromkeys(line["part"] for line in lines))
    figure = Figure(figsize=(8 * len(parts), 8), layout="constrained")
    axes = figure.subplots(2, len(parts), sharex="col", squeeze=False)
    for column, part in enumerate(parts):
        mine = [line for line in lines if line["part"] == part]
        means = [{name: line[name] for name in line if name not in _NO_MEANS} for line in mine]
        steps = [line["step"] for line in mine]
        _draw_series(axes[0][column], steps, means)
        axes[0][column].set(title=part, ylabel="mean since the last report", yscale="log")
        _draw_series(axes[1][column], steps, [line.get("dev", {}) for line in mine])
        axes[1][column].set(xlabel="step", ylabel="dev figures in percent", ylim=(-2, 102))
    figure.savefig(file, format="png", dpi=120)


def _draw_series(axes: Axes, steps: Sequence[int], points: Sequence[Mapping[str, float]]) -> None:
    """One line for each name in `points`, over those steps that know it."""
    for name in dict.fromkeys(name for point in points for name in point):
        known = [(step, point[name]) for step, point in zip(steps, points, strict=True) if name in point]
        axes.plot([step for step, _ in known], [value for _, value in known], label=name)
    axes.grid(alpha=0.3)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
