"""`recipe train` and `recipe eval`."""

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import ValidationError
from rich.table import Table

from recipe_common.command_line import result_console
from recipe_common.errors import FieldViolation, InvalidArgumentError
from recipe_trainer.batches import EditPool
from recipe_trainer.datasets import Edit, load_edits, load_questions, load_texts, split_held_out
from recipe_trainer.options import TrainOptions

if TYPE_CHECKING:
    from recipe_model.editor import RecipeEditor
    from recipe_model.language_model import LanguageModel
    from recipe_trainer.evaluation import Evaluation

eval_app = typer.Typer(no_args_is_help=True, help="Evaluate a checkpoint on data it was not trained on.")


def train(
    *,
    data: Annotated[list[str], typer.Option(help="File of edits, or FILE=WEIGHT: its share of the draws. Repeatable.")],
    questions: Annotated[
        Path, typer.Option(help="File of open questions that must hit nothing; every fourth is held out.")
    ],
    out: Annotated[Path, typer.Option(help="Folder of the run. A run that was stopped there is resumed.")],
    initial: Annotated[Path | None, typer.Option(help="Checkpoint to start from, not from scratch.")] = None,
    steps: Annotated[int, typer.Option(help="Optimiser steps.")] = TrainOptions().steps,
    seed: Annotated[int, typer.Option(help="Seed of draws, initial weights and dropout.")] = 0,
    option: Annotated[
        list[str] | None,
        typer.Option(help=f"NAME=VALUE of any other option: {', '.join(sorted(TrainOptions.model_fields))}."),
    ] = None,
) -> None:
    """Train a RECIPE model: the LLM stays frozen, the encoder, heads and sentinel learn."""
    from recipe_model.checkpoint import read_checkpoint  # noqa: PLC0415 (torch takes seconds; --help need not wait)
    from recipe_trainer.training import Trainer  # noqa: PLC0415 (torch takes seconds; --help need not wait)

    options = _options({"steps": steps, "seed": seed}, option or [])
    files = [_file_and_weight(item) for item in data]
    training_questions, _ = split_held_out(load_questions(questions))
    sets = [[edit for edit in load_edits(file) if edit.answer] for file, _ in files]  # an empty answer teaches nothing
    pool = EditPool(sets, [weight for _, weight in files], training_questions)
    record = {"edits": {_short(file): weight for file, weight in files}, "questions": _short(questions)}
    start = None if initial is None else read_checkpoint(initial)
    version = Trainer(out, options, pool, record, start).run()
    typer.echo(f"wrote {out / 'recipe.safetensors'} ({version})")


def evaluate_edits(
    *,
    data: Annotated[Path, typer.Option(help="File of edits in the data set's published format.")],
    edits: Annotated[str, typer.Option(help="How many of its records, from the first; 1,10,100 draws a curve.")],
    json_out: Annotated[Path, typer.Option("--json", help="File for the figures.")],
    plot: Annotated[Path | None, typer.Option(help="PNG file for the curve over the numbers of --edits.")] = None,
    checkpoint: Annotated[Path | None, typer.Option(help="RECIPE checkpoint; the shipped one if not given.")] = None,
    typos: Annotated[float, typer.Option(min=0, max=1, help="Share of questions with one slip of the keyboard.")] = 0,
    distractors: Annotated[
        str | None, typer.Option(help="FILE or FILE=N: edits, or the first N of them, stored and never asked for.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of whatever is drawn at random.")] = 0,
) -> None:
    """Store edits of this data set, ask every record, and score reliability, generality, locality and retrieval."""
    from recipe_trainer import evaluation  # noqa: PLC0415 (torch takes seconds; --help need not wait)

    records, counts = load_edits(data), _counts(edits)
    if max(counts) > len(records):
        raise InvalidArgumentError([FieldViolation("edits", f"{data} holds {len(records)} records only")])
    others = _distractors(distractors, asked={record.prompt.casefold() for record in records[: max(counts)]})
    conditions = evaluation.Conditions(others, typos, seed)
    editor, llm = _load_models(checkpoint, [json_out, plot])
    results = []
    for count in counts:
        results.append(evaluation.evaluate(records[:count], editor, llm, conditions))
        _print_figures(results[-1])
        _write_json(json_out, asdict(results[-1]) | {"seed": seed, "curve": [asdict(result) for result in results]})
    if plot is not None:
        from recipe_trainer.plots import plot_curve  # noqa: PLC0415 (matplotlib takes a second to load)

        plot_curve(results, plot, title=f"{_short(data)}, {results[-1].model_version}")


for _name in ("counterfact", "zsre", "ripple"):
    eval_app.command(_name)(evaluate_edits)


@eval_app.command("text")
def evaluate_text(
    *,
    data: Annotated[Path, typer.Option(help="Texts: JSON open questions, or any other file with one text a line.")],
    facts: Annotated[Path, typer.Option(help="File of edits to store.")],
    edits: Annotated[int, typer.Option(min=1, help="How many of its records, from the first.")],
    json_out: Annotated[Path, typer.Option("--json", help="File for the figures.")],
    held_out: Annotated[
        bool, typer.Option(help="Only every fourth text: those that 'recipe train --questions' holds out.")
    ] = False,
    checkpoint: Annotated[Path | None, typer.Option(help="RECIPE checkpoint; the shipped one if not given.")] = None,
) -> None:
    """Store edits, then count how many ordinary texts hit one of them."""
    from recipe_model.editor import RecipeEditor  # noqa: PLC0415 (torch takes seconds; --help need not wait)
    from recipe_trainer import evaluation  # noqa: PLC0415

    records, texts = load_edits(facts), load_texts(data)
    if edits > len(records):
        raise InvalidArgumentError([FieldViolation("edits", f"{facts} holds {len(records)} records only")])
    if held_out:
        _, texts = split_held_out(texts)
    if not texts:
        raise InvalidArgumentError([FieldViolation("data", f"{data} holds fewer than four texts, so none is held out")])
    json_out.parent.mkdir(parents=True, exist_ok=True)
    result = evaluation.evaluate_text(records[:edits], texts, RecipeEditor.load(checkpoint))
    _write_json(json_out, asdict(result))
    line = f"{result.false_hit:.1f} % of {result.texts} texts hit one of {result.edits} facts"
    typer.echo(line + (f"; {result.too_long} texts are longer than the encoder reads" if result.too_long else ""))


def _load_models(checkpoint: Path | None, outputs: list[Path | None]) -> "tuple[RecipeEditor, LanguageModel]":
    """The models, and folders for what will be written: figures that take an hour must not be lost at the end."""
    from recipe_model.checkpoint import read_checkpoint  # noqa: PLC0415 (torch takes seconds; --help need not wait)
    from recipe_model.editor import RecipeEditor  # noqa: PLC0415
    from recipe_model.language_model import LanguageModel  # noqa: PLC0415

    for output in outputs:
        if output is not None:
            output.parent.mkdir(parents=True, exist_ok=True)
    verified = read_checkpoint(checkpoint)
    llm = LanguageModel.load(verified.config.llm.model_id)
    verified.require_llm(llm.identity)
    return RecipeEditor.load(checkpoint), llm


def _write_json(file: Path, figures: dict[str, Any]) -> None:
    file.write_text(json.dumps(figures, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _print_figures(result: "Evaluation") -> None:
    title = f"{result.edits} edits, {result.distractors} distractors, {result.model_version}"
    table = Table("", "reliability", "generality", "locality", title=title)
    for name, scores in (
        ("teacher-forced", result.teacher_forced),
        ("free generation", result.free_generation),
    ):
        table.add_row(name, *map(_percent, (scores.reliability, scores.generality, scores.locality)))
    rates = result.retrieval
    table.caption = (
        f"retrieval: right hits {_percent(rates.right_hit)} (paraphrased {_percent(rates.paraphrase_right_hit)}), "
        f"false hits {_percent(rates.false_hit)}; all in percent"
    )
    result_console().print(table)
    if result.criteria:
        criteria = Table("criterion", "questions", "must", "teacher-forced", "free generation", "hits")
        for name, each in result.criteria.items():
            must = "answer" if each.must_answer else "leave alone"
            figures = map(_percent, (each.teacher_forced, each.free_generation, each.hit))
            criteria.add_row(name, str(each.questions), must, *figures)
        result_console().print(criteria)


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _counts(text: str) -> list[int]:
    """One number, or several with commas between them."""
    try:
        counts = [int(item) for item in text.split(",")]
    except ValueError:
        counts = [0]
    if min(counts) < 1:
        wrong = f"{text!r} is neither a number above 0 nor a list of them such as 1,10,100"
        raise InvalidArgumentError([FieldViolation("edits", wrong)])
    return counts


def _distractors(item: str | None, asked: set[str]) -> list[Edit]:
    """Edits of FILE or FILE=N whose prompts nobody asks: another version of an asked fact would be no distractor."""
    if item is None:
        return []
    file, separator, count = item.rpartition("=")
    if separator and (not count.isdecimal() or int(count) < 1):
        raise InvalidArgumentError([FieldViolation("distractors", f"{count!r} in {item!r} is not a number above 0")])
    others = [edit for edit in load_edits(Path(file if separator else item)) if edit.prompt.casefold() not in asked]
    if not separator:
        return others
    if int(count) > len(others):
        fewer = f"{file} holds {len(others)} edits that are not asked for, {count} are wanted; lower the number"
        raise InvalidArgumentError([FieldViolation("distractors", fewer)])
    return others[: int(count)]


def _options(flags: dict[str, Any], extra: list[str]) -> TrainOptions:
    for item in extra:
        name, separator, value = item.partition("=")
        if not separator:
            raise InvalidArgumentError([FieldViolation("option", f"{item!r} is not NAME=VALUE")])
        flags[name] = value
    try:
        return TrainOptions(**flags)
    except ValidationError as error:
        violations = [FieldViolation(f"option {'.'.join(map(str, e['loc']))}", e["msg"]) for e in error.errors()]
        raise InvalidArgumentError(violations) from error


def _file_and_weight(item: str) -> tuple[Path, float]:
    file, separator, weight = item.rpartition("=")
    if not separator:
        return Path(item), 1.0
    try:
        share = float(weight)
    except ValueError:
        share = math.nan
    if not 0 < share < math.inf:
        raise InvalidArgumentError(
            [FieldViolation("data", f"{weight!r} in {item!r} is not a weight; give a number above 0")]
        )
    return Path(file), share


def _short(file: Path) -> str:
    """The file's name with its folder's, as a checkpoint records it: no path of the training machine."""
    return f"{file.resolve().parent.name}/{file.name}"
