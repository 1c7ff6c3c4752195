import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from recipe_common.errors import InvalidArgumentError
from recipe_model.editor import RecipeEditor
from recipe_model.language_model import LanguageModel
from recipe_trainer import general
from recipe_trainer.datasets import Edit
from recipe_trainer.general import TASKS, Questions, evaluate_general, token_f1
from recipe_trainer.teacher_forcing import answer_logits
from tiny_models import byte_tokenizer, make_language_model, make_prompt_words, make_recipe_model

FACTS = [Edit(f"The mayor of {name} is", name[:2]) for name in ("Aville", "Beton", "Cford")]
RECORDS: dict[str, list[dict[str, Any]]] = {
    "csqa_dev.json": [
        {
            "question": {"stem": stem, "choices": [{"label": "A", "text": "b"}, {"label": "B", "text": "c"}]},
            "answerKey": "B",
        }
        for stem in ("Where?", "Who?", "long " * 40)
    ],
    "anli_dev.json": [
        {"premise": "It rains.", "hypothesis": text, "label": label}
        for text, label in (("It is dry.", "c"), ("It is wet.", "e"), ("It is night.", "n"))
    ],
    "mmlu_test.json": [{"subject": "art", "question": "1 + 1?", "choices": ["1", "2", "3", "4"], "answer": 1}],
    "squad2_dev.json": [
        {"title": "T", "context": "C", "question": "Who?", "answers": ["Ann", "Bob"], "is_impossible": False},
        {"title": "T", "context": "C", "question": "Why?", "answers": [], "is_impossible": True},
    ],
}  # fmt: skip


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for name, records in RECORDS.items():
        (tmp_path / name).write_text(json.dumps(records))
    return tmp_path


@pytest.fixture
def llm() -> LanguageModel:
    return make_language_model()


def editor_with(*, hits: bool) -> RecipeEditor:
    """Every text that it reads hits a fact, or none does."""
    model = make_recipe_model().requires_grad_(False)
    editor = RecipeEditor(model, byte_tokenizer(marked=True), 128, "recipe-test", make_prompt_words())
    editor.decider = replace(editor.decider, min_confidence=0.0 if hits else 1.1, min_similarity=-1.0)
    return editor


def test_a_choice_is_right_where_the_llm_finds_it_most_likely(data: Path, llm: LanguageModel) -> None:
    scores = evaluate_general(["csqa", "anli", "mmlu"], Questions(data), FACTS, [0], editor_with(hits=False), llm)

    def likely(text: str, choices: Sequence[str]) -> int:
        def log_probability(choice: str) -> float:
            question, answer = llm.token_ids(text), llm.answer_ids(choice)
            logits = llm.logits(None, question + answer).log_softmax(dim=-1)
            places = range(len(question) - 1, len(question) + len(answer) - 1)
            return sum(float(logits[place, token]) for place, token in zip(places, answer, strict=True))

        return max(range(len(choices)), key=lambda row: log_probability(choices[row]))

    csqa = [
        likely(f"Question: {record['question']['stem'].strip()}\nA. b\nB. c\nAnswer:", "ABCDE") == 1
        for record in RECORDS["csqa_dev.json"]
    ]
    verdicts = ["True", "Neither", "False"]
    anli = [
        likely(f"It rains.\nQuestion: {record['hypothesis']} True, False, or Neither?\nAnswer:", verdicts)
        == "enc".index(record["label"])
        for record in RECORDS["anli_dev.json"]
    ]
    mmlu = [likely("1 + 1?\nA. 1\nB. 2\nC. 3\nD. 4\nAnswer:", "ABCD") == 1]
    found = {name: score.score for name, (score,) in scores.items()}
    wanted = {"csqa": csqa, "anli": anli, "mmlu": mmlu}
    assert found == {name: pytest.approx(100 * sum(right) / len(right)) for name, right in wanted.items()}


def test_hits_and_texts_that_are_too_long_are_counted(data: Path, llm: LanguageModel) -> None:
    (plain, stored) = evaluate_general(["csqa"], Questions(data), FACTS, [0, 2], editor_with(hits=True), llm)["csqa"]
    assert (plain.edits, plain.questions, plain.hits, plain.too_long) == (0, 3, 0, 1)
    assert (stored.edits, stored.questions, stored.hits, stored.too_long) == (2, 3, 2, 1)


def test_without_hits_stored_facts_change_nothing_and_cost_no_second_pass(
    data: Path, llm: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    computed: list[int] = []
    original = answer_logits

    def counting(model: LanguageModel, batch: Sequence[Any], prompts: Any) -> torch.Tensor:
        computed.append(len(batch))
        return original(model, batch, prompts)

    monkeypatch.setattr(general, "answer_logits", counting)
    plain, stored = evaluate_general(["csqa"], Questions(data), FACTS, [0, 3], editor_with(hits=False), llm)["csqa"]
    assert plain.score == stored.score
    assert sum(computed) == 3  # one pass a question: its choices are one token long


def test_a_hit_puts_the_prompt_in_front(data: Path, llm: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts: list[list[torch.Tensor] | None] = []
    original: Callable[..., torch.Tensor] = answer_logits

    def remembering(model: LanguageModel, batch: Sequence[Any], given: list[torch.Tensor] | None) -> torch.Tensor:
        prompts.append(given)
        return original(model, batch, given)

    monkeypatch.setattr(general, "answer_logits", remembering)
    editor = editor_with(hits=True)
    evaluate_general(["mmlu"], Questions(data), FACTS[:1], [1], editor, llm)
    (given,) = prompts
    assert given is not None
    made = torch.from_numpy(editor.encode([FACTS[0].knowledge])[0].prompt)
    torch.testing.assert_close(given, [llm.told(FACTS[0].statement, made).float()])


def test_an_answer_is_scored_up_to_the_end_of_its_line(
    data: Path, llm: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(llm, "generate_batch", lambda _, texts, __: [" the Bob\nQuestion: more"] * len(texts))
    (score,) = evaluate_general(["squad2"], Questions(data), FACTS, [0], editor_with(hits=False), llm)["squad2"]
    assert score.score == 50.0  # right where Bob is accepted, wrong where the passage has no answer


@pytest.mark.parametrize(
    ("given", "wanted", "f1"),
    [("The Ann!", "ann", 1.0), ("Ann Lee", "Ann", 2 / 3), ("Bob", "Ann", 0.0), ("", "Ann", 0.0), ("the", "a", 1.0)],
)
def test_f1_is_over_words_without_case_punctuation_and_articles(given: str, wanted: str, f1: float) -> None:
    assert token_f1(given, wanted) == pytest.approx(f1)


def test_a_missing_file_is_named(data: Path, llm: LanguageModel) -> None:
    (data / "mmlu_test.json").unlink()
    with pytest.raises(InvalidArgumentError, match=r"data: .*mmlu_test\.json cannot be read"):
        evaluate_general(["mmlu"], Questions(data), FACTS, [0], editor_with(hits=False), llm)


def test_every_task_says_what_it_measures() -> None:
    assert {name: task.metric for name, task in TASKS.items()} == {
        "csqa": "acc", "anli": "acc", "mmlu": "acc", "squad2": "f1",
    }  # fmt: skip


def test_fewer_questions_are_drawn_not_taken_from_the_front(data: Path, llm: LanguageModel) -> None:
    drawn = set()
    for seed in range(8):
        (score,) = evaluate_general(
            ["csqa"], Questions(data, limit=1, seed=seed), FACTS, [0], editor_with(hits=False), llm
        )["csqa"]
        assert score.questions == 1
        drawn.add(score.too_long)
    assert drawn == {0, 1}  # the last of the three is too long
