"""What is known of an LLM that runs elsewhere must be what the loaded LLM says."""

from pathlib import Path

import numpy as np
import pytest
import torch

from recipe_model.defaults import Precision
from recipe_model.errors import ModelUnavailableError
from recipe_model.language_model import LanguageModel
from recipe_model.outside_llm import OutsideLlm
from tiny_models import LLM_HIDDEN, make_gpt2, save_llm

TEXT = "The mayor of Aville is"


@pytest.fixture
def folder(tmp_path: Path) -> str:
    return save_llm(tmp_path / "llm")


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_it_says_what_the_loaded_llm_says(folder: str, precision: Precision) -> None:
    inside, outside = LanguageModel.load(folder, precision), OutsideLlm.load(folder, precision)

    assert outside.identity == inside.identity
    assert (outside.max_tokens, outside.end_ids) == (inside.max_tokens, inside.end_ids)
    assert (outside.folder, outside.dtype) == (folder, inside.model.dtype)
    ids = outside.token_ids(TEXT)
    assert ids == inside.token_ids(TEXT)
    assert outside.text(ids) == TEXT
    prompt = np.random.default_rng(0).normal(size=(3, LLM_HIDDEN)).astype(np.float16)
    told = inside.told("So it is", torch.from_numpy(prompt))
    fed = inside.inputs(told, ids)["inputs_embeds"][0]
    assert torch.equal(outside.embed(prompt, ids, "So it is"), fed)
    assert torch.equal(outside.embed(None, ids), fed[len(told) :])


def test_a_model_without_generation_settings_ends_as_its_config_says(folder: str) -> None:
    (Path(folder) / "generation_config.json").unlink()
    assert OutsideLlm.load(folder).end_ids == [2]


def test_a_model_without_rotary_positions_is_refused(tmp_path: Path) -> None:
    make_gpt2().save_pretrained(tmp_path)
    with pytest.raises(ModelUnavailableError, match="no rotary position embeddings"):
        OutsideLlm.load(str(tmp_path))
