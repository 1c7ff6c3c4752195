"""The losses themselves are tested on tensors in test_losses; here is what goes into them."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from recipe_model.checkpoint import trained_tensors
from recipe_model.language_model import LanguageModel
from recipe_model.networks import RecipeModel
from recipe_trainer import objective
from recipe_trainer.batches import Draw
from recipe_trainer.datasets import Edit, Question
from recipe_trainer.objective import Objective
from recipe_trainer.options import TrainOptions
from recipe_trainer.teacher_forcing import Answered, answer_logits
from tiny_models import make_language_model, make_prompt_words, make_recipe_model, make_text_encoder

NEAR = Question("The river of Aville is", "Red")
TEMPLATE = "{% for message in messages %}{{ message.content }}|{% endfor %}"


def draw(name: str, *, own: bool = False, unrelated: Question | None = None) -> Draw:
    edit = Edit(f"The mayor of {name} is", name[:3], name)
    return Draw(edit, edit.knowledge, edit.prompt if own else f"Who rules {name}?", own, unrelated)


DRAWS = [draw("Aville", own=True, unrelated=NEAR), draw("Beton"), draw("Cford", unrelated=NEAR), draw("Dorf")]


class Setup:
    def __init__(self, **options: float) -> None:
        self.model: RecipeModel = make_recipe_model()
        self.llm: LanguageModel = make_language_model()
        given = TrainOptions(**({"locality_weight": 1.0} | options))  # type: ignore[arg-type]
        self.tested = Objective(self.model, make_text_encoder(), self.llm, make_prompt_words(), given)


def test_each_draw_is_asked_behind_its_own_prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    setup = Setup()
    asked: list[tuple[list[str], list[Tensor] | None]] = []
    original = answer_logits

    def remembering(llm: LanguageModel, batch: list[Answered], prompts: list[Tensor] | None) -> Tensor:
        asked.append(([llm.text(item.question) for item in batch], prompts))
        return original(llm, batch, prompts)

    monkeypatch.setattr(objective, "answer_logits", remembering)
    setup.tested.losses(DRAWS)

    (questions, prompts), (unedited, none) = asked
    assert questions == [*(draw.question for draw in DRAWS), NEAR.text, NEAR.text]
    expected = setup.tested.prompts([DRAWS[row].knowledge for row in (0, 1, 2, 3, 0, 2)])
    assert prompts is not None
    for prompt, alone in zip(prompts, expected, strict=True):
        assert torch.allclose(prompt, alone, atol=1e-6)
    assert (unedited, none) == ([NEAR.text, NEAR.text], None)


def test_losses_are_named_and_finite() -> None:
    losses = Setup().tested.losses(DRAWS)
    assert list(losses) == ["reliability", "generality", "locality"]
    assert all(bool(value.isfinite()) for value in losses.values())
    assert float(losses["locality"].detach()) > 0


def test_only_so_many_unrelated_questions_are_asked_and_they_have_a_weight() -> None:
    whole, one, none, light = (
        float(Setup(**options).tested.losses(DRAWS)["locality"].detach())
        for options in ({}, {"locality_edits": 1}, {"locality_edits": 0}, {"locality_weight": 0.5})
    )
    assert none == 0
    assert light == pytest.approx(whole / 2)
    assert one not in (whole, 0)


def test_gradients_reach_both_heads_and_nothing_else() -> None:
    setup = Setup()
    torch.stack(list(setup.tested.losses(DRAWS).values())).sum().backward()  # type: ignore[no-untyped-call]
    reached = {name for name, value in trained_tensors(setup.model).items() if value.grad is not None}
    assert {name.split(".")[0] for name in reached} == {"key_head", "prompt_head"}
    assert all(value.grad is None for value in setup.model.encoder.parameters())
    assert all(value.grad is None for value in setup.llm.model.parameters())


def test_a_text_longer_than_the_encoder_reads_is_cut() -> None:
    (prompt,) = Setup().tested.prompts(["long " * 80])
    assert prompt.isfinite().all()


def test_a_question_in_a_conversation_is_laid_out_by_the_template_and_answered_in_a_sentence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    setup = Setup()
    batches: list[list[Answered]] = []
    original = answer_logits

    def remembering(llm: LanguageModel, batch: list[Answered], prompts: list[Tensor] | None) -> Tensor:
        batches.append(batch)
        return original(llm, batch, prompts)

    monkeypatch.setattr(objective, "answer_logits", remembering)
    earlier = ({"role": "system", "content": "Be brief."},)
    draws = [replace(each, earlier=earlier) for each in DRAWS]
    setup.tested.losses(draws)
    monkeypatch.setattr(setup.llm.tokenizer, "chat_template", TEMPLATE)
    setup.tested.losses(draws)

    plain, laid_out = batches[0][0], batches[2][0]
    assert setup.llm.text(plain.question) == draws[0].question  # by an LLM without a template
    assert setup.llm.text(laid_out.question) == f"Be brief.|{draws[0].question}|"
    assert setup.llm.text(laid_out.answer) == "The mayor of Aville is Avi."
