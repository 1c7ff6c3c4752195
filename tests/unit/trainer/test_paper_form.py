from collections.abc import Sequence

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from recipe_model.networks import pool
from recipe_model.tokenized_texts import tokenize
from recipe_trainer.datasets import Edit, Question
from recipe_trainer.paper_form import PaperForm, frozen_features, train_paper_form
from tiny_models import make_text_encoder

NAMES = ["Aville", "Beton", "Cford", "Dorf", "Eton", "Furt"]
EDITS = [Edit(f"mayor {name}", "x", name, (f"rules {name}",), (Question(f"river {name}"),)) for name in NAMES]


def words(texts: Sequence[str]) -> Tensor:
    """Features that tell all words apart."""
    known = ["mayor", "rules", "river", *NAMES]
    rows = [
        sum(functional.one_hot(torch.tensor(known.index(w)), 12) for w in text.split() if w in known) for text in texts
    ]
    return torch.stack([torch.as_tensor(row, dtype=torch.float32) for row in rows])


def test_a_query_hits_the_best_fact_above_the_sentinel() -> None:
    form = PaperForm(words([edit.knowledge for edit in EDITS]), 16)
    keys, queries = words(["mayor Aville", "mayor Beton"]), words(["rules Beton", "river Cford"])
    with torch.no_grad():
        scores = form.scores(queries, keys)
        assert scores.shape == (2, 3)
        expected = form.query_head(queries) @ torch.stack([form.sentinel, *form.key_head(keys)]).T / 4
        torch.testing.assert_close(scores, expected)
        form.sentinel.fill_(0)
        best = form.scores(queries, keys)[:, 1:].max(dim=1)
        assert form.decide(queries, keys).tolist() == torch.where(best.values > 0, best.indices, -1).tolist()


def test_training_finds_facts_and_leaves_other_questions_alone() -> None:
    form = train_paper_form(EDITS, words, 32, steps=300, seed=0)
    keys = words([edit.knowledge for edit in EDITS])
    assert form.decide(words([edit.paraphrases[0] for edit in EDITS]), keys).tolist() == list(range(6))
    assert form.decide(words([edit.unrelated[0].text for edit in EDITS]), keys).tolist() == [-1] * 6


def test_the_same_seed_trains_the_same() -> None:
    first, second, other = (train_paper_form(EDITS, words, 8, steps=2, seed=seed).sentinel for seed in (0, 0, 1))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("text", ["a", "some longer text"])
def test_features_are_the_encoders_own_in_the_order_given(text: str) -> None:
    encoder = make_text_encoder()
    alone = tokenize(encoder.tokenizer, [text])
    hidden = encoder.model(input_ids=alone.input_ids, attention_mask=alone.attention_mask).last_hidden_state
    features = frozen_features(encoder, ["a much longer text than others", text, "b"])
    torch.testing.assert_close(features[1:2], pool(hidden, alone.question_mask), rtol=1e-4, atol=1e-4)
