"""Plots of what people would rather look at than read."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

if TYPE_CHECKING:
    from recipe_trainer.ablation import VariantScores
    from recipe_trainer.evaluation import Evaluation
    from recipe_trainer.stability import SizeRates


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


def plot_ablation(variants: "Sequence[VariantScores]", sizes: "Sequence[SizeRates]", file: Path, *, title: str) -> None:
    """Draw what each part of the method is worth, and retrieval over sizes of training, as a PNG."""
    options = list(dict.fromkeys(size.option for size in sizes))
    figure = Figure(figsize=(12, 4.5), layout="constrained")
    above, *others = figure.subplots(1, 1 + len(options), width_ratios=[2.2, *[1] * len(options)], squeeze=False)[0]
    columns = {
        "reliability": [variant.reliability for variant in variants],
        "generality": [variant.generality for variant in variants],
        "locality": [variant.locality for variant in variants],
    }
    for column, (name, values) in enumerate(columns.items()):
        places = [row + (column - 1) * 0.27 for row in range(len(variants))]
        above.bar_label(above.bar(places, values, width=0.25, label=name), fmt="%.0f", fontsize=8)
    names = [fill(variant.variant, 14) for variant in variants]
    above.set(title=title, ylabel="percent", ylim=(0, 115), xticks=range(len(variants)), xticklabels=names)
    above.legend(loc="upper center", ncols=3)
    for axes, option in zip(others, options, strict=True):
        mine = [size for size in sizes if size.option == option]
        values = [size.value for size in mine]
        rates = [asdict(size.rates) for size in mine]
        for name in rates[0]:
            axes.plot(values, [rate[name] for rate in rates], marker="o", label=name)
        axes.set(xlabel=option, ylim=(-2, 102), xscale="log")
        axes.set_xticks(values, [f"{value:,}" for value in values])
        axes.minorticks_off()
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    figure.savefig(file, format="png", dpi=120)


def plot_progress(lines: Sequence[Mapping[str, Any]], file: Path) -> None:
    """Draw the loss parts and the dev figures of a run over its steps, as a PNG; `lines` are of `progress.jsonl`."""
    figure = Figure(figsize=(8, 8), layout="constrained")
    above, below = figure.subplots(2, sharex=True)
    parts = [{name: line[name] for name in line if name not in ("step", "seconds_per_step", "dev")} for line in lines]
    steps = [line["step"] for line in lines]
    _draw_series(above, steps, parts)
    above.set(title="loss parts", ylabel="mean since the last report", yscale="log")
    _draw_series(below, steps, [line.get("dev", {}) for line in lines])
    below.set(title="dev figures", xlabel="step", ylabel="percent", ylim=(-2, 102))
    figure.savefig(file, format="png", dpi=120)


def _draw_series(axes: Axes, steps: Sequence[int], points: Sequence[Mapping[str, float]]) -> None:
    """One line for each name in `points`, over those steps that know it."""
    for name in dict.fromkeys(name for point in points for name in point):
        known = [(step, point[name]) for step, point in zip(steps, points, strict=True) if name in point]
        axes.plot([step for step, _ in known], [value for _, value in known], label=name)
    axes.grid(alpha=0.3)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
