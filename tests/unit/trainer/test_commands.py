import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from recipe_common.errors import InvalidArgumentError
from recipe_model.checkpoint import read_checkpoint
from recipe_trainer.commands import eval_app, train
from tiny_models import SIZES, save_encoder, save_llm

app = typer.Typer()
app.command()(train)
app.add_typer(eval_app, name="eval")

EDITS = [{"src": f"The mayor of town {number} is", "alt": "Ann"} for number in range(6)]
QUESTIONS = [{"question": f"who is {name}", "answer": ["me"]} for name in "abcd"]


@dataclass(frozen=True)
class Files:
    edits: Path
    questions: Path
    out: Path

    def train(self, *changes: str) -> list[str]:
        return [
            "train", "--data", str(self.edits), "--questions", str(self.questions), "--out", str(self.out), *changes,
        ]  # fmt: skip


@pytest.fixture
def files(tmp_path: Path) -> Files:
    folder = tmp_path / "sets"
    folder.mkdir()
    (folder / "edits.json").write_text(json.dumps(EDITS))
    (folder / "open.json").write_text(json.dumps(QUESTIONS))
    return Files(folder / "edits.json", folder / "open.json", tmp_path / "run")


def run(arguments: Sequence[str]) -> str:
    result = CliRunner().invoke(app, list(arguments))
    if result.exception is not None:
        raise result.exception
    return result.output


def test_a_model_is_trained_from_files_and_options(files: Files, tmp_path: Path) -> None:
    options = {
        "llm": save_llm(tmp_path / "llm"),
        "encoder": save_encoder(tmp_path / "encoder"),
        "llm_edits": 2,
        "contrast_edits": 4,
        "representation": SIZES.representation,
        "prompt_tokens": SIZES.prompt_tokens,
        "sentinel_tokens": SIZES.sentinel_tokens,
    }
    flags = [flag for name, value in options.items() for flag in ("--option", f"{name}={value}")]

    output = run([*files.train(*flags, "--steps", "1", "--seed", "5"), "--data", f"{files.edits}=0.25"])

    checkpoint = read_checkpoint(files.out / "recipe.safetensors")
    assert output.endswith(f"wrote {files.out / 'recipe.safetensors'} ({checkpoint.model_version})\n")
    assert checkpoint.config.sizes == SIZES
    recorded = checkpoint.config.training
    assert {name: recorded[name] for name in options} == options
    assert (recorded["steps"], recorded["seed"]) == (1, 5)
    assert recorded["data"]["questions"] == "sets/open.json"
    assert list(recorded["data"]["edits"]) == ["sets/edits.json"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--option", "queue"], "option: 'queue' is not NAME=VALUE"),
        (["--option", "speed=9"], "option speed: Extra inputs are not permitted"),
        (["--option", "queue=0"], "option queue: Input should be greater than or equal to 1"),
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


def test_more_edits_than_the_file_holds_cannot_be_evaluated(files: Files, tmp_path: Path) -> None:
    with pytest.raises(InvalidArgumentError) as raised:
        run(["eval", "counterfact", "--data", str(files.edits), "--edits", "7", "--json", str(tmp_path / "x.json")])
    assert str(raised.value) == f"edits: {files.edits} holds 6 records only"
