from pathlib import Path

import numpy as np
import pytest
import torch

from generation_harness import some_prompt
from recipe_generator.engine import TransformersEngine
from recipe_generator.server import load_engine
from recipe_generator.settings import GeneratorSettings
from recipe_model.errors import CheckpointError
from tiny_models import make_language_model, save_llm, save_tiny_checkpoint

TEXT = "The mayor of Aville is"


def test_a_prompt_of_read_only_bytes_is_applied() -> None:
    llm = make_language_model()
    prompt = np.frombuffer(some_prompt().tobytes(), dtype="<f2").reshape(some_prompt().shape)

    written = TransformersEngine(llm).generate(prompt, TEXT, 8)

    assert written == llm.generate(torch.from_numpy(some_prompt()), TEXT, 8)
    assert written.text != llm.generate(None, TEXT, 8).text


def test_without_a_prompt_the_text_is_the_plain_models() -> None:
    llm = make_language_model()
    assert TransformersEngine(llm).generate(None, TEXT, 8) == llm.generate(None, TEXT, 8)


def test_a_stopped_engine_ends_what_it_generates_at_once() -> None:
    engine = TransformersEngine(make_language_model())
    engine.stop()
    written = engine.generate(None, TEXT, 100)
    assert (written.generated_tokens, written.ended) == (1, False)


def test_an_engine_is_loaded_with_the_checkpoint_that_fits_it(tmp_path: Path) -> None:
    version = save_tiny_checkpoint(tmp_path / "recipe.safetensors")
    settings = GeneratorSettings(
        checkpoint=tmp_path / "recipe.safetensors", llm=save_llm(tmp_path / "llm"), precision="float32"
    )

    engine, checkpoint = load_engine(settings)

    assert checkpoint.model_version == version
    assert engine.generate(None, TEXT, 8) == make_language_model().generate(None, TEXT, 8)


def test_an_engine_is_not_loaded_with_another_llms_checkpoint(tmp_path: Path) -> None:
    save_tiny_checkpoint(tmp_path / "recipe.safetensors", seed=0)
    settings = GeneratorSettings(
        checkpoint=tmp_path / "recipe.safetensors", llm=save_llm(tmp_path / "llm", seed=1), precision="float32"
    )
    with pytest.raises(CheckpointError, match="was trained for the LLM tiny-llm, not for"):
        load_engine(settings)
