"""`recipe train` and `recipe eval`."""

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.table import Table

from recipe_common.errors import FieldViolation, InvalidArgumentError
from recipe_trainer.batches import EditPool
from recipe_trainer.datasets import load_edits, load_questions, split_questions
from recipe_trainer.options import TrainOptions

if TYPE_CHECKING:
    from recipe_trainer.evaluation import Evaluation

eval_app = typer.Typer(no_args_is_help=True, help="Evaluate a checkpoint on data it was not trained on.")


def train(
    *,
    data: Annotated[list[str], typer.Option(help="File of edits, or FILE=WEIGHT: its share of the draws. Repeatable.")],
    questions: Annotated[
        Path, typer.Option(help="File of open questions that must hit nothing; every fourth is held out.")
    ],
    out: Annotated[Path, typer.Option(help="Folder of the run. A run that was stopped there is resumed.")],
    initial: Annotated[Path | None, typer.Option(help="Checkpoint to start from, in place of random heads.")] = None,
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
    training_questions, _ = split_questions(load_questions(questions))
    pool = EditPool([load_edits(file) for file, _ in files], [weight for _, weight in files], training_questions)
    record = {"edits": {_short(file): weight for file, weight in files}, "questions": _short(questions)}
    start = None if initial is None else read_checkpoint(initial)
    version = Trainer(out, options, pool, record, start).run()
    typer.echo(f"wrote {out / 'recipe.safetensors'} ({version})")


@eval_app.command("counterfact")
def evaluate_counterfact(
    data: Annotated[Path, typer.Option(help="File of CounterFact records.")],
    edits: Annotated[int, typer.Option(min=1, help="How many of its records, from the first.")],
    json_out: Annotated[Path, typer.Option("--json", help="File for the figures.")],
    checkpoint: Annotated[Path | None, typer.Option(help="RECIPE checkpoint; the shipped one if not given.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of whatever is drawn at random.")] = 0,
) -> None:
    """Store the edits, ask every record, and score reliability, generality, locality and retrieval."""
    import torch  # noqa: PLC0415 (torch takes seconds; --help need not wait)

    from recipe_model.checkpoint import read_checkpoint  # noqa: PLC0415
    from recipe_model.editor import RecipeEditor  # noqa: PLC0415
    from recipe_model.language_model import LanguageModel  # noqa: PLC0415
    from recipe_trainer import evaluation  # noqa: PLC0415

    torch.manual_seed(seed)
    records = load_edits(data)
    if edits > len(records):
        raise InvalidArgumentError([FieldViolation("edits", f"{data} holds {len(records)} records only")])
    json_out.parent.mkdir(parents=True, exist_ok=True)  # now: the figures take long to make
    llm = LanguageModel.load()
    read_checkpoint(checkpoint).require_llm(llm.identity)
    result = evaluation.evaluate(records[:edits], RecipeEditor.load(checkpoint), llm)
    json_out.write_text(json.dumps(asdict(result) | {"seed": seed}, indent=1) + "\n")
    _print_figures(result)


def _print_figures(result: "Evaluation") -> None:
    table = Table("", "reliability", "generality", "locality", title=f"{result.edits} edits, {result.model_version}")
    for name, scores in (
        ("teacher-forced", result.teacher_forced),
        ("free generation", result.free_generation),
    ):
        table.add_row(name, *(f"{value:.1f}" for value in (scores.reliability, scores.generality, scores.locality)))
    rates = result.retrieval
    table.caption = (
        f"retrieval: right hits {rates.right_hit:.1f} (paraphrased {rates.paraphrase_right_hit:.1f}), "
        f"false hits {rates.false_hit:.1f}; all in percent"
    )
    Console().print(table)


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
