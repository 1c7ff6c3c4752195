"""`recipe train` and `recipe ablate`; `recipe eval` is in its own module."""

from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import ValidationError

from recipe_common.errors import FieldViolation, InvalidArgumentError
from recipe_trainer.arguments import first_edits, load_editor, load_llm, percent, short, write_json
from recipe_trainer.eval_commands import eval_app
from recipe_trainer.options import TrainOptions

if TYPE_CHECKING:
    from recipe_trainer.ablation import VariantScores

__all__ = ["ablate", "eval_app", "train"]

_PARTS = ("verifier", "prompts")


def train(
    *,
    data: Annotated[list[str], typer.Option(help="File of edits, or FILE=WEIGHT: its share of the draws. Repeatable.")],
    questions: Annotated[
        list[Path],
        typer.Option(help="File of open questions that must hit nothing; every fourth is held out. Repeatable."),
    ],
    out: Annotated[Path, typer.Option(help="Folder of the run. A run that was stopped there is resumed.")],
    natural: Annotated[
        Path | None, typer.Option(help="Folder of facts.*, pairs.* and text.*.jsonl: facts as people ask for them.")
    ] = None,
    dev: Annotated[
        Path | None, typer.Option(help="The like, not to learn from: to watch, and to calibrate the confidence on.")
    ] = None,
    judged: Annotated[
        list[Path] | None,
        typer.Option(help="File of edits to judge by: nothing that asks about them is learnt from. Repeatable."),
    ] = None,
    part: Annotated[list[str] | None, typer.Option(help=f"Only this part: {' or '.join(_PARTS)}. Repeatable.")] = None,
    start: Annotated[
        Path | None, typer.Option(help="Checkpoint that has the part which is not trained, unless it was in this run.")
    ] = None,
    go_on: Annotated[
        bool, typer.Option("--go-on", help="Begin what is trained with what --start has of it, too.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Seed of draws and initial weights.")] = 0,
    option: Annotated[
        list[str] | None,
        typer.Option(help=f"NAME=VALUE of any other option: {', '.join(sorted(TrainOptions.model_fields))}."),
    ] = None,
) -> None:
    """Train a RECIPE model: LLM and text encoder stay frozen; the verifier learns first, then the prompts."""
    from recipe_model.checkpoint import read_checkpoint  # noqa: PLC0415 (torch takes seconds; --help need not wait)
    from recipe_model.language_model import LanguageModel  # noqa: PLC0415
    from recipe_trainer.material import read_material  # noqa: PLC0415
    from recipe_trainer.parts import source_of  # noqa: PLC0415
    from recipe_trainer.training import Run  # noqa: PLC0415

    if unknown := [name for name in part or [] if name not in _PARTS]:
        raise InvalidArgumentError([FieldViolation("part", f"{unknown[0]!r} is not one of {', '.join(_PARTS)}")])
    others = [name for name in _PARTS if name not in (part or _PARTS)]
    if start is not None and not others and not go_on:
        unused = "both parts are trained, so that nothing is taken of it; leave it out, or add --go-on"
        raise InvalidArgumentError([FieldViolation("start", unused)])
    if go_on and start is None:
        raise InvalidArgumentError([FieldViolation("go_on", "needs a checkpoint to go on from; name it with --start")])
    options = _options({"seed": seed}, option or [])
    checkpoint = None if start is None else read_checkpoint(start)
    for name in others:
        source_of(name, out, checkpoint)  # before anything is read that takes minutes
    material = read_material(data, questions, natural, dev, judged or [])
    version = Run(out, options, material, LanguageModel.load(options.llm), checkpoint, go_on=go_on).train(
        part or _PARTS
    )
    typer.echo(f"wrote {out / 'recipe.safetensors'} ({version})")


def ablate(
    *,
    data: Annotated[list[str], typer.Option(help="File of edits to train on. Repeatable.")],
    dev: Annotated[str, typer.Option(help="FILE or FILE=N: edits, or the first N of them, to evaluate on.")],
    out: Annotated[Path, typer.Option(help="Folder for ablation.json, ablation.md and ablation.png.")],
    steps: Annotated[int, typer.Option(min=1, help="Steps of training the paper's decision, to compare with.")] = 1_000,
    seed: Annotated[int, typer.Option(help="Seed of that training.")] = 0,
    checkpoint: Annotated[Path | None, typer.Option(help="RECIPE checkpoint; the shipped one if not given.")] = None,
) -> None:
    """Leave out the continuous prompts, the sentinel, the verifier, or decide as the paper does."""
    from recipe_model.checkpoint import read_checkpoint  # noqa: PLC0415 (torch takes seconds; --help need not wait)
    from recipe_model.pretrained import load_text_encoder  # noqa: PLC0415
    from recipe_trainer import ablation, paper_form  # noqa: PLC0415
    from recipe_trainer.plots import plot_ablation  # noqa: PLC0415

    edits = first_edits("dev", dev)
    held_out = {edit.prompt.casefold() for edit in edits}
    training = [edit for item in data for edit in first_edits("data", item, held_out) if edit.answer]
    editor, llm = load_editor(checkpoint, out / "ablation.json"), load_llm(checkpoint)
    config = read_checkpoint(checkpoint).config
    features = partial(paper_form.frozen_features, load_text_encoder(config.encoder.model_id))
    compared = ablation.PaperFormOptions(config.sizes.representation, steps, seed)
    variants, static = ablation.evaluate_variants(edits, training, editor, llm, features, compared)
    figures = {
        "model_version": editor.model_version,
        "edits": len(edits),
        "dev": short(Path(dev)),
        "data": [short(Path(item)) for item in data],
        "steps": steps,
        "seed": seed,
        "static_threshold": static,
        "variants": [asdict(variant) for variant in variants],
    }
    write_json(out / "ablation.json", figures)
    (out / "ablation.md").write_text(_ablation_table(variants), encoding="utf-8")
    plot_ablation(variants, out / "ablation.png", title=f"{len(edits)} edits, {editor.model_version}")
    typer.echo((out / "ablation.md").read_text(encoding="utf-8"))


def _ablation_table(variants: "list[VariantScores]") -> str:
    head = "tokens in front | reliability | generality | locality | right hits | paraphrased | false hits |"
    rows = [f"| | {head}", "|---|---|---|---|---|---|---|---|"]
    for each in variants:
        scores = (each.tokens_in_front, each.reliability, each.generality, each.locality, *asdict(each.rates).values())
        rows.append(f"| {each.variant} | {' | '.join(map(percent, scores))} |")
    return "\n".join(rows) + "\n"


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
