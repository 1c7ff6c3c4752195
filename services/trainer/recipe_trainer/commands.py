"""`recipe train`, `recipe ablate` and `recipe eval`."""

import json
import math
import os
import platform
import random
from collections.abc import Collection
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import ValidationError
from rich.table import Table

from recipe_common.command_line import result_console
from recipe_common.errors import FieldViolation, InvalidArgumentError, UnavailableError
from recipe_trainer.batches import EditPool
from recipe_trainer.datasets import Edit, load_edits, load_questions, load_texts, split_held_out
from recipe_trainer.families import family_facts
from recipe_trainer.options import TrainOptions
from recipe_trainer.ordinary_text import PASSAGES, leading_sentences, ordinary_texts, passages

if TYPE_CHECKING:
    from recipe_model.checkpoint import Checkpoint
    from recipe_model.editor import RecipeEditor
    from recipe_model.language_model import LanguageModel
    from recipe_trainer.ablation import VariantScores
    from recipe_trainer.evaluation import Evaluation
    from recipe_trainer.stability import SizeRates

eval_app = typer.Typer(no_args_is_help=True, help="Evaluate a checkpoint on data it was not trained on.")


def train(
    *,
    data: Annotated[list[str], typer.Option(help="File of edits, or FILE=WEIGHT: its share of the draws. Repeatable.")],
    questions: Annotated[
        Path, typer.Option(help="File of open questions that must hit nothing; every fourth is held out.")
    ],
    out: Annotated[Path, typer.Option(help="Folder of the run. A run that was stopped there is resumed.")],
    dev: Annotated[
        str | None,
        typer.Option(help="FILE or FILE=N: edits, or the first N of them, to watch, not to learn from."),
    ] = None,
    initial: Annotated[
        list[str] | None,
        typer.Option(
            help="Checkpoint to start from, not from scratch; FILE=WEIGHT, repeated, from the mean of several."
        ),
    ] = None,
    steps: Annotated[int, typer.Option(help="Optimiser steps.")] = TrainOptions().steps,
    seed: Annotated[int, typer.Option(help="Seed of draws, initial weights and dropout.")] = 0,
    option: Annotated[
        list[str] | None,
        typer.Option(help=f"NAME=VALUE of any other option: {', '.join(sorted(TrainOptions.model_fields))}."),
    ] = None,
) -> None:
    """Train a RECIPE model: the LLM stays frozen, the encoder, heads and sentinel learn."""
    from recipe_model.checkpoint import read_checkpoint  # noqa: PLC0415 (torch takes seconds; --help need not wait)
    from recipe_model.language_model import LanguageModel  # noqa: PLC0415
    from recipe_trainer.averaging import mean_of  # noqa: PLC0415
    from recipe_trainer.training import Trainer  # noqa: PLC0415

    options = _options({"steps": steps, "seed": seed}, option or [])
    watched = [] if dev is None else _first_edits("dev", dev)
    material = _read_material(data, questions, watched)
    starts = [_file_and_weight("initial", item) for item in initial or []]
    start = mean_of([read_checkpoint(file) for file, _ in starts], [weight for _, weight in starts]) if starts else None
    llm = LanguageModel.load(options.llm)
    version = Trainer(out, options, material.pool(llm, options), llm, material.record, start, watched).run()
    typer.echo(f"wrote {out / 'recipe.safetensors'} ({version})")


def ablate(
    *,
    data: Annotated[list[str], typer.Option(help="File of edits to train on, or FILE=WEIGHT. Repeatable.")],
    questions: Annotated[Path, typer.Option(help="File of open questions to train on.")],
    dev: Annotated[str, typer.Option(help="FILE or FILE=N: edits, or the first N of them, to evaluate on.")],
    out: Annotated[Path, typer.Option(help="Folder for ablation.json, ablation.md, ablation.png and the short runs.")],
    steps: Annotated[int, typer.Option(min=1, help="Steps of each short run over sizes of training.")] = 150,
    seed: Annotated[int, typer.Option(help="Seed of the short runs.")] = 0,
    checkpoint: Annotated[Path | None, typer.Option(help="RECIPE checkpoint; the shipped one if not given.")] = None,
) -> None:
    """Leave out the continuous prompts, the sentinel, or both; and train with other batches and contrastive pools."""
    from recipe_model.checkpoint import read_checkpoint  # noqa: PLC0415 (torch takes seconds; --help need not wait)
    from recipe_trainer import ablation, stability  # noqa: PLC0415 (torch takes seconds; --help need not wait)
    from recipe_trainer.plots import plot_ablation  # noqa: PLC0415

    edits = _first_edits("dev", dev)
    material = _read_material(data, questions, edits)
    editor, llm = _load_models(checkpoint, [out / "ablation.json"])
    variants, static = ablation.evaluate_variants(edits, material.tuning_edits(len(edits)), editor, llm)
    figures: dict[str, Any] = {
        "model_version": editor.model_version,
        "edits": len(edits),
        "dev": _short(Path(dev)),
        "data": material.record,
        "static_threshold": static,
        "variants": [asdict(variant) for variant in variants],
    }
    _write_json(out / "ablation.json", figures)
    options = _options_of(read_checkpoint(checkpoint)).model_copy(update={"steps": steps, "seed": seed})
    pool = material.pool(llm, options)
    sizes = stability.evaluate_sizes(out, options, pool, llm, material.record, edits)
    figures |= {"steps": steps, "seed": seed, "sizes": [asdict(size) for size in sizes]}
    _write_json(out / "ablation.json", figures)
    (out / "ablation.md").write_text(_ablation_table(variants, sizes), encoding="utf-8")
    plot_ablation(variants, sizes, out / "ablation.png", title=f"{len(edits)} edits, {editor.model_version}")
    typer.echo((out / "ablation.md").read_text(encoding="utf-8"))


def _ablation_table(variants: "list[VariantScores]", sizes: "list[SizeRates]") -> str:
    head = "tokens in front | reliability | generality | locality | right hits | paraphrased | false hits |"
    rows = [f"| | {head}", "|---|---|---|---|---|---|---|---|"]
    for variant in variants:
        scores = (
            variant.tokens_in_front,
            variant.reliability,
            variant.generality,
            variant.locality,
            *asdict(variant.rates).values(),
        )
        rows.append(f"| {variant.variant} | {' | '.join(map(_percent, scores))} |")
    for size in sizes:
        rows.append(
            f"| {size.option} {size.value} | | | | | {' | '.join(map(_percent, asdict(size.rates).values()))} |"
        )
    return "\n".join(rows) + "\n"


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
    statements: Annotated[
        bool, typer.Option("--statements", help="Store bare statements, which do not tell the answer apart.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Seed of whatever is drawn at random.")] = 0,
) -> None:
    """Store edits of this data set, ask every record, and score reliability, generality, locality and retrieval."""
    from recipe_trainer import evaluation  # noqa: PLC0415 (torch takes seconds; --help need not wait)

    records, counts = load_edits(data), _counts(edits)
    if max(counts) > len(records):
        raise InvalidArgumentError([FieldViolation("edits", f"{data} holds {len(records)} records only")])
    others = _distractors(distractors, asked={record.prompt.casefold() for record in records[: max(counts)]})
    conditions = evaluation.Conditions(others, typos, seed, bare_statements=statements)
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


@eval_app.command("families")
def evaluate_families(
    *,
    json_out: Annotated[Path, typer.Option("--json", help="File for the figures.")],
    edits: Annotated[int, typer.Option(min=1, help="Members of each family to store.")] = 1_000,
    asked: Annotated[int, typer.Option(min=1, help="Members to ask for, and as many that are not stored.")] = 200,
    seed: Annotated[int, typer.Option(help="Seed of the members.")] = 0,
    checkpoint: Annotated[Path | None, typer.Option(help="RECIPE checkpoint; the shipped one if not given.")] = None,
) -> None:
    """Store facts that differ in one name, number or date, and ask for members that are stored and that are not."""
    from recipe_model.editor import RecipeEditor  # noqa: PLC0415 (torch takes seconds; --help need not wait)
    from recipe_trainer import evaluation  # noqa: PLC0415

    json_out.parent.mkdir(parents=True, exist_ok=True)
    result = evaluation.evaluate_families(edits, asked, seed, RecipeEditor.load(checkpoint))
    _write_json(json_out, asdict(result))
    columns = ("family", "stored", "right hits", "paraphrased", "asked, not stored", "false hits")
    table = Table(*columns, title=result.model_version, caption="rates in percent")
    for name, family in result.families.items():
        rates = map(_percent, (family.right_hit, family.paraphrase_right_hit))
        table.add_row(name, str(family.stored), *rates, str(family.absent), _percent(family.false_hit))
    result_console().print(table)


@eval_app.command("general")
def evaluate_general(
    *,
    tasks: Annotated[str, typer.Option(help="Tasks with commas between them: csqa, anli, mmlu, squad2.")],
    data: Annotated[Path, typer.Option(help="Folder of csqa_dev, anli_dev, mmlu_test, squad2_dev, each .json.")],
    edits: Annotated[str, typer.Option(help="How many facts are stored; 0,1000 compares the plain model with 1,000.")],
    json_out: Annotated[Path, typer.Option("--json", help="File for the figures.")],
    facts: Annotated[
        Path | None, typer.Option(help="File of edits to store; counterfact/dev.json of RECIPE_DATA_DIR if not given.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Ask so many questions of each task, drawn by --seed.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of that draw.")] = 0,
    checkpoint: Annotated[Path | None, typer.Option(help="RECIPE checkpoint; the shipped one if not given.")] = None,
) -> None:
    """Score the LLM on tasks that no fact is about, with lm-evaluation-harness, without and with facts stored."""
    try:
        from recipe_trainer import general  # noqa: PLC0415 (torch takes seconds; --help need not wait)
    except ModuleNotFoundError as error:
        missing = f"{error.name} is not installed: run pip install 'recipe-live-knowledge[general]'"
        raise UnavailableError(missing) from error

    names, counts = tasks.split(","), _counts(edits, smallest=0)
    if unknown := [name for name in names if name not in general.TASKS]:
        known = ", ".join(general.TASKS)
        raise InvalidArgumentError([FieldViolation("tasks", f"{unknown[0]!r} is not one of {known}")])
    file = facts or _default_facts()
    records = load_edits(file)
    if max(counts) > len(records):
        raise InvalidArgumentError([FieldViolation("edits", f"{file} holds {len(records)} records only")])
    editor, llm = _load_models(checkpoint, [json_out])
    questions = general.Questions(data, limit, seed)
    scores = general.evaluate_general(names, questions, records, counts, editor, llm)
    figures = {name: [asdict(score) for score in task] for name, task in scores.items()}
    origin = {"facts": _short(file), "data": data.resolve().name, "limit": limit, "seed": seed}
    _write_json(json_out, {"model_version": editor.model_version, **origin, "tasks": figures})
    table = Table("task", "metric", "facts", "questions", "score", "hits", "too long", title=editor.model_version)
    for name, task in scores.items():
        for score in task:
            counted = map(str, (score.edits, score.questions, f"{score.score:.2f}", score.hits, score.too_long))
            table.add_row(name, general.TASKS[name].metric, *counted)
    result_console().print(table)


def _default_facts() -> Path:
    folder = os.environ.get("RECIPE_DATA_DIR")
    if folder is None:
        raise InvalidArgumentError([FieldViolation("facts", "give --facts, or set RECIPE_DATA_DIR")])
    return Path(folder) / "counterfact" / "dev.json"


@dataclass(frozen=True, slots=True)
class _Material:
    """What a run is trained on, and what its checkpoint records of it."""

    sets: list[list[Edit]]
    weights: list[float]
    texts: list[list[str]]
    record: dict[str, Any]

    def pool(self, llm: "LanguageModel", options: TrainOptions) -> EditPool:
        """The pool of a run with this LLM's words, and with facts of families in the share that its options say."""
        sets, weights = self.sets, self.weights
        if options.families:
            share = options.families / (1 - options.families)
            sets = [*sets, family_facts([edit for edits in sets for edit in edits])]
            weights = [*weights, share * sum(weights)]
        return EditPool(sets, weights, self.texts, llm.whole_words())

    def tuning_edits(self, count: int) -> list[Edit]:
        """Edits, from all sets, with a paraphrase and an unrelated question each; fewer if there are no more."""
        whole = [edit for edits in self.sets for edit in edits if edit.paraphrases and edit.unrelated]
        return random.Random(0).sample(whole, min(count, len(whole)))  # noqa: S311 (no secret)


def _read_material(data: list[str], questions: Path, held_out: list[Edit]) -> _Material:
    """Read everything, without edits whose prompt is one of `held_out`: a run must not learn what it is judged on."""
    files = [_file_and_weight("data", item) for item in data]
    prompts = {edit.prompt.casefold() for edit in held_out}
    found = [[edit for edit in load_edits(file) if edit.answer] for file, _ in files]  # no answer teaches nothing
    sets = [[edit for edit in edits if edit.prompt.casefold() not in prompts] for edits in found]
    open_questions, _ = split_held_out(load_questions(questions))
    record = {
        "edits": {_short(file): weight for file, weight in files},
        "left_out": sum(map(len, found)) - sum(map(len, sets)),
        "questions": _short(questions),
        "ordinary_text": f"Python {platform.python_version()}",
    }
    asked = [question.text for question in open_questions]
    chat, prose, code = ordinary_texts()
    edits = [edit for group in sets for edit in group]
    leads = leading_sentences(edits)
    statements = [f"{edit.statement}." for edit in edits if not edit.prompt.endswith("?")]
    texts = [asked, chat, prose, code, leads, passages([leads, prose, statements], asked, PASSAGES)]
    return _Material(sets, [weight for _, weight in files], texts, record)


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


def _counts(text: str, smallest: int = 1) -> list[int]:
    """One number, or several with commas between them."""
    try:
        counts = [int(item) for item in text.split(",")]
    except ValueError:
        counts = [-1]
    if min(counts) < smallest:
        wrong = f"{text!r} is neither a number above {smallest - 1} nor a list of them such as 1,10,100"
        raise InvalidArgumentError([FieldViolation("edits", wrong)])
    return counts


def _distractors(item: str | None, asked: set[str]) -> list[Edit]:
    """Edits of FILE or FILE=N whose prompts nobody asks: another version of an asked fact would be no distractor."""
    return [] if item is None else _first_edits("distractors", item, asked)


def _first_edits(field: str, item: str, without: Collection[str] = ()) -> list[Edit]:
    """The edits of FILE, or the first N of them for FILE=N, whose prompts are none of `without`."""
    file, separator, count = item.rpartition("=")
    if separator and (not count.isdecimal() or int(count) < 1):
        raise InvalidArgumentError([FieldViolation(field, f"{count!r} in {item!r} is not a number above 0")])
    edits = [edit for edit in load_edits(Path(file if separator else item)) if edit.prompt.casefold() not in without]
    if not separator:
        return edits
    if int(count) > len(edits):
        other = " that are not asked for" if without else ""
        fewer = f"{file} holds {len(edits)} edits{other}, {count} are wanted; lower the number"
        raise InvalidArgumentError([FieldViolation(field, fewer)])
    return edits[: int(count)]


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


def _options_of(checkpoint: "Checkpoint") -> TrainOptions:
    """The options of the run that made a checkpoint."""
    recorded = checkpoint.config.training
    return TrainOptions(**{name: recorded[name] for name in TrainOptions.model_fields if name in recorded})


def _file_and_weight(field: str, item: str) -> tuple[Path, float]:
    file, separator, weight = item.rpartition("=")
    if not separator:
        return Path(item), 1.0
    try:
        share = float(weight)
    except ValueError:
        share = math.nan
    if not 0 < share < math.inf:
        raise InvalidArgumentError(
            [FieldViolation(field, f"{weight!r} in {item!r} is not a weight; give a number above 0")]
        )
    return Path(file), share


def _short(file: Path) -> str:
    """The file's name with its folder's, as a checkpoint records it: no path of the training machine."""
    return f"{file.resolve().parent.name}/{file.name}"
