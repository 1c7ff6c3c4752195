import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from recipe_model.checkpoint import (
    FORMAT,
    CheckpointConfig,
    build_model,
    read_checkpoint,
    save_checkpoint,
    trained_tensors,
)
from recipe_model.errors import CheckpointError
from recipe_model.identity import ModelIdentity, identify
from recipe_model.networks import RecipeSizes
from tiny_models import (
    SIZES,
    checkpoint_config,
    make_recipe_model,
    make_roberta,
    make_text_encoder,
    save_tiny_checkpoint,
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "runs" / "recipe.safetensors"


def test_a_saved_checkpoint_is_read_back_in_half_precision(path: Path) -> None:
    model = make_recipe_model()
    model.settle_keys(torch.randn(64, SIZES.representation))
    config = checkpoint_config()

    version = save_checkpoint(path, model, config)
    checkpoint = read_checkpoint(path)

    assert (checkpoint.model_version, checkpoint.config, checkpoint.path) == (version, config, path)
    expected = trained_tensors(model)
    assert checkpoint.tensors.keys() == expected.keys()
    for name, value in expected.items():
        stored = value.half() if value.ndim > 1 else value
        assert checkpoint.tensors[name].dtype == stored.dtype
        assert torch.equal(checkpoint.tensors[name], stored), name


def test_a_built_model_computes_what_the_saved_one_did(path: Path) -> None:
    model = make_recipe_model()
    model.start_keys(1.0 + 3.0 * torch.randn(64, SIZES.features))
    with torch.no_grad():
        for value in trained_tensors(model).values():
            value.copy_(value.half().float())  # so that nothing is rounded away
    model.settle_keys(torch.randn(64, SIZES.representation))
    save_checkpoint(path, model, checkpoint_config())

    built = build_model(read_checkpoint(path), make_text_encoder())

    assert not built.training
    assert not any(parameter.requires_grad for parameter in built.parameters())
    hidden, mask = torch.randn(4, 6, SIZES.encoder_hidden), torch.ones(4, 6)
    keys = model.keys(hidden, mask)
    assert torch.equal(built.keys(hidden, mask), keys)
    words = torch.randn(4, SIZES.prompt_tokens, SIZES.llm_hidden)
    assert torch.equal(built.prompts(keys, words), model.prompts(keys, words))
    asked = (hidden, torch.arange(24).reshape(4, 6), mask.bool())
    expected = model.requires_grad_(False).verifier.sentinel_scores(*asked)
    assert torch.equal(built.verifier.sentinel_scores(*asked), expected)


def test_what_is_measured_after_training_is_kept_to_the_last_bit(path: Path) -> None:
    model = make_recipe_model()
    names = ("confidence_scale", "confidence_offset", "min_confidence", "min_similarity")
    for number, name in enumerate(names):
        model.get_buffer(name).fill_(1.0 + number / 3)
    save_checkpoint(path, model, checkpoint_config())

    built = build_model(read_checkpoint(path), make_text_encoder())

    for name in names:
        assert torch.equal(built.get_buffer(name), model.get_buffer(name))


def test_nothing_of_the_frozen_encoder_is_in_a_checkpoint(path: Path) -> None:
    model = make_recipe_model()
    save_checkpoint(path, model, checkpoint_config())

    left_out = {name for name, _ in model.named_parameters()} - load_file(path).keys()

    assert left_out == {f"encoder.{name}" for name, _ in model.encoder.named_parameters()}


def test_a_checkpoint_is_readable_for_whoever_may_read_the_users_files(path: Path) -> None:
    save_tiny_checkpoint(path)
    other = path.parent / "other"
    other.write_text("")
    assert path.stat().st_mode == other.stat().st_mode


def test_saving_again_replaces_the_file_and_leaves_nothing_else(path: Path) -> None:
    save_tiny_checkpoint(path, seed=0)
    version = save_tiny_checkpoint(path, seed=1)

    assert read_checkpoint(path).model_version == version
    assert list(path.parent.iterdir()) == [path]


def test_the_version_is_the_same_for_the_same_model(path: Path) -> None:
    versions = {save_tiny_checkpoint(path), save_tiny_checkpoint(path.with_name("copy.safetensors"))}
    assert len(versions) == 1


def test_the_version_changes_with_every_tensor(path: Path) -> None:
    model = make_recipe_model()
    versions = {save_checkpoint(path, model, checkpoint_config())}
    for value in trained_tensors(model).values():
        with torch.no_grad():
            value.view(-1)[0] += 1.0
        versions.add(save_checkpoint(path, model, checkpoint_config()))
    assert len(versions) == 1 + len(trained_tensors(model))


def changed_configs() -> Iterator[CheckpointConfig]:
    config = checkpoint_config()
    yield replace(config, encoder=replace(config.encoder, model_id="another"))
    yield replace(config, encoder=replace(config.encoder, embeddings_sha256="0"))
    yield replace(config, llm=replace(config.llm, layers=3))
    yield replace(config, sizes=replace(config.sizes, sentinel_tokens=9))
    yield replace(config, training={"steps": 2})


def test_the_version_changes_with_every_part_of_the_configuration(path: Path) -> None:
    model = make_recipe_model()
    configs = [checkpoint_config(), *changed_configs()]
    assert len({save_checkpoint(path, model, config) for config in configs}) == len(configs)


def test_another_text_encoder_is_refused_with_the_reason(path: Path) -> None:
    version = save_tiny_checkpoint(path)
    checkpoint = read_checkpoint(path)
    other = make_text_encoder(seed=1)
    trained, given = checkpoint.config.encoder, other.identity

    with pytest.raises(CheckpointError) as raised:
        build_model(checkpoint, other)

    assert str(raised.value) == (
        f"checkpoint: recipe.safetensors ({version}) was trained for the text encoder tiny-encoder, not for "
        f"tiny-encoder: embeddings_sha256 {trained.embeddings_sha256[:12]} against {given.embeddings_sha256[:12]}"
    )


def test_another_llm_is_refused_with_every_difference(path: Path) -> None:
    version = save_tiny_checkpoint(path)
    checkpoint = read_checkpoint(path)

    with pytest.raises(CheckpointError) as raised:
        checkpoint.require_llm(replace(checkpoint.config.llm, model_id="big-llm", hidden_size=64, layers=9))

    assert str(raised.value) == (
        f"checkpoint: recipe.safetensors ({version}) was trained for the LLM tiny-llm, not for big-llm: "
        "hidden_size 32 against 64; layers 2 against 9"
    )


def test_the_same_models_under_other_names_are_accepted(path: Path) -> None:
    save_tiny_checkpoint(path)
    checkpoint = read_checkpoint(path)
    checkpoint.require_llm(replace(checkpoint.config.llm, model_id="a/folder"))
    checkpoint.require_encoder(replace(checkpoint.config.encoder, model_id="a/folder"))


def test_an_identity_is_the_same_in_every_precision() -> None:
    model = make_roberta()
    assert identify("x", model) == identify("x", model.bfloat16())


def test_a_missing_file_is_named(path: Path) -> None:
    with pytest.raises(CheckpointError) as raised:
        read_checkpoint(path)
    assert str(raised.value) == (
        f"checkpoint: there is no file {path}; train one with 'recipe train' or correct the path"
    )


def test_a_file_that_is_not_safetensors_is_refused(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"PK\x03\x04 this is a pickle in a zip archive")
    with pytest.raises(CheckpointError, match="is not a readable safetensors file"):
        read_checkpoint(path)


def test_a_truncated_file_is_refused(path: Path) -> None:
    save_tiny_checkpoint(path)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="is not a readable safetensors file"):
        read_checkpoint(path)


@pytest.mark.parametrize("metadata", [None, {"format": "recipe-checkpoint/6"}, {"format": "pt"}])
def test_another_format_is_refused(path: Path, metadata: dict[str, str] | None) -> None:
    path.parent.mkdir()
    save_file({"weights": torch.zeros(1)}, path, metadata=metadata)
    found = (metadata or {}).get("format")
    with pytest.raises(CheckpointError) as raised:
        read_checkpoint(path)
    assert str(raised.value) == (
        f"checkpoint: {path} has format {found!r}, this release reads {FORMAT!r}; train it again with 'recipe train'"
    )


def test_a_flipped_byte_of_a_tensor_is_found(path: Path) -> None:
    version = save_tiny_checkpoint(path)
    content = bytearray(path.read_bytes())
    content[-7] ^= 0x01
    path.write_bytes(content)

    with pytest.raises(CheckpointError) as raised:
        read_checkpoint(path)

    message = str(raised.value)
    assert message.startswith(f"checkpoint: {path} names itself {version} but its content is recipe-")
    assert message.endswith("it is damaged or was changed; fetch it again")


@pytest.mark.parametrize("word", ["sentinel_tokens", "tiny-llm", '"config', '"model_version'])
def test_a_changed_header_is_found(path: Path, word: str) -> None:
    save_tiny_checkpoint(path)
    content = path.read_bytes()
    damaged = word[:-1] + chr(ord(word[-1]) ^ 1)
    assert word.encode() in content
    path.write_bytes(content.replace(word.encode(), damaged.encode(), 1))

    with pytest.raises(CheckpointError):
        read_checkpoint(path)


def test_a_missing_an_unknown_and_a_misshapen_tensor_are_named(path: Path) -> None:
    save_tiny_checkpoint(path)
    checkpoint = read_checkpoint(path)
    tensors = dict(checkpoint.tensors)
    del tensors["key_head.refine.bias"]
    tensors["unknown"] = torch.zeros(1)
    tensors["verifier.sentinel"] = torch.zeros(1, 2)

    with pytest.raises(CheckpointError) as raised:
        build_model(replace(checkpoint, tensors=tensors), make_text_encoder())

    assert str(raised.value) == (
        f"checkpoint: {path} has missing, unknown or misshapen tensors: "
        "['key_head.refine.bias', 'unknown', 'verifier.sentinel']"
    )


def test_the_configuration_survives_json() -> None:
    config = CheckpointConfig(
        encoder=ModelIdentity("encoder", 1, 2, 3, "aa"),
        llm=ModelIdentity("llm", 4, 5, 6, "bb"),
        sizes=RecipeSizes(1, 4, 7, 8, 9, 10, 11),
        training={"data": {"edits": {"a.json": 0.5}}, "steps": 3},
    )
    assert CheckpointConfig.from_json(config.to_json()) == config
    assert json.loads(config.to_json())["sizes"] == {
        "encoder_hidden": 1, "llm_hidden": 4, "representation": 7, "prompt_tokens": 8, "sentinel_tokens": 9,
        "verifier_width": 10, "verifier_layers": 11,
    }  # fmt: skip
