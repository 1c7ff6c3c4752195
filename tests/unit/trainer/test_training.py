import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from recipe_common.errors import InvalidArgumentError
from recipe_model.checkpoint import read_checkpoint
from recipe_model.editor import RecipeEditor
from recipe_model.identity import identify
from recipe_model.language_model import LanguageModel
from recipe_model.pretrained import TextEncoder, load_text_encoder
from recipe_trainer import training
from recipe_trainer.batches import EditPool
from recipe_trainer.datasets import Edit, Question
from recipe_trainer.objective import Objective
from recipe_trainer.options import TrainOptions
from recipe_trainer.training import Trainer
from tiny_models import LLM_HIDDEN, SIZES, make_llama, save_encoder, save_llm

STEPS = 6
DEV = [Edit("The mayor of city 1 is", "Z", "city 1", unrelated=(Question("Where is it?"),))]
DATA = {"edits": {"sets/train.json": 1.0}, "questions": "sets/open.json"}
WORDS = "encoder.embeddings.word_embeddings.weight"


class StoppedError(Exception):
    """Ends a run in the middle, as a signal would."""


@dataclass
class Models:
    """The folders of the models to train with, and every model that was loaded from them."""

    llm: str
    encoder: str
    llms: list[LanguageModel] = field(default_factory=list)
    encoders: list[TextEncoder] = field(default_factory=list)

    def options(self, **changes: Any) -> TrainOptions:
        values: dict[str, Any] = {
            "llm": self.llm,
            "encoder": self.encoder,
            "steps": STEPS,
            "llm_every": 2,
            "llm_edits": 3,
            "contrast_edits": 5,
            "ordinary_texts": 2,
            "other_relations": 2,
            "queue": 16,
            "smallest_pool": 2,
            "typo_rate": 0.5,
            "representation": SIZES.representation,
            "prompt_tokens": SIZES.prompt_tokens,
            "sentinel_tokens": SIZES.sentinel_tokens,
            "spelling": SIZES.spelling,
            "warmup_steps": 2,
        }
        return TrainOptions(**values | changes)


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Models:
    loaded = Models(save_llm(tmp_path / "llm"), save_encoder(tmp_path / "encoder"))

    def load_llm(model_id: str) -> LanguageModel:
        loaded.llms.append(original_load(model_id))
        return loaded.llms[-1]

    def load_encoder(model_id: str) -> TextEncoder:
        loaded.encoders.append(load_text_encoder(model_id))
        return loaded.encoders[-1]

    original_load = LanguageModel.load
    monkeypatch.setattr(LanguageModel, "load", load_llm)
    monkeypatch.setattr(training, "load_text_encoder", load_encoder)
    monkeypatch.setattr(training, "SAVE_EVERY", 2)
    monkeypatch.setattr(training, "REPORT_EVERY", 3)
    return loaded


@pytest.fixture
def pool() -> EditPool:
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
    return EditPool([edits], [1.0], [[f"What is {name}?" for name in "xyz"]])


def run(folder: Path, options: TrainOptions, pool: EditPool) -> str:
    return Trainer(folder, options, pool, LanguageModel.load(options.llm), DATA, dev=DEV).run()


def stop_at(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets runs fail in that step, counted from 1."""
    original: Callable[..., dict[str, Tensor]] = Objective.losses
    taken = 0

    def losses(self: Any, *arguments: Any, **how: bool) -> dict[str, Tensor]:
        nonlocal taken
        taken += 1
        if taken == step:
            raise StoppedError
        return original(self, *arguments, **how)

    monkeypatch.setattr(Objective, "losses", losses)


@pytest.mark.parametrize("stopped_in", [1, 4, 6])
def test_a_stopped_and_resumed_run_ends_as_an_unbroken_one(
    tmp_path: Path, models: Models, pool: EditPool, stopped_in: int
) -> None:
    version = run(tmp_path / "unbroken", models.options(), pool)
    with pytest.MonkeyPatch.context() as patch:
        stop_at(stopped_in, patch)
        with pytest.raises(StoppedError):
            run(tmp_path / "resumed", models.options(), pool)
    torch.manual_seed(99)
    random.seed(99)

    resumed_version = run(tmp_path / "resumed", models.options(), pool)

    assert resumed_version == version
    unbroken = load_file(tmp_path / "unbroken" / "state.safetensors")
    resumed = load_file(tmp_path / "resumed" / "state.safetensors")
    assert int(resumed["step"]) == STEPS
    assert unbroken.keys() == resumed.keys()
    for name, value in unbroken.items():
        assert torch.equal(resumed[name], value), name
    assert read_checkpoint(tmp_path / "resumed" / "recipe.safetensors").model_version == version


def test_a_finished_run_is_only_written_again(
    tmp_path: Path, models: Models, pool: EditPool, capsys: pytest.CaptureFixture[str]
) -> None:
    version = run(tmp_path / "run", models.options(), pool)
    state = (tmp_path / "run" / "state.safetensors").read_bytes()
    capsys.readouterr()

    assert run(tmp_path / "run", models.options(), pool) == version

    assert (tmp_path / "run" / "state.safetensors").read_bytes() == state
    assert capsys.readouterr().out == f"resumed at step 6 from {tmp_path / 'run' / 'state.safetensors'}\n"


def test_another_seed_trains_another_model(tmp_path: Path, models: Models, pool: EditPool) -> None:
    first = run(tmp_path / "first", models.options(steps=1), pool)
    second = run(tmp_path / "second", models.options(steps=1, seed=1), pool)
    assert first != second
    assert not torch.equal(
        read_checkpoint(tmp_path / "first" / "recipe.safetensors").tensors["sentinel_tokens"],
        read_checkpoint(tmp_path / "second" / "recipe.safetensors").tensors["sentinel_tokens"],
    )


def test_a_folder_with_other_options_is_refused(tmp_path: Path, models: Models, pool: EditPool) -> None:
    folder = tmp_path / "run"
    run(folder, models.options(), pool)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    with pytest.raises(InvalidArgumentError) as raised:
        run(folder, models.options(queue=17), pool)

    assert str(raised.value) == (f"out: {folder} holds a run with other options (queue was 16); choose another folder")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_run_may_be_given_more_steps(tmp_path: Path, models: Models, pool: EditPool) -> None:
    folder = tmp_path / "run"
    run(folder, models.options(), pool)

    run(folder, models.options(steps=STEPS + 2), pool)

    assert int(load_file(folder / "state.safetensors")["step"]) == STEPS + 2
    assert read_checkpoint(folder / "recipe.safetensors").config.training["steps"] == STEPS + 2
    assert json.loads((folder / "options.json").read_text())["options"]["steps"] == STEPS + 2


def test_a_folder_with_other_data_is_refused(tmp_path: Path, models: Models, pool: EditPool) -> None:
    folder = tmp_path / "run"
    options = models.options(steps=1)
    run(folder, options, pool)
    with pytest.raises(InvalidArgumentError, match="holds a run with other options"):
        Trainer(folder, options, pool, LanguageModel.load(options.llm), {**DATA, "questions": "sets/other.json"})


def test_a_folder_of_another_release_is_refused(tmp_path: Path, models: Models, pool: EditPool) -> None:
    folder = tmp_path / "run"
    options = models.options(steps=1)
    run(folder, options, pool)
    state = load_file(folder / "state.safetensors")
    del state["model.key_axes"]
    save_file(state, folder / "state.safetensors")
    with pytest.raises(InvalidArgumentError, match="holds a run of another release, without key_axes"):
        run(folder, options, pool)


def test_neither_the_llm_nor_word_embeddings_change_and_all_else_does(
    tmp_path: Path, models: Models, pool: EditPool
) -> None:
    run(tmp_path / "run", models.options(), pool)

    (llm,), (encoder,) = models.llms, models.encoders
    untouched_llm = LanguageModel.load(models.llm).model.state_dict()
    assert all(torch.equal(value, untouched_llm[name]) for name, value in llm.model.state_dict().items())
    untouched = {f"encoder.{name}": value for name, value in load_text_encoder(models.encoder).model.named_parameters()}
    trained = {f"encoder.{name}": value for name, value in encoder.model.named_parameters()}
    assert [name for name, value in trained.items() if torch.equal(value, untouched[name])] == [WORDS]


def test_the_checkpoint_is_the_trained_model_and_says_how_it_was_made(
    tmp_path: Path, models: Models, pool: EditPool
) -> None:
    version = run(tmp_path / "run", models.options(), pool)

    path = tmp_path / "run" / "recipe.safetensors"
    checkpoint = read_checkpoint(path)
    assert checkpoint.model_version == version
    assert checkpoint.config.sizes == SIZES
    assert checkpoint.config.llm == identify(models.llm, make_llama())
    assert checkpoint.config.encoder == load_text_encoder(models.encoder).identity
    assert checkpoint.config.training == {**models.options().model_dump(), "steps_taken": STEPS, "data": DATA}
    state = load_file(tmp_path / "run" / "state.safetensors")
    for name, value in checkpoint.tensors.items():
        assert torch.equal(value, state[f"model.{name}"].to(value.dtype)), name


def test_what_is_given_of_the_sentinel_is_in_the_checkpoint(tmp_path: Path, models: Models, pool: EditPool) -> None:
    given = {"sentinel_offset": 1.5, "sentinel_growth": 0.5, "sentinel_crowd": 2.5}
    run(tmp_path / "run", models.options(steps=1, **given), pool)
    tensors = read_checkpoint(tmp_path / "run" / "recipe.safetensors").tensors
    assert {name: float(tensors[name]) for name in given} == given


def test_the_checkpoint_loads_with_its_encoder(tmp_path: Path, models: Models, pool: EditPool) -> None:
    version = run(tmp_path / "run", models.options(steps=1), pool)
    editor = RecipeEditor.load(tmp_path / "run" / "recipe.safetensors", models.encoder, models.llm)
    assert (editor.model_version, editor.prompt_shape) == (version, (SIZES.prompt_tokens, LLM_HIDDEN))
    assert editor.encode(["The mayor of town 1 is B"])[0].shape == (1, SIZES.representation)


def test_a_checkpoint_can_be_tried_while_the_run_goes_on(
    tmp_path: Path, models: Models, pool: EditPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_at(4, monkeypatch)
    with pytest.raises(StoppedError):
        run(tmp_path / "run", models.options(), pool)
    assert read_checkpoint(tmp_path / "run" / "recipe.safetensors").config.sizes == SIZES
    assert int(load_file(tmp_path / "run" / "state.safetensors")["step"]) == 2
    assert not list((tmp_path / "run").glob("*.partial"))


def test_progress_is_the_mean_of_the_losses_since_the_last_report(
    tmp_path: Path, models: Models, pool: EditPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[dict[str, float]] = []
    original: Callable[..., dict[str, Tensor]] = Objective.losses

    def losses(self: Any, *arguments: Any, **how: bool) -> dict[str, Tensor]:
        found = original(self, *arguments, **how)
        seen.append({name: float(value.detach()) for name, value in found.items()})
        return found

    monkeypatch.setattr(Objective, "losses", losses)
    run(tmp_path / "run", models.options(), pool)

    lines = [json.loads(line) for line in (tmp_path / "run" / "progress.jsonl").read_text().splitlines()]
    assert [line.pop("step") for line in lines] == [3, 6]
    assert all(line.pop("seconds_per_step") > 0 for line in lines)
    assert (tmp_path / "run" / "progress.png").read_bytes().startswith(b"\x89PNG")
    assert [list(line.pop("dev")) != [] for line in lines] == [False, True]  # they come with the saves
    assert [("reliability" in step) for step in seen] == [True, False] * 3  # every second step leaves the LLM out
    for line, part in zip(lines, (seen[:3], seen[3:]), strict=True):
        values = {name: [step[name] for step in part if name in step] for step in part for name in step}
        assert line == {name: pytest.approx(sum(found) / len(found), rel=1e-5) for name, found in values.items()}


def test_too_few_edits_are_refused(tmp_path: Path, models: Models, pool: EditPool) -> None:
    with pytest.raises(InvalidArgumentError, match="contrast_edits: is 9, but the data holds 8 edits only"):
        run(tmp_path / "run", models.options(contrast_edits=9), pool)


def test_every_part_learns_at_its_own_rate(tmp_path: Path, models: Models, pool: EditPool) -> None:
    rates = {"encoder_learning_rate": 1.0, "heads_learning_rate": 2.0, "prompt_learning_rate": 3.0}
    options = models.options(**rates, common_learning_rate=4.0, spelling_learning_rate=5.0)
    trainer = Trainer(tmp_path / "run", options, pool, LanguageModel.load(options.llm), DATA)
    peaks = dict(zip(trainer._parameters(), (group["peak"] for group in trainer._optimizer.param_groups), strict=True))
    assert {name.split(".")[0]: peak for name, peak in peaks.items() if name != "prompt_head.common"} == {
        "sentinel_tokens": 2.0, "encoder": 1.0, "key_head": 2.0, "query_head": 2.0, "prompt_head": 3.0,
        "spelling": 5.0,
    }  # fmt: skip
    assert peaks["prompt_head.common"] == 4.0


def test_watching_changes_nothing(
    tmp_path: Path, models: Models, pool: EditPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "REPORT_EVERY", 2)  # figures in the middle of the run
    watched = run(tmp_path / "watched", models.options(), pool)
    options = models.options()
    alone = Trainer(tmp_path / "alone", options, pool, LanguageModel.load(options.llm), DATA).run()
    assert watched == alone


def test_the_encoder_is_pulled_to_the_pretrained_one(tmp_path: Path, models: Models, pool: EditPool) -> None:
    def drift(folder: str, pull: float) -> float:
        run(tmp_path / folder, models.options(encoder_pull=pull), pool)
        trained = load_file(tmp_path / folder / "recipe.safetensors")
        start = load_text_encoder(models.encoder).model.state_dict()
        parts = [value.float() - start[name[8:]] for name, value in trained.items() if name.startswith("encoder.")]
        return float(torch.cat([part.flatten() for part in parts]).norm())

    assert drift("pulled", 3_000.0) < 0.95 * drift("free", 0.0)


def test_the_queue_is_full_before_the_first_step(
    tmp_path: Path, models: Models, pool: EditPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_at(1, monkeypatch)
    trainer = Trainer(tmp_path, models.options(), pool, LanguageModel.load(models.llm), DATA)
    with pytest.raises(StoppedError):
        trainer.run()
    assert sorted(trainer._queue.indices.tolist())[-8:] == list(range(8))
