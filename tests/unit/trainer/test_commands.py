import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from recipe_common.errors import InvalidArgumentError
from recipe_model.checkpoint import read_checkpoint
from recipe_model.errors import CheckpointError
from recipe_trainer.commands import ablate, eval_app, train
from tiny_models import RUN_SIZES, SIZES, save_encoder, save_llm, save_tiny_checkpoint

app = typer.Typer()
app.command()(train)
app.command()(ablate)
app.add_typer(eval_app, name="eval")

EDITS = [{"src": f"The mayor of town {number} is", "alt": "Ann"} for number in range(6)]
TINY = {
    "edits": 4,
    "steps_prompts": 1,
    "relations": 0,
    "families": 0,
    "representation": SIZES.representation,
    "prompt_tokens": SIZES.prompt_tokens,
    "sentinel_tokens": SIZES.sentinel_tokens,
}
QUESTIONS = [{"question": f"who is {name}", "answer": ["me"]} for name in "abcd"]


@dataclass(frozen=True)
class Files:
    edits: Path
    questions: Path
    start: Path
    out: Path

    def train(self, *changes: str) -> list[str]:
        return [*self.train_without_start(*changes), "--start", str(self.start)]

    def train_without_start(self, *changes: str) -> list[str]:
        return [
            "train", "--part", "prompts", "--data", str(self.edits), "--questions", str(self.questions),
            "--out", str(self.out), *changes,
        ]  # fmt: skip


@pytest.fixture
def files(tmp_path: Path) -> Files:
    folder = tmp_path / "sets"
    folder.mkdir()
    (folder / "edits.json").write_text(json.dumps(EDITS))
    (folder / "open.json").write_text(json.dumps(QUESTIONS))
    save_tiny_checkpoint(tmp_path / "start.safetensors", sizes=RUN_SIZES)
    return Files(folder / "edits.json", folder / "open.json", tmp_path / "start.safetensors", tmp_path / "run")


def run(arguments: Sequence[str]) -> str:
    result = CliRunner().invoke(app, list(arguments))
    if result.exception is not None:
        raise result.exception
    return result.stdout


def test_a_model_is_trained_from_files_and_options(files: Files, tmp_path: Path) -> None:
    options = {"llm": save_llm(tmp_path / "llm"), "encoder": save_encoder(tmp_path / "encoder"), **TINY}
    flags = [flag for name, value in options.items() for flag in ("--option", f"{name}={value}")]

    output = run([*files.train(*flags, "--seed", "5"), "--data", f"{files.edits}=0.25"])

    checkpoint = read_checkpoint(files.out / "recipe.safetensors")
    assert output.endswith(f"wrote {files.out / 'recipe.safetensors'} ({checkpoint.model_version})\n")
    assert checkpoint.config.sizes.representation == SIZES.representation
    recorded = checkpoint.config.training
    assert {name: recorded[name] for name in options} == options
    assert (recorded["steps_prompts"], recorded["seed"]) == (1, 5)
    assert recorded["start"] == {"verifier": read_checkpoint(files.start).model_version}
    assert recorded["data"]["questions"] == ["sets/open.json"]
    assert list(recorded["data"]["edits"]) == ["sets/edits.json"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--option", "edits"], "option: 'edits' is not NAME=VALUE"),
        (["--option", "speed=9"], "option speed: Extra inputs are not permitted"),
        (["--option", "edits=1"], "option edits: Input should be greater than or equal to 2"),
        (
            ["--option", "natural=0.8"],
            "option : Value error, natural, relations and families together must be below 1: the rest is for --data",
        ),
        (
            ["--option", "made_answers=0.9"],
            "option : Value error, made_answers and swapped_answers together must be at most 1: they share the draws",
        ),
        (
            ["--part", "verifier"],
            "start: both parts are trained, so that nothing is taken of it; leave it out, or add --go-on",
        ),
        (["--part", "encoder"], "part: 'encoder' is not one of verifier, prompts"),
        (["--dev", "nowhere"], "natural: there is no folder nowhere; correct the path"),
        (["--data", "edits.json=much"], "data: 'much' in 'edits.json=much' is not a weight; give a number above 0"),
        (["--data", "edits.json=0"], "data: '0' in 'edits.json=0' is not a weight; give a number above 0"),
        (["--data", "edits.json=-1"], "data: '-1' in 'edits.json=-1' is not a weight; give a number above 0"),
        (["--data", "edits.json=inf"], "data: 'inf' in 'edits.json=inf' is not a weight; give a number above 0"),
        (["--data", "none.json"], "data: there is no file none.json; correct the path"),
    ],
)
def test_a_wrong_argument_is_named(files: Files, arguments: list[str], message: str) -> None:
    with pytest.raises(InvalidArgumentError) as raised:
        run(files.train(*arguments))
    assert str(raised.value) == message
    assert not files.out.exists()


def test_a_part_that_would_stay_untrained_is_refused_before_anything_is_read(files: Files) -> None:
    files.edits.unlink()
    with pytest.raises(InvalidArgumentError, match=r"^part: the verifier would stay untrained, .* with --start$"):
        run(files.train_without_start())
    assert not files.out.exists()


def test_going_on_needs_a_checkpoint(files: Files) -> None:
    with pytest.raises(InvalidArgumentError, match=r"^go_on: needs a checkpoint to go on from; .* --start$"):
        run(files.train_without_start("--go-on"))


def test_a_checkpoint_to_start_from_that_is_not_there_is_named(files: Files) -> None:
    files.start.unlink()
    with pytest.raises(CheckpointError, match=f"there is no file {files.start}"):
        run(files.train())


@pytest.mark.parametrize("data_set", ["counterfact", "zsre", "ripple"])
def test_more_edits_than_the_file_holds_cannot_be_evaluated(files: Files, tmp_path: Path, data_set: str) -> None:
    with pytest.raises(InvalidArgumentError) as raised:
        run(["eval", data_set, "--data", str(files.edits), "--edits", "1,7", "--json", str(tmp_path / "x.json")])
    assert str(raised.value) == f"edits: {files.edits} holds 6 records only"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--edits", "many"], "edits: 'many' is neither a number above 0 nor a list of them such as 1,10,100"),
        (["--edits", "1,0"], "edits: '1,0' is neither a number above 0 nor a list of them such as 1,10,100"),
        (["--distractors", "x.json=0"], "distractors: '0' in 'x.json=0' is not a number above 0"),
        (["--distractors", "x.json"], "data: there is no file x.json; correct the path"),
        (
            ["--distractors", "{edits}=6"],
            "distractors: {edits} holds 5 edits that are not asked for, 6 are wanted; lower the number",
        ),
    ],
)
def test_a_wrong_argument_of_an_evaluation_is_named(
    files: Files, tmp_path: Path, arguments: list[str], message: str
) -> None:
    given = ["eval", "zsre", "--data", str(files.edits), "--edits", "1", "--json", str(tmp_path / "x.json")]
    with pytest.raises(InvalidArgumentError) as raised:
        run([*given, *(argument.format(edits=files.edits) for argument in arguments)])
    assert str(raised.value) == message.format(edits=files.edits)


@pytest.fixture
def checkpoint(files: Files, tmp_path: Path) -> Path:
    """A checkpoint for tiny models, which it names by their folders."""
    llm, encoder = save_llm(tmp_path / "llm"), save_encoder(tmp_path / "encoder")
    run(files.train(*(flag for name, value in {"llm": llm, "encoder": encoder, **TINY}.items()
                      for flag in ("--option", f"{name}={value}"))))  # fmt: skip
    return files.out / "recipe.safetensors"


def test_an_evaluation_writes_its_figures_and_a_curve(files: Files, checkpoint: Path, tmp_path: Path) -> None:
    out, plot = tmp_path / "new" / "figures.json", tmp_path / "new" / "curve.png"
    arguments = ["--data", str(files.edits), "--edits", "1,3", "--checkpoint", str(checkpoint), "--json", str(out)]
    others = tmp_path / "others.json"
    others.write_text(json.dumps([*EDITS, *({"src": f"The river of {name} is", "alt": "Dee"} for name in "ABC")]))
    harder = ["--distractors", f"{others}=2", "--typos", "0.5"]
    output = run(["eval", "zsre", *arguments, *harder, "--plot", str(plot)])

    figures = json.loads(out.read_text())
    assert "3 edits, 2 distractors" in output
    assert [entry["edits"] for entry in figures["curve"]] == [1, 3]
    assert {name: value for name, value in figures.items() if name not in ("curve", "seed")} == figures["curve"][-1]
    assert (figures["distractors"], figures["typos"], figures["seed"]) == (2, 0.5, 0)
    assert figures["retrieval"]["false_hit"] is None
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_ordinary_text_is_evaluated_against_stored_facts(files: Files, checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "text.json"
    arguments = ["--data", str(files.questions), "--facts", str(files.edits), "--edits", "6", "--json", str(out)]
    output = run(["eval", "text", *arguments, "--held-out", "--checkpoint", str(checkpoint)])
    figures = json.loads(out.read_text())
    assert (figures["edits"], figures["texts"]) == (6, 1)
    assert output == f"{figures['false_hit']:.1f} % of 1 texts hit one of 6 facts\n"


def test_families_are_evaluated_by_themselves(checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "families.json"
    arguments = ["--edits", "5", "--asked", "3", "--json", str(out), "--checkpoint", str(checkpoint)]
    output = run(["eval", "families", *arguments])
    figures = json.loads(out.read_text())
    assert figures["seed"] == 0
    assert set(figures["families"]) > {"stores", "people"}
    assert all(family["stored"] == 5 and family["absent"] == 3 for family in figures["families"].values())
    assert all(name in output for name in figures["families"])


def test_wordings_are_evaluated_file_by_file_with_a_reliability_diagram(
    files: Files, checkpoint: Path, tmp_path: Path
) -> None:
    record = {
        "id": "1", "prompt": EDITS[0]["src"], "answer": "Bo", "subject": "town 0",
        "asks": ["Who rules 0?", "Tell me who rules 0.", "0 mayor", "The one who rules 0 is"],
        "near_misses": ["Where is 0?"],
    }  # fmt: skip
    (tmp_path / "first.json").write_text(json.dumps([record]))
    (tmp_path / "second.json").write_text(json.dumps([record | {"asks": ["Who rules 0?", "0 mayor"]}]))
    out, plot = tmp_path / "new" / "figures.json", tmp_path / "new" / "reliability.png"
    data = [
        "--data",
        f"{tmp_path / 'first.json'},{tmp_path / 'second.json'}",
        "--facts",
        str(files.edits),
        "--edits",
        "5",
    ]
    output = run(["eval", "wordings", *data, "--checkpoint", str(checkpoint), "--json", str(out), "--plot", str(plot)])

    figures = json.loads(out.read_text())
    forms = ["own", "question", "longer_question", "keywords", "completion"]
    keys = ["recognised", "near_miss_false_hits", "nearest", "candidates", "confidence", "by_min_confidence"]
    assert list(figures) == ["model_version", "min_confidence", "edits", "files", *keys]
    assert list(figures["recognised"]) == list(figures["nearest"]) == forms
    second = figures["files"]["second.json"]
    assert list(second["recognised"]) == ["own", "question", "keywords"]
    assert {"said", "said_in_chat", "empty", "as_text"} <= second.keys()
    assert second["said_in_chat"] == {}  # an LLM without a chat template
    assert 0 <= figures["confidence"]["ece"] <= 100
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert "first.json" in output
    # The first of the edits is asked for, so there are five others.
    with pytest.raises(InvalidArgumentError, match="holds 5 edits that are not asked for, 6 are wanted"):
        run(["eval", "wordings", *data[:-1], "6", "--checkpoint", str(checkpoint), "--json", str(out)])


def test_natural_wordings_are_evaluated_source_by_source(checkpoint: Path, tmp_path: Path) -> None:
    fact = {
        "prompt": "The mayor of town 0 is", "answer": "Bo", "statement": None, "subject": "town 0", "aliases": [],
        "asks": ["Who rules town 0?"], "asks_wording": ["human"], "near_misses": ["Where is town 0?"],
    }  # fmt: skip
    (tmp_path / "facts.made.jsonl").write_text(json.dumps(fact))
    (tmp_path / "pairs.made.jsonl").write_text(json.dumps({"a": "How?", "b": "How so?", "same": True}))
    (tmp_path / "text.made.jsonl").write_text(json.dumps({"text": "Hello!"}))
    out = tmp_path / "natural.json"
    output = run(
        [
            "eval",
            "natural",
            "--data",
            str(tmp_path),
            "--checkpoint",
            str(checkpoint),
            "--json",
            str(out),
            "--limit",
            "9",
        ]
    )
    figures = json.loads(out.read_text())
    assert list(figures) == ["model_version", "min_confidence", "limit", "seed", "sources", "mean"]
    assert list(figures["sources"]) == ["facts.made", "pairs.made", "text.made"]
    assert list(figures["mean"]) == ["recognised", "near_miss_false_hits"]
    assert "facts.made" in output


def test_general_ability_is_scored_with_and_without_facts(files: Files, checkpoint: Path, tmp_path: Path) -> None:
    question = {"subject": "art", "question": "1 + 1?", "choices": ["1", "2", "3", "4"], "answer": 1}
    (tmp_path / "mmlu_test.json").write_text(json.dumps([question] * 3))
    out = tmp_path / "general.json"
    arguments = ["--tasks", "mmlu", "--data", str(tmp_path), "--facts", str(files.edits), "--edits", "0,6"]
    output = run(["eval", "general", *arguments, "--limit", "2", "--checkpoint", str(checkpoint), "--json", str(out)])
    figures = json.loads(out.read_text())
    assert [(score["edits"], score["questions"]) for score in figures["tasks"]["mmlu"]] == [(0, 2), (6, 2)]
    assert "mmlu" in output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--tasks", "mmlu,arc"], "tasks: 'arc' is not one of csqa, anli, mmlu, squad2"),
        (["--edits", "-1"], "edits: '-1' is neither a number above -1 nor a list of them such as 1,10,100"),
        (["--edits", "0,7"], "edits: {edits} holds 6 records only"),
    ],
)
def test_a_wrong_argument_of_general_ability_is_named(
    files: Files, tmp_path: Path, arguments: list[str], message: str
) -> None:
    given = ["--tasks", "mmlu", "--data", str(tmp_path), "--facts", str(files.edits), "--edits", "0"]
    with pytest.raises(InvalidArgumentError) as raised:
        run(["eval", "general", *given, "--json", str(tmp_path / "x.json"), *arguments])
    assert str(raised.value) == message.format(edits=files.edits)


def test_without_facts_and_data_folder_general_ability_says_what_to_give(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RECIPE_DATA_DIR", raising=False)
    with pytest.raises(InvalidArgumentError, match="facts: give --facts, or set RECIPE_DATA_DIR"):
        run(["eval", "general", "--tasks", "mmlu", "--data", ".", "--edits", "0", "--json", str(tmp_path / "x.json")])


def test_ablations_write_a_table_a_plot_and_figures(files: Files, checkpoint: Path, tmp_path: Path) -> None:
    towns = [
        {
            "prompt": f"The mayor of town {number} is", "target_new": "Ann", "subject": f"town {number}",
            "rephrase_prompt": f"Who rules {number}?", "locality_prompt": "The sky is", "locality_ground_truth": "blue",
        }
        for number in range(6)
    ]  # fmt: skip
    dev, out = tmp_path / "towns.json", tmp_path / "ablation"
    dev.write_text(json.dumps(towns))
    training = tmp_path / "others.json"
    training.write_text(json.dumps([town | {"prompt": f"The ruler of {row} is"} for row, town in enumerate(towns)]))
    data = ["--data", str(training), "--dev", f"{dev}=3", "--out", str(out)]

    output = run(["ablate", *data, "--steps", "1", "--checkpoint", str(checkpoint)])

    figures = json.loads((out / "ablation.json").read_text())
    assert (figures["edits"], figures["steps"], len(figures["variants"])) == (3, 1, 5)
    assert (out / "ablation.png").read_bytes().startswith(b"\x89PNG")
    table = (out / "ablation.md").read_text()
    assert output.endswith(table + "\n")
    assert [len(line.split("|")) for line in table.splitlines()] == [10] * 7
