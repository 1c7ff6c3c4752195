import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recipe_client.editor_beside_llm import EditorBesideLlm
from recipe_common.errors import InvalidArgumentError
from recipe_model.editor import RecipeEditor
from tiny_models import (
    byte_tokenizer,
    make_prompt_words,
    make_recipe_model,
    save_encoder,
    save_llm,
    save_tiny_checkpoint,
)

TEXTS = ["The mayor of Aville is Ann", "The mayor of Beton is Bob"]


def make(kind: type[RecipeEditor]) -> RecipeEditor:
    model = make_recipe_model().requires_grad_(False)
    return kind(model, byte_tokenizer(marked=True), 128, "recipe-test", make_prompt_words())


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch) -> list[threading.Thread]:
    """Those that compute hidden states."""
    seen: list[threading.Thread] = []
    states = RecipeEditor._states

    def watched(self: RecipeEditor, *arguments: Any) -> Any:
        seen.append(threading.current_thread())
        return states(self, *arguments)

    monkeypatch.setattr(RecipeEditor, "_states", watched)
    return seen


def test_facts_and_several_questions_are_encoded_in_threads_that_have_ended(threads: list[threading.Thread]) -> None:
    plain, beside = make(RecipeEditor), make(EditorBesideLlm)

    for expected, found in zip(plain.encode(TEXTS), beside.encode(TEXTS), strict=True):
        np.testing.assert_array_equal(expected.vector, found.vector)
        np.testing.assert_array_equal(expected.tokens.states, found.tokens.states)
        np.testing.assert_array_equal(expected.prompt, found.prompt)
    for one, other in zip(plain.query(TEXTS), beside.query(TEXTS), strict=True):
        np.testing.assert_array_equal(one.vector, other.vector)
    here = threading.current_thread()
    assert [thread is here for thread in threads] == [True, True, False, False, True, False]  # facts twice
    assert not any(thread.is_alive() for thread in threads if thread is not here)


def test_one_question_is_encoded_where_it_is_asked(threads: list[threading.Thread]) -> None:
    make(EditorBesideLlm).query(TEXTS[:1])
    assert threads == [threading.current_thread()]


def test_what_goes_wrong_is_raised() -> None:
    with pytest.raises(InvalidArgumentError, match="shorten it"):
        make(EditorBesideLlm).encode(["x" * 500])


def test_a_checkpoint_is_loaded_as_such(tmp_path: Path) -> None:
    save_tiny_checkpoint(tmp_path / "recipe.safetensors")
    encoder, llm = save_encoder(tmp_path / "encoder"), save_llm(tmp_path / "llm")
    editor = EditorBesideLlm.load(tmp_path / "recipe.safetensors", encoder, llm)
    assert type(editor) is EditorBesideLlm
