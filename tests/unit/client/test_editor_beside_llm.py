import threading
from typing import Any

import numpy as np
import pytest

from recipe_client.editor_beside_llm import EditorBesideLlm
from recipe_common.errors import InvalidArgumentError
from recipe_model.editor import RecipeEditor
from tiny_models import byte_tokenizer, make_prompt_words, make_recipe_model

TEXTS = ["The mayor of Aville is Ann", "The mayor of Beton is Bob"]


def make(kind: type[RecipeEditor]) -> RecipeEditor:
    model = make_recipe_model().requires_grad_(False)
    return kind(model, byte_tokenizer(marked=True), 128, "recipe-test", make_prompt_words())


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch) -> list[threading.Thread]:
    """Those that compute features."""
    seen: list[threading.Thread] = []
    features = RecipeEditor._features

    def watched(self: RecipeEditor, *arguments: Any) -> Any:
        seen.append(threading.current_thread())
        return features(self, *arguments)

    monkeypatch.setattr(RecipeEditor, "_features", watched)
    return seen


def test_facts_and_several_questions_are_encoded_in_threads_that_have_ended(threads: list[threading.Thread]) -> None:
    plain, beside = make(RecipeEditor), make(EditorBesideLlm)

    for expected, found in zip(plain.encode(TEXTS), beside.encode(TEXTS), strict=True):
        np.testing.assert_array_equal(np.asarray(expected), np.asarray(found))
    for one, other in zip(plain.query(TEXTS), beside.query(TEXTS), strict=True):
        assert np.array_equal(one.vector, other.vector)
    here = threading.current_thread()
    assert [thread is here for thread in threads] == [True, False, True, False]
    assert not any(thread.is_alive() for thread in threads if thread is not here)


def test_one_question_is_encoded_where_it_is_asked(threads: list[threading.Thread]) -> None:
    make(EditorBesideLlm).query(TEXTS[:1])
    assert threads == [threading.current_thread()]


def test_what_goes_wrong_is_raised() -> None:
    with pytest.raises(InvalidArgumentError, match="shorten it"):
        make(EditorBesideLlm).encode(["x" * 500])


def test_the_shipped_checkpoint_is_loaded_as_such() -> None:
    assert type(EditorBesideLlm.load()) is EditorBesideLlm
