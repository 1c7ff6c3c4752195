from dataclasses import replace
from pathlib import Path

import pytest
import torch

from recipe_common.errors import InvalidArgumentError
from recipe_model.checkpoint import Checkpoint, read_checkpoint, save_checkpoint
from recipe_trainer.averaging import mean_of
from tiny_models import checkpoint_config, make_recipe_model


def saved(path: Path, seed: int) -> Checkpoint:
    save_checkpoint(path, make_recipe_model(seed), replace(checkpoint_config(), training={"seed": seed}))
    return read_checkpoint(path)


@pytest.fixture
def two(tmp_path: Path) -> list[Checkpoint]:
    return [saved(tmp_path / f"{seed}.safetensors", seed) for seed in (0, 1)]


def test_the_mean_of_one_is_that_one(two: list[Checkpoint]) -> None:
    assert mean_of(two[:1], [5.0]) is two[0]


def test_every_tensor_is_the_mean_by_the_weights_and_the_origin_is_recorded(two: list[Checkpoint]) -> None:
    mean = mean_of(two, [1.0, 3.0])
    assert set(mean.tensors) == set(two[0].tensors)
    for name, tensor in mean.tensors.items():
        expected = 0.25 * two[0].tensors[name].float() + 0.75 * two[1].tensors[name].float()
        torch.testing.assert_close(tensor, expected)
    assert mean.config.training == {
        "mean_of": [
            {"weight": 1.0, "model_version": two[0].model_version, "seed": 0},
            {"weight": 3.0, "model_version": two[1].model_version, "seed": 1},
        ]
    }
    assert all(one.model_version in mean.model_version for one in two)


def test_checkpoints_of_other_models_have_no_mean(two: list[Checkpoint]) -> None:
    config = two[1].config
    other = replace(two[1], config=replace(config, sizes=replace(config.sizes, prompt_tokens=99)))
    with pytest.raises(InvalidArgumentError, match=r"initial: .* are of other models or sizes"):
        mean_of([two[0], other], [1.0, 1.0])
