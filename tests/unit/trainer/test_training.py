import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from recipe_common.errors import InvalidArgumentError
from recipe_model.checkpoint import read_checkpoint
from recipe_model.editor import RecipeEditor
from recipe_model.identity import identify
from recipe_model.language_model import LanguageModel
from recipe_model.networks import RecipeModel, RecipeSizes
from recipe_model.pretrained import load_text_encoder
from recipe_trainer import prompt_training, training
from recipe_trainer.datasets import Edit, Question
from recipe_trainer.material import Material
from recipe_trainer.objective import Objective
from recipe_trainer.options import TrainOptions
from recipe_trainer.training import Run
from tiny_models import LLM_HIDDEN, SIZES, make_llama, save_encoder, save_llm

STEPS = 6
DATA = {"edits": {"sets/train.json": 1.0}, "questions": ["sets/open.json"]}
DEV = {
    "prompt": "The mayor of city 1 is", "answer": "Z", "statement": None, "subject": "city 1", "aliases": [],
    "asks": ["Who rules city 1?"], "asks_wording": ["human"], "near_misses": [],
}  # fmt: skip


class StoppedError(Exception):
    """Ends a run in the middle, as a signal would."""


@dataclass
class Models:
    """The folders of the models to train with."""

    llm: str
    encoder: str

    def options(self, **changes: Any) -> TrainOptions:
        values: dict[str, Any] = {
            "llm": self.llm,
            "encoder": self.encoder,
            "steps_prompts": STEPS,
            "edits": 3,
            "relations": 0,
            "families": 0,
            "representation": SIZES.representation,
            "prompt_tokens": SIZES.prompt_tokens,
            "sentinel_tokens": SIZES.sentinel_tokens,
            "warmup_steps": 2,
        }
        return TrainOptions(**values | changes)


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Models:
    monkeypatch.setattr(prompt_training, "SAVE_EVERY", 2)
    monkeypatch.setattr(prompt_training, "REPORT_EVERY", 3)
    return Models(save_llm(tmp_path / "llm"), save_encoder(tmp_path / "encoder"))


@pytest.fixture
def material(tmp_path: Path) -> Material:
    dev = tmp_path / "dev"
    dev.mkdir()
    (dev / "facts.made.jsonl").write_text(json.dumps(DEV) + "\n")
    edits = [
        Edit(
            prompt=f"The mayor of town {number} is",
            answer="ABCDEFGH"[number],
            subject=f"town {number}",
            paraphrases=(f"Who rules town {number}?", f"Town {number} is led by"),
            unrelated=(Question(f"The area of village {number} is", "small"),),
        )
        for number in range(8)
    ]
    return Material([edits], [1.0], ["What is x?"], dev=dev, record=DATA)


def run(folder: Path, options: TrainOptions, material: Material) -> str:
    return Run(folder, options, material, LanguageModel.load(options.llm)).train(["prompts"])


def stop_at(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets runs fail in that step, counted from 1."""
    original: Callable[..., dict[str, Tensor]] = Objective.losses
    taken = 0

    def losses(self: Any, *arguments: Any) -> dict[str, Tensor]:
        nonlocal taken
        taken += 1
        if taken == step:
            raise StoppedError
        return original(self, *arguments)

    monkeypatch.setattr(Objective, "losses", losses)


@pytest.mark.parametrize("stopped_in", [1, 4, 6])
def test_a_stopped_and_resumed_run_ends_as_an_unbroken_one(
    tmp_path: Path, models: Models, material: Material, stopped_in: int
) -> None:
    version = run(tmp_path / "unbroken", models.options(), material)
    with pytest.MonkeyPatch.context() as patch:
        stop_at(stopped_in, patch)
        with pytest.raises(StoppedError):
            run(tmp_path / "resumed", models.options(), material)
    torch.manual_seed(99)
    random.seed(99)

    resumed_version = run(tmp_path / "resumed", models.options(), material)

    assert resumed_version == version
    unbroken = load_file(tmp_path / "unbroken" / "prompts.safetensors")
    resumed = load_file(tmp_path / "resumed" / "prompts.safetensors")
    assert int(resumed["step"]) == STEPS
    assert unbroken.keys() == resumed.keys()
    assert all(torch.equal(resumed[name], value) for name, value in unbroken.items())


def test_a_finished_run_is_only_written_again(
    tmp_path: Path, models: Models, material: Material, capsys: pytest.CaptureFixture[str]
) -> None:
    version = run(tmp_path / "run", models.options(), material)
    state = (tmp_path / "run" / "prompts.safetensors").read_bytes()
    capsys.readouterr()

    assert run(tmp_path / "run", models.options(), material) == version

    assert (tmp_path / "run" / "prompts.safetensors").read_bytes() == state
    assert capsys.readouterr().out == f"resumed at step 6 from {tmp_path / 'run' / 'prompts.safetensors'}\n"


def test_the_finished_state_of_another_run_is_taken_up(tmp_path: Path, models: Models, material: Material) -> None:
    version = run(tmp_path / "first", models.options(), material)
    (tmp_path / "second").mkdir()
    (tmp_path / "first" / "prompts.safetensors").rename(tmp_path / "second" / "prompts.safetensors")
    assert run(tmp_path / "second", models.options(), material) == version


def test_another_seed_trains_another_model(tmp_path: Path, models: Models, material: Material) -> None:
    first = run(tmp_path / "first", models.options(steps_prompts=1), material)
    assert first != run(tmp_path / "second", models.options(steps_prompts=1, seed=1), material)


def test_a_folder_with_other_options_or_data_is_refused(tmp_path: Path, models: Models, material: Material) -> None:
    folder = tmp_path / "run"
    run(folder, models.options(steps_prompts=1), material)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    with pytest.raises(InvalidArgumentError) as raised:
        run(folder, models.options(steps_prompts=1, edits=4), material)

    assert str(raised.value) == f"out: {folder} holds a run with other options (edits was 3); choose another folder"
    material.record["questions"] = ["sets/other.json"]
    try:
        with pytest.raises(InvalidArgumentError, match="holds a run with other options"):
            run(folder, models.options(steps_prompts=1), material)
    finally:
        material.record["questions"] = ["sets/open.json"]
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_run_may_be_given_more_steps(tmp_path: Path, models: Models, material: Material) -> None:
    folder = tmp_path / "run"
    run(folder, models.options(), material)
    run(folder, models.options(steps_prompts=STEPS + 2), material)
    assert int(load_file(folder / "prompts.safetensors")["step"]) == STEPS + 2
    assert read_checkpoint(folder / "recipe.safetensors").config.training["steps_prompts"] == STEPS + 2
    assert json.loads((folder / "options.json").read_text())["options"]["steps_prompts"] == STEPS + 2


def test_the_checkpoint_is_the_trained_model_and_says_how_it_was_made(
    tmp_path: Path, models: Models, material: Material
) -> None:
    version = run(tmp_path / "run", models.options(), material)

    path = tmp_path / "run" / "recipe.safetensors"
    checkpoint = read_checkpoint(path)
    assert checkpoint.model_version == version
    assert checkpoint.config.sizes == RecipeSizes(16, LLM_HIDDEN, 12, 3, 2)
    assert checkpoint.config.llm == identify(models.llm, make_llama())
    assert checkpoint.config.encoder == load_text_encoder(models.encoder).identity
    assert checkpoint.config.training == {**models.options().model_dump(), "data": DATA}
    state = load_file(tmp_path / "run" / "prompts.safetensors")
    own = {name: value for name, value in checkpoint.tensors.items() if not name.startswith("verifier.")}
    mine = {name for name in own if name.startswith(("key_head.", "prompt_head."))}
    assert {f"model.{name}" for name in mine} == {name for name in state if name.startswith("model.")}
    assert all(torch.equal(own[name], state[f"model.{name}"].to(own[name].dtype)) for name in mine)
    editor = RecipeEditor.load(path, models.encoder, models.llm)
    (fact,) = editor.encode(["The mayor of town 1 is → B"])
    assert fact.prompt.shape == (SIZES.prompt_tokens, LLM_HIDDEN)


def test_a_checkpoint_can_be_tried_while_the_run_goes_on(
    tmp_path: Path, models: Models, material: Material, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_at(4, monkeypatch)
    with pytest.raises(StoppedError):
        run(tmp_path / "run", models.options(), material)
    assert read_checkpoint(tmp_path / "run" / "recipe.safetensors").config.training["data"] == DATA
    assert int(load_file(tmp_path / "run" / "prompts.safetensors")["step"]) == 2
    assert not list((tmp_path / "run").glob("*.partial"))


def test_progress_is_the_mean_of_the_losses_since_the_last_report(
    tmp_path: Path, models: Models, material: Material, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[dict[str, float]] = []
    original: Callable[..., dict[str, Tensor]] = Objective.losses

    def losses(self: Any, *arguments: Any) -> dict[str, Tensor]:
        found = original(self, *arguments)
        seen.append({name: float(value.detach()) for name, value in found.items()})
        return found

    monkeypatch.setattr(Objective, "losses", losses)
    run(tmp_path / "run", models.options(), material)

    lines = [json.loads(line) for line in (tmp_path / "run" / "progress.jsonl").read_text().splitlines()]
    assert [(line.pop("part"), line.pop("step")) for line in lines] == [("prompts", 3), ("prompts", 6)]
    assert all(line.pop("seconds_per_step") > 0 for line in lines)
    assert (tmp_path / "run" / "progress.png").read_bytes().startswith(b"\x89PNG")
    assert [list(line.pop("dev")) for line in lines] == [[], ["dev own", "dev paraphrased"]]  # they come with the saves
    for line, part in zip(lines, (seen[:3], seen[3:]), strict=True):
        assert line == {name: pytest.approx(sum(step[name] for step in part) / 3, rel=1e-5) for name in part[0]}


def test_every_part_learns_at_its_own_rate_and_constants_do_not(
    tmp_path: Path, models: Models, material: Material
) -> None:
    rates = {"heads_learning_rate": 2.0, "prompt_learning_rate": 3.0, "common_learning_rate": 4.0}
    options = models.options(**rates)
    model = RecipeModel(load_text_encoder(models.encoder).model, SIZES)
    pool = material.pool(options, [])
    trained = prompt_training.PromptTraining(tmp_path, model, None, pool, options)  # type: ignore[arg-type]
    peaks = dict(zip(trained._trained, (group["peak"] for group in trained._optimizer.param_groups), strict=True))
    assert peaks.pop("prompt_head.common") == 4.0
    assert {(name.split(".")[0], peak) for name, peak in peaks.items()} == {("key_head", 2.0), ("prompt_head", 3.0)}


def test_the_heads_start_where_facts_are(tmp_path: Path, models: Models, material: Material) -> None:
    run(tmp_path / "run", models.options(steps_prompts=0), material)
    tensors = read_checkpoint(tmp_path / "run" / "recipe.safetensors").tensors
    assert tensors["prompt_head.standardise.running_var"].min() > 0
    assert float(tensors["key_head.spread"]) != 1
    assert float(tensors["prompt_head.project.weight"].abs().max()) == 0


def test_parts_are_trained_one_after_the_other(
    tmp_path: Path, models: Models, material: Material, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    monkeypatch.setattr(Run, "_train_verifier", lambda _: order.append("verifier"))
    monkeypatch.setattr(Run, "_train_prompts", lambda _: order.append("prompts"))
    tried = Run(tmp_path / "run", models.options(), material, LanguageModel.load(models.llm))
    tried.train()
    assert order == list(training.PARTS) == ["verifier", "prompts"]
    tried.train(["verifier"])
    assert order[2:] == ["verifier"]
