from collections.abc import Sequence
from typing import cast

import numpy as np
import pytest
import torch
from torch import Tensor

from recipe_common.errors import InvalidArgumentError
from recipe_model.editor import RecipeEditor
from recipe_trainer import ablation
from recipe_trainer.ablation import Asking, PaperFormOptions, best_static_threshold, by_cosine, evaluate_variants
from recipe_trainer.datasets import Edit, Question
from recipe_trainer.knowledge_base import Asked, Candidate
from recipe_trainer.scoring import answer_accuracy
from tiny_models import make_language_model
from unit.trainer.table_editor import TableEditor

EDITS = [
    Edit(f"The mayor of {name} is", name[:2], name, (f"Who rules {name}?",), (Question(f"Where is {name}?", "here"),))
    for name in ("Aville", "Beton", "Cford", "Dorf", "Eton", "Furt")
]
OPTIONS = PaperFormOptions(representation=8, steps=1, seed=0)


def features(texts: Sequence[str]) -> Tensor:
    return torch.tensor([[float(len(text)), float(text.count("a")), 1.0] for text in texts])


def asked(record: int, similarity: float, *, found: int | None = None) -> Asked:
    return Asked(
        Question("q"), record, (Candidate(record if found is None else found, "s", "a", similarity, 0.0, 0.5),)
    )


def test_a_static_threshold_lies_where_it_tells_right_from_false_best() -> None:
    inside = [asked(row, similarity) for row, similarity in enumerate([0.9, 0.8, 0.7, 0.6, 0.5, 0.1])]
    outside = [asked(row, similarity) for row, similarity in enumerate([0.4, 0.4, 0.3, 0.2, 0.2, 0.0])]
    threshold = best_static_threshold(Asking(inside, inside, outside))
    assert threshold == 0.4
    assert by_cosine(inside, threshold).tolist() == [0, 1, 2, 3, 4, -1]
    assert by_cosine(outside, threshold).tolist() == [-1] * 6


def test_the_nearest_is_hit_whatever_the_verifier_says() -> None:
    two = (Candidate(0, "s", "a", 0.2, 9.0, 1.0), Candidate(1, "s", "a", 0.3, -9.0, 0.0))
    found = [Asked(Question("q"), 0, two), Asked(Question("q"), 0)]
    assert by_cosine(found, -np.inf).tolist() == [1, -1]


def test_variants_differ_in_what_decides_and_in_what_stands_in_front(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[set[int]] = []

    def accuracy(given: list[ablation.Decided], llm: object) -> list[float]:
        seen.append({len(item.prompt) for item in given if item.prompt is not None})
        return answer_accuracy(given, llm)  # type: ignore[arg-type]

    monkeypatch.setattr(ablation, "answer_accuracy", accuracy)
    hits: dict[str, int | str] = {edit.paraphrases[0]: edit.prompt for edit in EDITS[:3]}
    hits |= {edit.prompt: edit.prompt for edit in EDITS}
    editor = cast("RecipeEditor", TableEditor(hits))

    scores, static = evaluate_variants(EDITS, EDITS[:2], editor, make_language_model(), features, OPTIONS)

    full, words, no_sentinel, no_verifier, paper = scores
    assert [score.variant for score in scores] == [
        "full method", "without continuous prompts", "without sentinel: a static cosine",
        "without verifier: the nearest", "the paper's decision",
    ]  # fmt: skip
    assert full.rates == words.rates
    assert (full.rates.right_hit, full.rates.paraphrase_right_hit, full.rates.false_hit) == (100.0, 50.0, 0.0)
    assert no_verifier.rates.false_hit == 100.0
    assert no_sentinel.rates.right_hit == 100.0
    assert 0 < static < 1
    in_front = [len(f" {edit.statement}.") + 2 for edit in EDITS]  # one token a byte, and pseudo-tokens of TableEditor
    assert seen[0] == set(in_front)
    assert full.tokens_in_front == pytest.approx(sum(in_front) / len(in_front))
    assert seen[2] == {len(f"{edit.statement}.\n") for edit in EDITS}  # one token a byte
    assert 0 <= (paper.rates.right_hit or 0) <= 100


@pytest.mark.parametrize(("field", "dev", "training"), [("dev", EDITS[:0], EDITS), ("data", EDITS, EDITS[:0])])
def test_edits_without_questions_of_all_kinds_are_refused(field: str, dev: list[Edit], training: list[Edit]) -> None:
    editor = cast("RecipeEditor", TableEditor({}))
    bare = [Edit("The mayor is", "x")]
    with pytest.raises(InvalidArgumentError, match=f"{field}: needs edits with paraphrases"):
        evaluate_variants(dev or bare, training or bare, editor, make_language_model(), features, OPTIONS)
