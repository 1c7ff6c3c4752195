"""`recipe eval`: what a checkpoint is worth on data that it was not trained on."""

import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from recipe_common.command_line import result_console
from recipe_common.errors import FieldViolation, InvalidArgumentError, UnavailableError
from recipe_trainer.arguments import counts, first_edits, load_editor, load_llm, percent, short, write_json
from recipe_trainer.datasets import Edit, load_edits, load_texts, split_held_out

if TYPE_CHECKING:
    from recipe_trainer.evaluation import Evaluation

eval_app = typer.Typer(no_args_is_help=True, help="Evaluate a checkpoint on data it was not trained on.")


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

    records, sizes = load_edits(data), counts(edits)
    if max(sizes) > len(records):
        raise InvalidArgumentError([FieldViolation("edits", f"{data} holds {len(records)} records only")])
    others = _distractors(distractors, asked={record.prompt.casefold() for record in records[: max(sizes)]})
    conditions = evaluation.Conditions(others, typos, seed, bare_statements=statements)
    editor, llm = load_editor(checkpoint, json_out, plot), load_llm(checkpoint)
    results = []
    for count in sizes:
        results.append(evaluation.evaluate(records[:count], editor, llm, conditions))
        _print_figures(results[-1])
        write_json(json_out, asdict(results[-1]) | {"seed": seed, "curve": [asdict(result) for result in results]})
    if plot is not None:
        from recipe_trainer.plots import plot_curve  # noqa: PLC0415 (matplotlib takes a second to load)

        plot_curve(results, plot, title=f"{short(data)}, {results[-1].model_version}")


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
    from recipe_trainer import evaluation  # noqa: PLC0415 (torch takes seconds; --help need not wait)

    records, texts = load_edits(facts), load_texts(data)
    if edits > len(records):
        raise InvalidArgumentError([FieldViolation("edits", f"{facts} holds {len(records)} records only")])
    if held_out:
        _, texts = split_held_out(texts)
    if not texts:
        raise InvalidArgumentError([FieldViolation("data", f"{data} holds fewer than four texts, so none is held out")])
    result = evaluation.evaluate_text(records[:edits], texts, load_editor(checkpoint, json_out))
    write_json(json_out, asdict(result))
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
    from recipe_trainer import evaluation  # noqa: PLC0415 (torch takes seconds; --help need not wait)

    result = evaluation.evaluate_families(edits, asked, seed, load_editor(checkpoint, json_out))
    write_json(json_out, asdict(result))
    columns = ("family", "stored", "right hits", "paraphrased", "asked, not stored", "false hits")
    table = Table(*columns, title=result.model_version, caption="rates in percent")
    for name, family in result.families.items():
        rates = map(percent, (family.right_hit, family.paraphrase_right_hit))
        table.add_row(name, str(family.stored), *rates, str(family.absent), percent(family.false_hit))
    result_console().print(table)


@eval_app.command("wordings")
def evaluate_wordings(
    *,
    data: Annotated[str, typer.Option(help="Files of facts with asks and near_misses, with commas between them.")],
    facts: Annotated[Path, typer.Option(help="File of edits to store beside them.")],
    edits: Annotated[int, typer.Option(min=0, help="How many of its records, from the first that nobody asks for.")],
    json_out: Annotated[Path, typer.Option("--json", help="File for the figures.")],
    plot: Annotated[Path | None, typer.Option(help="PNG file for the reliability diagram of the confidence.")] = None,
    checkpoint: Annotated[Path | None, typer.Option(help="RECIPE checkpoint; the shipped one if not given.")] = None,
) -> None:
    """Store facts and ask for each in every wording, and what only looks alike."""
    from recipe_trainer import recognition, saying  # noqa: PLC0415 (torch takes seconds; --help need not wait)

    files = [Path(item) for item in data.split(",")]
    prompts = {
        text.casefold() for file in files for edit in recognition.load_wordings(file) for text in edit.paraphrases
    }
    others = _distractors(f"{facts}={edits}", prompts) if edits else []
    editor, llm = load_editor(checkpoint, json_out, plot), load_llm(checkpoint)
    found = recognition.evaluate_wordings(files, others, editor)
    said = {name: saying.say(each.asks, recognition.CHAT_FORMS, llm).figures() for name, each in found.items()}
    figures = recognition.wordings_figures(found, said)
    origin = {"model_version": editor.model_version, "min_confidence": editor.decider.min_confidence, "edits": edits}
    write_json(json_out, origin | figures)
    if plot is not None:
        from recipe_trainer.plots import plot_reliability  # noqa: PLC0415 (matplotlib takes a second to load)

        bins = recognition.reliability(*recognition.pool_recognition(found.values()).confidences())
        plot_reliability(bins, plot, title=f"{', '.join(found)}, {editor.model_version}")
    _print_wordings(figures, editor.model_version)


def _print_wordings(figures: dict[str, Any], version: str) -> None:
    rows = {**figures.get("files", {}), "": figures}
    forms = list(figures["recognised"])
    table = Table("", "", *forms, "near misses that hit", "calibration error", title=version, caption="in percent")
    for name, row in rows.items():
        for what in ("recognised", "nearest", "candidates"):
            last = (row["near_miss_false_hits"], row["confidence"]["ece"]) if what == "recognised" else ()
            table.add_row(name, what, *map(percent, (*(row[what].get(form) for form in forms), *last)))
        for what in ("said", "said_in_chat") if "said" in row else ():
            table.add_row(name, what.replace("_", " "), *(percent(row[what].get(form)) for form in forms))
    result_console().print(table)


@eval_app.command("answers")
def evaluate_answers(
    *,
    json_out: Annotated[Path, typer.Option("--json", help="File for the figures.")],
    seed: Annotated[int, typer.Option(help="Seed of the facts.")] = 0,
    checkpoint: Annotated[Path | None, typer.Option(help="RECIPE checkpoint; the shipped one if not given.")] = None,
) -> None:
    """Store facts whose answers are made by rule (numbers, codes, addresses, lists), and see what is said of them."""
    from recipe_trainer import made_answers  # noqa: PLC0415 (torch takes seconds; --help need not wait)

    editor, llm = load_editor(checkpoint, json_out), load_llm(checkpoint)
    figures = made_answers.evaluate_answers(editor, llm, seed)
    write_json(json_out, {"model_version": editor.model_version, **figures})
    columns = [*(f"said: {form}" for form in made_answers.FORMS), "in chat: own", "in chat: question"]
    title = editor.model_version
    table = Table("kind", "recognised", *columns, "empty", "as text", title=title, caption="in percent")
    for kind, row in {**figures["kinds"], "all": figures}.items():
        said = [row["said"].get(form) for form in made_answers.FORMS]
        in_chat = [row["said_in_chat"].get(form) for form in ("own", "question")]
        table.add_row(kind, *map(percent, (row.get("recognised"), *said, *in_chat, row["empty"], row["as_text"])))
    result_console().print(table)


@eval_app.command("natural")
def evaluate_natural(
    *,
    data: Annotated[Path, typer.Option(help="Folder of facts.*, pairs.* and text.*.jsonl.")],
    json_out: Annotated[Path, typer.Option("--json", help="File for the figures.")],
    limit: Annotated[int, typer.Option(min=1, help="Records of each source, drawn by --seed.")] = 500,
    seed: Annotated[int, typer.Option(help="Seed of that draw.")] = 0,
    checkpoint: Annotated[Path | None, typer.Option(help="RECIPE checkpoint; the shipped one if not given.")] = None,
) -> None:
    """Store the facts of each source by themselves and ask for them as people do, and what only looks alike."""
    from recipe_trainer import recognition  # noqa: PLC0415 (torch takes seconds; --help need not wait)

    editor = load_editor(checkpoint, json_out)
    figures = recognition.evaluate_natural(data, editor, limit, seed)
    origin = {"model_version": editor.model_version, "min_confidence": editor.decider.min_confidence}
    write_json(json_out, origin | {"limit": limit, "seed": seed} | figures)
    columns = ("recognised", "recognised_people", "near_miss_false_hits", "nearest", "candidates", "false_hits")
    names = [name.replace("_", " ") for name in columns]
    table = Table("source", "records", *names, title=editor.model_version, caption="in percent")
    for name, row in figures["sources"].items():
        table.add_row(name, str(row["records"]), *(percent(row.get(column)) for column in columns))
    mean = figures["mean"]
    table.add_row("mean, worded by people", "", "", percent(mean["recognised"]), percent(mean["near_miss_false_hits"]))
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

    names, sizes = tasks.split(","), counts(edits, smallest=0)
    if unknown := [name for name in names if name not in general.TASKS]:
        known = ", ".join(general.TASKS)
        raise InvalidArgumentError([FieldViolation("tasks", f"{unknown[0]!r} is not one of {known}")])
    file = facts or _default_facts()
    records = load_edits(file)
    if max(sizes) > len(records):
        raise InvalidArgumentError([FieldViolation("edits", f"{file} holds {len(records)} records only")])
    editor, llm = load_editor(checkpoint, json_out), load_llm(checkpoint)
    questions = general.Questions(data, limit, seed)
    scores = general.evaluate_general(names, questions, records, sizes, editor, llm)
    figures = {name: [asdict(score) for score in task] for name, task in scores.items()}
    origin = {"facts": short(file), "data": data.resolve().name, "limit": limit, "seed": seed}
    write_json(json_out, {"model_version": editor.model_version, **origin, "tasks": figures})
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


def _print_figures(result: "Evaluation") -> None:
    title = f"{result.edits} edits, {result.distractors} distractors, {result.model_version}"
    table = Table("", "reliability", "generality", "locality", title=title)
    for name, scores in (
        ("teacher-forced", result.teacher_forced),
        ("free generation", result.free_generation),
    ):
        table.add_row(name, *map(percent, (scores.reliability, scores.generality, scores.locality)))
    rates = result.retrieval
    table.caption = (
        f"retrieval: right hits {percent(rates.right_hit)} (paraphrased {percent(rates.paraphrase_right_hit)}), "
        f"false hits {percent(rates.false_hit)}; all in percent"
    )
    result_console().print(table)
    if result.criteria:
        criteria = Table("criterion", "questions", "must", "teacher-forced", "free generation", "hits")
        for name, each in result.criteria.items():
            must = "answer" if each.must_answer else "leave alone"
            figures = map(percent, (each.teacher_forced, each.free_generation, each.hit))
            criteria.add_row(name, str(each.questions), must, *figures)
        result_console().print(criteria)


def _distractors(item: str | None, asked: set[str]) -> list[Edit]:
    """Edits of FILE or FILE=N whose prompts nobody asks: another version of an asked fact would be no distractor."""
    return [] if item is None else first_edits("distractors", item, asked)
