from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from recipe_model.editor import RecipeEditor
from recipe_model.tokenized_texts import tokenize
from recipe_trainer.ablation import Base
from recipe_trainer.datasets import Edit, Question
from recipe_trainer.knowledge_base import temporary_knowledge_base
from recipe_trainer.watching import Watch, exact_decisions
from tiny_models import byte_tokenizer, make_language_model, make_prompt_words, make_recipe_model

EDITS = [
    Edit(f"The mayor of {name} is", "Ann", name, (f"Who rules {name}?",), (Question(f"Where is {name}?", "here"),))
    for name in ("Aville", "Beton", "Cford", "Dorf", "Eton", "Furt")
]


def test_a_query_hits_the_best_key_above_the_sentinel() -> None:
    queries = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    keys = torch.tensor([[3.0, 0.0], [0.0, 1.0]])
    thresholds = torch.tensor([2.0, 1.0, 3.0])
    assert exact_decisions(queries, keys, thresholds, 0.0).tolist() == [0, -1, -1]  # an equal similarity is no hit


def test_a_key_in_a_crowd_must_beat_the_sentinel_by_more() -> None:
    keys = torch.tensor([[3.0, 0.0], [2.9, 0.0], [0.0, 1.0]])
    queries = torch.tensor([[1.0, 0.0], [0.0, 30.0]])
    assert exact_decisions(queries, keys, torch.tensor([2.5, 29.9]), 1.0).tolist() == [-1, 2]


@pytest.mark.parametrize("crowd", [0.0, 0.5])
def test_the_store_and_retriever_that_serve_decide_the_same(crowd: float) -> None:
    model = make_recipe_model().requires_grad_(False)
    editor = RecipeEditor(model, byte_tokenizer(marked=True), 128, "recipe-test", make_prompt_words())
    # Untrained heads do not tell texts apart; these do. The sentinel lies beyond the key that is hit most.
    texts = [edit.knowledge for edit in EDITS]
    model.start_heads(model.features(tokenize(byte_tokenizer(marked=True), texts)))
    questions = [text for edit in EDITS for text in (edit.prompt, *edit.paraphrases, edit.unrelated[0].text)]
    vectors = torch.from_numpy(np.stack([query.vector for query in editor.query(questions)]))
    keys = torch.from_numpy(editor.encode(texts)[0])
    most = int((vectors @ keys.T).argmax(dim=1).mode().values)
    editor._sentinel = keys[most] + 0.05 * (keys[most] - keys[most - 1])
    editor._crowd = crowd
    in_memory = exact_decisions(vectors, keys, vectors @ editor._sentinel, crowd).tolist()

    with temporary_knowledge_base(editor) as base:
        base.store(EDITS)
        asked = base.ask([(0, Question(text)) for text in questions])

    alone = exact_decisions(vectors, keys, vectors @ editor._sentinel, 0.0).tolist()
    assert (in_memory != alone) == (crowd > 0)
    stored = [-1 if item.match is None else int(item.match.fact.fact_id) for item in asked]
    assert stored == in_memory
    in_ablations = Base(EDITS, editor)
    for place, part in enumerate((in_ablations.own, in_ablations.rephrased, in_ablations.unrelated)):
        assert np.where(part.hits(None), part.best, -1).tolist() == stored[place::3]
    assert {-1} < set(stored)


def test_figures_are_percentages_over_all_edits_and_leave_training_on() -> None:
    model, llm = make_recipe_model(), make_language_model()
    model.train()
    model.encoder.train(False)  # as without dropout

    def features(texts: Sequence[str]) -> Tensor:
        return model.features(tokenize(byte_tokenizer(marked=True), texts))

    figures = Watch(EDITS, model, llm, features, make_prompt_words()).figures()

    assert list(figures) == [
        "dev right hits", "dev paraphrased right hits", "dev false hits", "dev answer tokens right",
    ]  # fmt: skip
    assert all(0 <= value <= 100 for value in figures.values())
    assert model.training
    assert not any(module.training for module in model.encoder.modules())


def test_figures_that_nothing_is_asked_for_are_left_out() -> None:
    model = make_recipe_model()

    def features(texts: Sequence[str]) -> Tensor:
        return model.features(tokenize(byte_tokenizer(marked=True), texts))

    bare = [Edit("The mayor of Aville is", "Ann")]
    figures = Watch(bare, model, make_language_model(), features, make_prompt_words()).figures()
    assert list(figures) == ["dev right hits", "dev answer tokens right"]
