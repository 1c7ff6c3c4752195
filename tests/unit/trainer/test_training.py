import json
import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from recipe_common.errors import InvalidArgumentError
from recipe_model.checkpoint import Checkpoint, read_checkpoint, save_checkpoint
from recipe_model.editor import RecipeEditor
from recipe_model.errors import CheckpointError
from recipe_model.identity import identify
from recipe_model.language_model import LanguageModel
from recipe_model.networks import RecipeModel
from recipe_model.pretrained import load_text_encoder
from recipe_trainer import calibration, prompt_training, training
from recipe_trainer.corpus import Corpus
from recipe_trainer.datasets import Edit, Question
from recipe_trainer.material import Material
from recipe_trainer.objective import Objective
from recipe_trainer.options import TrainOptions
from recipe_trainer.parts import PARTS
from recipe_trainer.prompt_training import prompt_tensors
from recipe_trainer.runs import save_state
from recipe_trainer.training import Run
from recipe_trainer.verifier_training import verifier_tensors
from tiny_models import (
    LLM_HIDDEN,
    RUN_SIZES,
    SIZES,
    checkpoint_config,
    make_llama,
    make_recipe_model,
    save_encoder,
    save_llm,
    save_tiny_checkpoint,
)

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
    """The folders of the models to train with, and a checkpoint for them that has what is not trained."""

    llm: str
    encoder: str
    start: Checkpoint

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
    # One fact in `dev` is too little for a calibration, and no verifier learns here from what takes long to read.
    monkeypatch.setattr(calibration, "calibrate", lambda *_: None)
    monkeypatch.setattr(training, "read_corpus", lambda *_, **__: Corpus([], []))
    save_tiny_checkpoint(tmp_path / "start.safetensors", sizes=RUN_SIZES)
    start = read_checkpoint(tmp_path / "start.safetensors")
    return Models(save_llm(tmp_path / "llm"), save_encoder(tmp_path / "encoder"), start)


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


def run(folder: Path, models: Models, material: Material, **changes: Any) -> str:
    """Train the prompts, beside the verifier of `models.start`."""
    options = models.options(**changes)
    return Run(folder, options, material, LanguageModel.load(options.llm), models.start).train(["prompts"])


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
    version = run(tmp_path / "unbroken", models, material)
    with pytest.MonkeyPatch.context() as patch:
        stop_at(stopped_in, patch)
        with pytest.raises(StoppedError):
            run(tmp_path / "resumed", models, material)
    torch.manual_seed(99)
    random.seed(99)

    resumed_version = run(tmp_path / "resumed", models, material)

    assert resumed_version == version
    unbroken = load_file(tmp_path / "unbroken" / "prompts.safetensors")
    resumed = load_file(tmp_path / "resumed" / "prompts.safetensors")
    assert int(resumed["step"]) == STEPS
    assert unbroken.keys() == resumed.keys()
    assert all(torch.equal(resumed[name], value) for name, value in unbroken.items())


def test_a_finished_run_is_only_written_again(
    tmp_path: Path, models: Models, material: Material, capsys: pytest.CaptureFixture[str]
) -> None:
    version = run(tmp_path / "run", models, material)
    state = (tmp_path / "run" / "prompts.safetensors").read_bytes()
    capsys.readouterr()

    assert run(tmp_path / "run", models, material) == version

    assert (tmp_path / "run" / "prompts.safetensors").read_bytes() == state
    assert capsys.readouterr().out == f"resumed at step 6 from {tmp_path / 'run' / 'prompts.safetensors'}\n"


def test_the_finished_state_of_another_run_is_taken_up(tmp_path: Path, models: Models, material: Material) -> None:
    version = run(tmp_path / "first", models, material)
    (tmp_path / "second").mkdir()
    (tmp_path / "first" / "prompts.safetensors").rename(tmp_path / "second" / "prompts.safetensors")
    assert run(tmp_path / "second", models, material) == version


def test_another_seed_trains_another_model(tmp_path: Path, models: Models, material: Material) -> None:
    first = run(tmp_path / "first", models, material, steps_prompts=1)
    assert first != run(tmp_path / "second", models, material, steps_prompts=1, seed=1)


def test_a_folder_with_other_options_or_data_is_refused(tmp_path: Path, models: Models, material: Material) -> None:
    folder = tmp_path / "run"
    run(folder, models, material, steps_prompts=1)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    with pytest.raises(InvalidArgumentError) as raised:
        run(folder, models, material, steps_prompts=1, edits=4)

    assert str(raised.value) == f"out: {folder} holds a run with other options (edits was 3); choose another folder"
    material.record["questions"] = ["sets/other.json"]
    try:
        with pytest.raises(InvalidArgumentError, match="holds a run with other options"):
            run(folder, models, material, steps_prompts=1)
    finally:
        material.record["questions"] = ["sets/open.json"]
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_run_may_be_given_more_steps(tmp_path: Path, models: Models, material: Material) -> None:
    folder = tmp_path / "run"
    run(folder, models, material)
    run(folder, models, material, steps_prompts=STEPS + 2)
    assert int(load_file(folder / "prompts.safetensors")["step"]) == STEPS + 2
    assert read_checkpoint(folder / "recipe.safetensors").config.training["steps_prompts"] == STEPS + 2
    assert json.loads((folder / "options.json").read_text())["options"]["steps_prompts"] == STEPS + 2


def test_the_checkpoint_is_the_trained_model_and_says_how_it_was_made(
    tmp_path: Path, models: Models, material: Material
) -> None:
    version = run(tmp_path / "run", models, material)

    path = tmp_path / "run" / "recipe.safetensors"
    checkpoint = read_checkpoint(path)
    assert checkpoint.model_version == version
    assert checkpoint.config.sizes == RUN_SIZES
    assert checkpoint.config.llm == identify(models.llm, make_llama())
    assert checkpoint.config.encoder == load_text_encoder(models.encoder).identity
    assert checkpoint.config.training == {
        **models.options().model_dump(),
        "data": DATA,
        "start": {"verifier": models.start.model_version},
    }
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
        run(tmp_path / "run", models, material)
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
    run(tmp_path / "run", models, material)

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
    run(tmp_path / "run", models, material, steps_prompts=0)
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
    tried = Run(tmp_path / "run", models.options(), material, LanguageModel.load(models.llm), models.start)
    tried.train()
    assert order == list(PARTS) == ["verifier", "prompts"]
    tried.train(["verifier"])
    assert order[2:] == ["verifier"]


HEADS = ("key_head.", "prompt_head.")


def alone(part: str, folder: Path, models: Models, material: Material, start: Checkpoint | None) -> Checkpoint:
    """The checkpoint of a run that trains only this part, for one step at most."""
    options = models.options(steps_prompts=1, steps_verifier=0)
    Run(folder, options, material, LanguageModel.load(options.llm), start).train([part])
    return read_checkpoint(folder / "recipe.safetensors")


def same(one: Checkpoint, other: Checkpoint, *, heads: bool) -> set[bool]:
    """Whether each tensor of the heads, or each of the others, is the same in both."""
    names = [name for name in one.tensors if name.startswith(HEADS) is heads]
    return {torch.equal(one.tensors[name], other.tensors[name]) for name in names}


def sure(folder: Path) -> Checkpoint:
    """A checkpoint that differs from an untrained one in all that goes with the verifier."""
    model = make_recipe_model(1, RUN_SIZES)
    for number, name in enumerate(("confidence_scale", "confidence_offset", "min_confidence", "min_similarity")):
        model.get_buffer(name).fill_(number / 8)
    path = folder / "sure.safetensors"
    save_checkpoint(path, model, replace(checkpoint_config(), sizes=RUN_SIZES))
    return read_checkpoint(path)


def test_prompts_alone_take_the_verifier_with_its_confidence_from_a_checkpoint(
    tmp_path: Path, models: Models, material: Material
) -> None:
    start = sure(tmp_path)
    made = alone("prompts", tmp_path / "run", models, material, start)
    assert same(made, start, heads=False) == {True}
    assert same(made, start, heads=True) == {False}
    assert made.config.training["start"] == {"verifier": start.model_version}


@pytest.mark.parametrize("part", PARTS)
def test_a_run_may_go_on_from_a_checkpoints_state_of_what_it_trains(
    part: str, tmp_path: Path, models: Models, material: Material
) -> None:
    start = sure(tmp_path)
    options = models.options(steps_prompts=0, steps_verifier=0)
    Run(tmp_path / "run", options, material, LanguageModel.load(options.llm), start, go_on=True).train([part])
    made = read_checkpoint(tmp_path / "run" / "recipe.safetensors")
    trained = [name for name in made.tensors if name.startswith(HEADS if part == "prompts" else "verifier.")]
    assert all(torch.equal(made.tensors[name], start.tensors[name]) for name in trained)
    assert made.config.training["start"] == dict.fromkeys(PARTS, start.model_version)


def test_the_verifier_alone_takes_the_heads_from_a_checkpoint(
    tmp_path: Path, models: Models, material: Material
) -> None:
    start = sure(tmp_path)
    made = alone("verifier", tmp_path / "run", models, material, start)
    assert same(made, start, heads=True) == {True}
    assert float(made.tensors["min_similarity"]) != float(start.tensors["min_similarity"])
    assert not torch.equal(made.tensors["verifier.sentinel"], start.tensors["verifier.sentinel"])
    assert made.config.training["start"] == {"prompts": start.model_version}


def trained_part(folder: Path, part: str) -> RecipeModel:
    """A model, of which this part is left as a run's state."""
    model = make_recipe_model(5, RUN_SIZES)
    tensors = verifier_tensors(model) if part == "verifier" else prompt_tensors(model)
    folder.mkdir()
    save_state(folder / f"{part}.safetensors", 7, tensors, torch.optim.AdamW(model.verifier.parameters()))
    return model


@pytest.mark.parametrize("with_start", [True, False])
def test_prompts_alone_keep_the_verifier_that_was_trained_in_the_folder_and_calibrate_it(
    tmp_path: Path, models: Models, material: Material, monkeypatch: pytest.MonkeyPatch, with_start: bool
) -> None:
    def calibrate(model: RecipeModel, *_: object) -> None:
        assert torch.equal(model.verifier.sentinel, trained.verifier.sentinel)
        model.confidence_scale.fill_(3.0)

    monkeypatch.setattr(calibration, "calibrate", calibrate)
    trained = trained_part(tmp_path / "run", "verifier")
    made = alone("prompts", tmp_path / "run", models, material, models.start if with_start else None)
    for name, value in trained.verifier.named_parameters():
        assert torch.equal(made.tensors[f"verifier.{name}"], value.to(made.tensors[f"verifier.{name}"].dtype)), name
    assert float(made.tensors["confidence_scale"]) == 3
    assert "start" not in made.config.training


def test_the_verifier_alone_keeps_the_prompts_that_were_trained_in_the_folder(
    tmp_path: Path, models: Models, material: Material
) -> None:
    trained = trained_part(tmp_path / "run", "prompts")
    made = alone("verifier", tmp_path / "run", models, material, models.start)
    for name, value in prompt_tensors(trained).items():
        assert torch.equal(made.tensors[name], value.to(made.tensors[name].dtype)), name
    assert "start" not in made.config.training


@pytest.mark.parametrize(("part", "other"), [("prompts", "verifier"), ("verifier", "prompts")])
def test_a_part_that_is_neither_trained_nor_given_is_refused(
    tmp_path: Path, models: Models, material: Material, part: str, other: str
) -> None:
    folder = tmp_path / "run"
    with pytest.raises(InvalidArgumentError) as raised:
        alone(part, folder, models, material, None)
    assert str(raised.value) == (
        f"part: the {other} would stay untrained, as {folder / other}.safetensors does not exist; train both parts, "
        f"or name a checkpoint to take the {other} from with --start"
    )
    assert not (folder / "recipe.safetensors").exists()


@pytest.mark.parametrize(
    ("part", "changes", "message"),
    [
        (
            "prompts",
            {"sentinel_tokens": 5, "verifier_width": 64},
            "sentinel_tokens is 5, not 2, verifier_width is 64, not 128",
        ),
        ("verifier", {"representation": 10}, "representation is 10, not 12"),
    ],
)
def test_a_part_of_other_sizes_is_refused(
    tmp_path: Path, models: Models, material: Material, part: str, changes: dict[str, int], message: str
) -> None:
    path = tmp_path / "other.safetensors"
    version = save_tiny_checkpoint(path, sizes=replace(RUN_SIZES, **changes))
    with pytest.raises(InvalidArgumentError) as raised:
        alone(part, tmp_path / "run", models, material, read_checkpoint(path))
    assert str(raised.value) == (
        f"start: in other.safetensors ({version}) {message}; name a checkpoint of the run's sizes"
    )


@pytest.mark.parametrize(
    ("part", "seeds", "kind"),
    [("prompts", (1, 0), "text encoder"), ("verifier", (1, 0), "text encoder"), ("verifier", (0, 1), "LLM")],
)
def test_a_part_for_other_models_is_refused(
    tmp_path: Path, models: Models, material: Material, part: str, seeds: tuple[int, int], kind: str
) -> None:
    config = replace(checkpoint_config(*seeds), sizes=RUN_SIZES)
    save_checkpoint(tmp_path / "other.safetensors", make_recipe_model(0, RUN_SIZES), config)
    with pytest.raises(CheckpointError, match=f"was trained for the {kind} tiny-.*: embeddings_sha256 "):
        alone(part, tmp_path / "run", models, material, read_checkpoint(tmp_path / "other.safetensors"))


def test_a_verifier_may_come_from_a_checkpoint_for_another_llm(
    tmp_path: Path, models: Models, material: Material
) -> None:
    config = replace(checkpoint_config(llm_seed=1), sizes=replace(RUN_SIZES, llm_hidden=8))
    save_checkpoint(tmp_path / "other.safetensors", make_recipe_model(0, config.sizes), config)
    start = read_checkpoint(tmp_path / "other.safetensors")
    assert same(alone("prompts", tmp_path / "run", models, material, start), start, heads=False) == {True}
