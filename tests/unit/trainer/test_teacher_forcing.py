import pytest
import torch
from torch import Tensor

from recipe_model.language_model import LanguageModel
from recipe_trainer.teacher_forcing import (
    ENDING_WEIGHT,
    LLM_GROUP,
    Answered,
    answer_logits,
    answer_targets,
    answer_weights,
    answered,
    answered_and_ended,
)
from tiny_models import LLM_HIDDEN, make_language_model

PROMPT_TOKENS = 3


@pytest.fixture(scope="module")
def llm() -> LanguageModel:
    return make_language_model()


def pairs(llm: LanguageModel, count: int) -> list[Answered]:
    """Questions and answers of several lengths, not in the order of their lengths."""
    wanted = (answered, answered_and_ended)
    return [wanted[number % 2](llm, "q" * (1 + 7 * number % 11), "a" * (1 + 5 * number % 4)) for number in range(count)]


def prompts_for(count: int) -> list[Tensor]:
    """Prompts of different lengths."""
    random = torch.Generator().manual_seed(0)
    return [torch.randn(PROMPT_TOKENS + row % 3, LLM_HIDDEN, generator=random) for row in range(count)]


def test_a_question_and_its_answer_are_tokenised_as_one_text(llm: LanguageModel) -> None:
    item = answered(llm, "The capital is", "Example City")
    assert item.ids == llm.token_ids("The capital is Example City")
    assert item.question == llm.token_ids("The capital is")


def test_the_end_of_an_answer_is_a_full_stop_and_the_end_of_text(llm: LanguageModel) -> None:
    (stop,) = llm.answer_ids(".")[1:]
    end = llm.tokenizer.eos_token_id
    plain, stopped = (answered_and_ended(llm, "The capital is", answer) for answer in ("Example City", "St. Example."))
    assert plain.ids == [*llm.token_ids("The capital is Example City"), stop, end]
    assert stopped.ids == [*llm.token_ids("The capital is St. Example."), end]


@pytest.mark.parametrize("behind_prompts", [False, True])
@pytest.mark.parametrize("count", [1, 5, LLM_GROUP + 3])
def test_logits_are_those_that_predict_each_answers_tokens(
    llm: LanguageModel, behind_prompts: bool, count: int
) -> None:
    batch = pairs(llm, count)
    prompts = prompts_for(count) if behind_prompts else None

    logits = answer_logits(llm, batch, prompts)

    one_by_one = []
    for row, item in enumerate(batch):
        whole = llm.logits(None if prompts is None else prompts[row], item.ids)
        one_by_one.append(whole[len(item.question) - 1 : -1])
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, torch.cat(one_by_one))


def test_gradients_reach_every_prompt_and_no_weight_of_the_llm(llm: LanguageModel) -> None:
    prompts = [prompt.requires_grad_() for prompt in prompts_for(4)]

    answer_logits(llm, pairs(llm, 4), prompts).square().sum().backward()  # type: ignore[no-untyped-call]

    for prompt in prompts:
        assert prompt.grad is not None
        assert bool(prompt.grad.abs().amax(dim=-1).all())
    assert all(parameter.grad is None for parameter in llm.model.parameters())


def test_targets_are_the_answers_tokens_in_order(llm: LanguageModel) -> None:
    batch = [Answered([1, 2], [3, 4], (7, 8)), Answered([5], [6])]
    assert answer_targets(batch).tolist() == [3, 4, 7, 8, 6]


def test_weights_average_over_tokens_and_then_over_answers() -> None:
    batch = [Answered([1], [2, 3, 4, 5]), Answered([1], [2])]
    assert answer_weights(batch).tolist() == [0.125, 0.125, 0.125, 0.125, 0.5]


def test_an_ending_weighs_a_fixed_part_of_its_answer_however_long_both_are() -> None:
    batch = [Answered([1], [2], (3, 4)), Answered([1], [2, 3], (4,))]
    half = ENDING_WEIGHT / 2
    assert answer_weights(batch).tolist() == pytest.approx([0.5, half / 2, half / 2, 0.25, 0.25, half])
