"""Training of the verifier on a few facts: it learns them, goes on where it was stopped, and draws by seed and step."""

from pathlib import Path

import pytest
import torch

from recipe_model.networks import RecipeModel
from recipe_trainer.corpus import Case, Corpus
from recipe_trainer.options import TrainOptions
from recipe_trainer.state_bank import fill_bank
from recipe_trainer.verifier_training import PairDraws, train_verifier
from tiny_models import SIZES, make_recipe_model, make_text_encoder

CASES = [
    Case(
        (f"Who runs {name}? → {answer}",),
        (f"Who runs {name}?", f"{name} boss"),
        (f"When was {name} sold?",),
        name,
        answer,
    )
    for name, answer in (("Acme", "Ann"), ("Bolt", "Bob"), ("Cobalt", "Cyd"))
]
CORPUS = Corpus(CASES, ["good morning", "play some jazz"])


def _options(steps: int) -> TrainOptions:
    return TrainOptions(steps_verifier=steps, facts_verifier=4, verifier_learning_rate=1e-2)


def _trained(folder: Path, steps: int) -> RecipeModel:
    model = make_recipe_model()
    train_verifier(model, make_text_encoder(), _options(steps), CORPUS, folder)
    return model


def test_it_learns_which_question_asks_for_which_fact(tmp_path: Path) -> None:
    model = _trained(tmp_path, 150)
    draws = PairDraws(CORPUS, make_text_encoder(), _options(150))
    pairs = draws.draw(7)
    with torch.inference_mode():
        scores = model.verifier(*draws.bank.questions(pairs.questions), *draws.bank.facts(pairs.facts))
        margins = scores - model.verifier.sentinel_scores(*draws.bank.questions(pairs.questions))
    right = (margins > 0) == (pairs.answers > 0)
    assert right.float().mean() > 0.9


def test_a_run_that_was_stopped_ends_as_an_unbroken_one(tmp_path: Path) -> None:
    whole = _trained(tmp_path / "whole", 6)
    _trained(tmp_path / "parts", 6)
    again = _trained(tmp_path / "parts", 6)  # nothing is left to do: the state is read
    for name, value in whole.verifier.state_dict().items():
        assert torch.equal(value, again.verifier.state_dict()[name]), name


def test_pairs_depend_on_seed_and_step_alone() -> None:
    first, second = (PairDraws(CORPUS, make_text_encoder(), _options(1)) for _ in range(2))
    assert torch.equal(first.draw(3).questions, second.draw(3).questions)
    assert not torch.equal(first.draw(3).questions, first.draw(4).questions)


def test_no_rival_is_a_fact_that_may_answer() -> None:
    same = [*CASES, Case(("The head of Acme is → Ann",), ("Who is the head of Acme?",), (), "acme", "Ann")]
    draws = PairDraws(Corpus(same, CORPUS.texts), make_text_encoder(), _options(1))
    acme = {row for row, text in enumerate(_texts(same)) if "Acme" in text}
    for step in range(40):
        pairs = draws.draw(step)
        for question, fact, answers in zip(pairs.questions.tolist(), pairs.facts.tolist(), pairs.answers, strict=True):
            if question in acme and fact in acme and not answers:
                assert "sold" in _texts(same)[question]


def test_the_bank_holds_what_the_encoder_gives_alone() -> None:
    encoder = make_text_encoder()
    texts = ["Who runs Acme? → Ann", "a", "Bolt boss"]
    bank = fill_bank(encoder, texts)
    states, ids, roles, mask = bank.facts(torch.tensor([0]))
    tokens = encoder.tokenizer(texts[0], return_tensors="pt")
    with torch.inference_mode():
        alone = encoder.model(**{name: tokens[name] for name in ("input_ids", "attention_mask")}).last_hidden_state
    assert ids[0].tolist() == tokens["input_ids"][0, 1:-1].tolist()
    assert states.shape == (1, ids.shape[1], SIZES.encoder_hidden)
    assert states[0] == pytest.approx(alone[0, 1:-1], abs=0.1)  # computed in bfloat16
    assert mask.all() and sorted(set(roles[0].tolist())) == [0, 1]
    assert float(bank.vectors.float().norm(dim=1).sub(1).abs().max()) < 1e-2


def _texts(cases: list[Case]) -> list[str]:
    """Texts by their rows in the bank, as `PairDraws` numbers them."""
    rows: dict[str, int] = {}
    for part in ("texts", "asks", "near"):
        for case in cases:
            for text in getattr(case, part):
                rows.setdefault(text, len(rows))
    return list(rows)
