import numpy as np
import pytest
import torch

from recipe_model.editor import QueryVector, RecipeEditor
from recipe_model.language_model import LanguageModel
from recipe_trainer import ablation
from recipe_trainer.ablation import VARIANTS, Base, evaluate_variants
from recipe_trainer.datasets import Edit, Question
from recipe_trainer.scoring import answer_accuracy
from tiny_models import byte_tokenizer, make_language_model, make_prompt_words, make_recipe_model

EDITS = [
    Edit(f"The mayor of {name} is", name[:2], name, (f"Who rules {name}?",), (Question(f"Where is {name}?", "here"),))
    for name in ("Aville", "Beton", "Cford", "Dorf", "Eton", "Furt")
]


@pytest.fixture
def editor() -> RecipeEditor:
    model = make_recipe_model().requires_grad_(False)
    return RecipeEditor(model, byte_tokenizer(marked=True), 128, "recipe-test", make_prompt_words())


@pytest.fixture
def llm() -> LanguageModel:
    return make_language_model()


def with_scores(base: Base, own: list[float], unrelated: list[float]) -> Base:
    """The base with other similarities; every question in scope finds its own key."""
    for part, scores in ((base.own, own), (base.rephrased, own), (base.unrelated, unrelated)):
        part.similarity[:] = scores
        part.best[:] = part.records
    return base


def test_a_static_threshold_lies_where_it_tells_right_from_false_best(editor: RecipeEditor) -> None:
    base = with_scores(Base(EDITS, editor), own=[9, 8, 7, 6, 5, 1], unrelated=[4, 4, 3, 2, 2, 0])
    threshold = base.best_static_threshold()
    assert threshold == 4
    rates = base.rates(threshold)
    assert rates.right_hit == rates.paraphrase_right_hit == pytest.approx(500 / 6)
    assert rates.false_hit == 0.0


def test_without_a_threshold_the_sentinel_decides(editor: RecipeEditor) -> None:
    base = with_scores(Base(EDITS, editor), own=[9, 8, 7, 6, 5, 1], unrelated=[4, 4, 3, 2, 2, 0])
    for part in (base.own, base.rephrased, base.unrelated):
        part.needed[:] = [0, 0, 0, 100, 100, 0]
    assert base.rates(None).right_hit == pytest.approx(400 / 6)
    assert base.rates(None).false_hit == pytest.approx(300 / 6)  # the last has the sentinel's similarity: no hit


def test_only_edits_that_state_something_else_are_a_crowd(editor: RecipeEditor) -> None:
    question = QueryVector(np.zeros(16, np.float32), sentinel_similarity=1.0, sentinel_crowd=2.0)
    scores = np.array([3.0, 3.0, 3.0, 0.0, 0.0, 0.0], np.float32)
    apart = Base(EDITS, editor)._needed(question, scores)
    alike = Base([EDITS[0], EDITS[0], *EDITS[2:]], editor)._needed(question, scores)
    assert apart == pytest.approx(1 + 2 * 4 * np.log(3 + 3 * np.exp(-3 / 4)))
    assert alike == pytest.approx(1 + 2 * 4 * np.log(2 + 3 * np.exp(-3 / 4)))


def test_variants_differ_in_threshold_and_prompt_alone(
    editor: RecipeEditor, llm: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[set[int]] = []

    def accuracy(asked: list[ablation.Decided], llm: LanguageModel) -> list[float]:
        seen.append({len(item.prompt) for item in asked if item.prompt is not None})
        return answer_accuracy(asked, llm)

    monkeypatch.setattr(ablation, "answer_accuracy", accuracy)
    monkeypatch.setattr(Base, "best_static_threshold", lambda _: -np.inf)

    scores, static = evaluate_variants(EDITS, EDITS[:2], editor, llm)

    assert static == -np.inf
    assert [score.variant for score in scores] == [variant.name for variant in VARIANTS]
    full, words, demonstrated, no_sentinel, neither = scores
    assert full.rates == words.rates == demonstrated.rates
    assert no_sentinel.rates == neither.rates
    assert no_sentinel.rates.false_hit == 100.0
    statements = {len(f"{edit.statement}.\n") for edit in EDITS}  # one token a byte
    assert seen[6] == {editor.prompt_shape[0]} == {full.tokens_in_front}
    assert seen[8]
    assert seen[8] <= statements
    assert min(seen[4]) > max(statements)
    assert demonstrated.tokens_in_front > words.tokens_in_front > full.tokens_in_front


def test_demonstrations_are_the_most_similar_edits_the_nearest_one_last(editor: RecipeEditor) -> None:
    examples = Base(EDITS, editor).most_similar(Base(EDITS[2:4], editor), 3)
    assert [len(set(each)) for each in examples] == [3, 3]
    assert [each[-1] for each in examples] == EDITS[2:4]


def test_decisions_keep_the_question_and_its_prompt(editor: RecipeEditor) -> None:
    base = Base(EDITS, editor)
    assert base.prompts.shape == (6, *editor.prompt_shape)
    assert base.prompts.dtype == torch.float32
    assert [question.text for question in base.unrelated.questions] == [f"Where is {edit.subject}?" for edit in EDITS]
