import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import cast

import pytest
import torch

from recipe_model.editor import RecipeEditor
from recipe_model.encoded import EncodedQuery
from recipe_model.language_model import LanguageModel
from recipe_trainer import evaluation
from recipe_trainer.datasets import Edit, Question
from recipe_trainer.evaluation import Conditions, CriterionScores, Evaluation
from recipe_trainer.families import Family
from tiny_models import make_language_model
from unit.trainer.table_editor import SURE, TableEditor

EDITS = [
    Edit(
        "The mayor of A is",
        "Ann",
        paraphrases=("Who rules A?",),
        unrelated=(Question("The area of B is", "small"),),
    ),
    Edit(
        "The mayor of C is",
        "Cem",
        paraphrases=("Who rules C?",),
        unrelated=(Question("The area of D is", "large"), Question("The name of E is", "Eve")),
    ),
]
ALL_RIGHT = {"The mayor of A is": 0, "The mayor of C is": 1, "Who rules A?": 0, "Who rules C?": 1}


def editor_of(hits: Mapping[str, int]) -> RecipeEditor:
    return cast("RecipeEditor", TableEditor(hits, longest=39))


def evaluated(
    hits: Mapping[str, int],
    llm: LanguageModel,
    edits: Sequence[Edit] = EDITS,
    conditions: Conditions | None = None,
) -> Evaluation:
    return evaluation.evaluate(edits, editor_of(hits), llm, conditions)


@pytest.fixture(scope="module")
def llm() -> LanguageModel:
    return make_language_model()


def in_front(llm: LanguageModel, edit: Edit, row: int) -> torch.Tensor:
    """The table's prompt for the fact that is stored as this row, and its words."""
    return llm.told(edit.statement, torch.from_numpy(TableEditor({}).prompt(row))).float()


def teacher_forced(llm: LanguageModel, prompt: torch.Tensor | None, question: str, answer: str) -> list[int]:
    """The LLM's most likely token at each of the answer's places, one text at a time."""
    ids = llm.token_ids(question)
    logits = llm.logits(prompt, ids + llm.answer_ids(answer))
    places: list[int] = logits.argmax(dim=-1)[len(ids) - 1 : -1].tolist()
    return places


def accuracy(llm: LanguageModel, prompt: torch.Tensor | None, question: str, answer: str) -> float:
    predicted, wanted = teacher_forced(llm, prompt, question, answer), llm.answer_ids(answer)
    return sum(a == b for a, b in zip(predicted, wanted, strict=True)) / len(wanted)


def test_all_statements_are_stored_and_questions_are_asked_without_their_answers(llm: LanguageModel) -> None:
    editor = TableEditor({})
    evaluation.evaluate(EDITS, cast("RecipeEditor", editor), llm)  # a table that keeps what it was asked
    assert editor.statements == ["The mayor of A is → Ann", "The mayor of C is → Cem"]
    asked = ["The area of B is", "The area of D is", "The name of E is"]
    assert editor.questions == [
        "The mayor of A is",
        "The mayor of C is",
        "Who rules A?",
        "Who rules C?",
        *asked,
    ]


def test_where_nothing_hits_locality_is_whole_and_nothing_is_retrieved(llm: LanguageModel) -> None:
    result = evaluated({}, llm)
    assert (result.teacher_forced.locality, result.free_generation.locality) == (100.0, 100.0)
    assert asdict(result.retrieval) == {"right_hit": 0.0, "paraphrase_right_hit": 0.0, "false_hit": 0.0}


def test_where_all_is_right_every_edit_is_hit_and_nothing_else(llm: LanguageModel) -> None:
    result = evaluated(ALL_RIGHT, llm)
    assert asdict(result.retrieval) == {"right_hit": 100.0, "paraphrase_right_hit": 100.0, "false_hit": 0.0}
    assert (result.teacher_forced.locality, result.free_generation.locality) == (100.0, 100.0)


def test_a_hit_of_another_records_fact_is_not_right(llm: LanguageModel) -> None:
    rates = evaluated({**ALL_RIGHT, "The mayor of C is": 0, "Who rules A?": 1, "Who rules C?": 0}, llm).retrieval
    assert asdict(rates) == {"right_hit": 50.0, "paraphrase_right_hit": 0.0, "false_hit": 0.0}


def test_any_hit_of_an_unrelated_question_is_false(llm: LanguageModel) -> None:
    hits = {**ALL_RIGHT, "The area of B is": 0, "The name of E is": 0}
    assert evaluated(hits, llm).retrieval.false_hit == pytest.approx(200 / 3)


def test_teacher_forced_scores_are_shares_of_tokens_behind_the_retrieved_prompts(llm: LanguageModel) -> None:
    hits = {"The mayor of A is": 0, "The mayor of C is": 0, "Who rules C?": 1, "The area of B is": 1}

    def prompt(row: int) -> torch.Tensor:
        return in_front(llm, EDITS[row], row)

    own = [
        accuracy(llm, prompt(0), "The mayor of A is", "Ann"),
        accuracy(llm, prompt(0), "The mayor of C is", "Cem"),
    ]
    rephrased = [accuracy(llm, None, "Who rules A?", "Ann"), accuracy(llm, prompt(1), "Who rules C?", "Cem")]
    edited = teacher_forced(llm, prompt(1), "The area of B is", "small")
    unedited = teacher_forced(llm, None, "The area of B is", "small")
    same = sum(a == b for a, b in zip(edited, unedited, strict=True)) / len(edited)
    assert same < 1

    scores = evaluated(hits, llm).teacher_forced

    assert scores.reliability == pytest.approx(100 * sum(own) / 2)
    assert scores.generality == pytest.approx(100 * sum(rephrased) / 2)
    assert scores.locality == pytest.approx(100 * (same + 2) / 3)


def test_an_answer_that_the_llm_predicts_scores_all_its_tokens(llm: LanguageModel) -> None:
    question = "The mayor of A is"
    ids = llm.token_ids(question)
    space = llm.token_ids(" ")[0]
    best = int(llm.logits(None, [*ids, space])[-1].argmax())
    answer = llm.tokenizer.decode([best])
    assert isinstance(answer, str)
    edit = Edit(question, answer or "x")
    expected = accuracy(llm, None, question, edit.answer)

    result = evaluation.evaluate([edit], editor_of({}), llm)

    assert result.teacher_forced.reliability == pytest.approx(100 * expected)
    assert expected >= 0.5


def test_free_generation_is_scored_on_what_the_llm_writes(llm: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    written = {
        "The mayor of A is": " Ann, of",
        "The mayor of C is": "Cemal",
        "Who rules A?": "ann!",
        "Who rules C?": "",
    }
    asked: list[tuple[list[str], list[bool], int]] = []

    def generate_batch(prompts: Sequence[torch.Tensor | None], texts: Sequence[str], limit: int) -> list[str]:
        edited = [prompt is not None for prompt in prompts]
        asked.append((list(texts), edited, limit))
        return [written.get(text, f"{text} {hit}") for text, hit in zip(texts, edited, strict=True)]

    monkeypatch.setattr(llm, "generate_batch", generate_batch)

    scores = evaluated({**ALL_RIGHT, "The area of D is": 1}, llm).free_generation

    assert scores.reliability == 50.0
    assert scores.generality == 50.0
    assert scores.locality == pytest.approx(200 / 3)
    answer_and_three = len(" Ann") + 3
    assert asked == [
        (["The mayor of A is", "The mayor of C is"], [True, True], answer_and_three),
        (["Who rules A?", "Who rules C?"], [True, True], answer_and_three),
        (["The area of D is"], [True], 10),
        (["The area of D is"], [False], 10),
    ]


def test_an_edit_is_really_applied(llm: LanguageModel) -> None:
    question = "The area of B is"
    hit, missed = evaluated({question: 0}, llm), evaluated({}, llm)
    assert hit.free_generation.locality == pytest.approx(200 / 3)
    assert missed.free_generation.locality == 100.0


def test_the_figures_have_these_keys_in_json(llm: LanguageModel) -> None:
    figures = json.loads(json.dumps(asdict(evaluated(ALL_RIGHT, llm))))
    scores = ["reliability", "generality", "locality"]
    assert {name: list(value) if isinstance(value, dict) else value for name, value in figures.items()} == {
        "edits": 2,
        "distractors": 0,
        "typos": 0.0,
        "bare_statements": False,
        "model_version": "recipe-table",
        "teacher_forced": scores,
        "free_generation": scores,
        "retrieval": ["right_hit", "paraphrase_right_hit", "false_hit"],
        "criteria": [],
        "seconds_per_edit": figures["seconds_per_edit"],
        "seconds_per_query": figures["seconds_per_query"],
    }
    assert figures["seconds_per_edit"] > 0
    assert figures["seconds_per_query"] > 0
    assert all(
        math.isfinite(value) for name in ("teacher_forced", "free_generation") for value in figures[name].values()
    )


def test_figures_without_questions_are_none(llm: LanguageModel) -> None:
    result = evaluated({}, llm, [Edit("The mayor of A is", "Ann")])
    assert (result.teacher_forced.generality, result.free_generation.locality) == (None, None)
    assert (result.retrieval.paraphrase_right_hit, result.retrieval.false_hit) == (None, None)


def test_distractors_are_stored_behind_the_edits_and_never_asked_for(llm: LanguageModel) -> None:
    table = TableEditor({"The mayor of A is": 1})
    editor = cast("RecipeEditor", table)
    result = evaluation.evaluate(EDITS[:1], editor, llm, Conditions(distractors=EDITS[1:]))
    assert table.statements == ["The mayor of A is → Ann", "The mayor of C is → Cem"]
    assert table.questions == ["The mayor of A is", "Who rules A?", "The area of B is"]
    assert (result.edits, result.distractors) == (1, 1)
    # The question hits the distractor, which is somebody else's fact.
    assert result.retrieval.right_hit == 0.0


def test_typos_slip_into_every_question_and_depend_on_the_seed(llm: LanguageModel) -> None:
    def questions(seed: int) -> list[str]:
        table = TableEditor({})
        evaluation.evaluate(EDITS, cast("RecipeEditor", table), llm, Conditions(typos=1.0, seed=seed))
        return table.questions

    plain = ["The mayor of A is", "The mayor of C is", "Who rules A?", "Who rules C?"]
    assert all(slipped != text for slipped, text in zip(questions(0), plain, strict=False))
    assert questions(0) == questions(0)
    assert questions(0) != questions(1)


def test_each_criterion_is_scored_by_its_own_rule(llm: LanguageModel) -> None:
    follows = (
        Question("Who leads A?", "Ann", "Subject_Aliasing"),
        Question("The child of A's mayor is", "", "Reasoning"),
    )
    apart = (
        Question("The river of A is", "Red", "Relation_Specificity"),
        Question("Hills of A:", "Hi", "Forgetfulness"),
    )
    edit = Edit("The mayor of A is", "Ann", unrelated=apart, portability=follows)
    result = evaluated({"Who leads A?": 0, "The river of A is": 0}, llm, [edit, EDITS[1]])

    prompt = in_front(llm, edit, 0)
    assert set(result.criteria) == {"Subject_Aliasing", "Relation_Specificity", "Forgetfulness"}
    aliasing, specificity = result.criteria["Subject_Aliasing"], result.criteria["Relation_Specificity"]
    assert (aliasing.questions, aliasing.must_answer, aliasing.hit) == (1, True, 100.0)
    assert aliasing.teacher_forced == pytest.approx(100 * accuracy(llm, prompt, "Who leads A?", "Ann"))
    edited = teacher_forced(llm, prompt, "The river of A is", "Red")
    unedited = teacher_forced(llm, None, "The river of A is", "Red")
    same = sum(a == b for a, b in zip(edited, unedited, strict=True)) / len(edited)
    assert (specificity.must_answer, specificity.hit) == (False, 100.0)
    assert specificity.teacher_forced == pytest.approx(100 * same)
    assert result.criteria["Forgetfulness"] == CriterionScores(1, False, 100.0, 100.0, 0.0)


def test_ordinary_texts_that_hit_are_counted_and_shown() -> None:
    result = evaluation.evaluate_text(
        EDITS, ["Good morning!", "Who rules A?", "long " * 9], editor_of({"Good morning!": 1})
    )
    assert (result.edits, result.texts, result.too_long, result.false_hit) == (2, 2, 1, 50.0)
    (example,) = result.examples
    assert (example.text, example.statement) == ("Good morning!", "The mayor of C is Cem")
    assert example.confidence == pytest.approx(1 / (1 + math.exp(-SURE)))


class QuestionEditor(TableEditor):
    """Each question hits the fact with that prompt, or all hit the last one."""

    def __init__(self, *, one: bool) -> None:
        super().__init__({})
        self._one = one

    def query(self, questions: Sequence[str]) -> list[EncodedQuery]:
        self.hits = {text: len(self._rows) - 1 if self._one else text for text in questions}
        return super().query(questions)


@pytest.mark.parametrize("one", [False, True])
def test_families_are_asked_for_members_that_are_stored_and_that_are_not(one: bool) -> None:
    result = evaluation.evaluate_families(10, 20, 0, cast("RecipeEditor", QuestionEditor(one=one)))
    assert set(result.families) == {"stores", "dates", "people", "articles", "servers", "companies"}
    for family in result.families.values():
        assert (family.stored, family.asked, family.absent) == (10, 10, 20)
        assert family.right_hit is not None
        if one:  # any of the ten is as near
            assert family.right_hit == 10
            assert family.false_hit == 100.0
        else:
            assert (family.right_hit, family.paraphrase_right_hit, family.false_hit) == (100.0, 0.0, 0.0)


def test_of_a_family_with_too_few_members_half_are_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    four = Family("the {zone} office", (("Who leads {}?", "{} is led by"),))
    monkeypatch.setattr(evaluation, "held_out_families", lambda: {"offices": four})
    result = evaluation.evaluate_families(10, 3, 0, cast("RecipeEditor", QuestionEditor(one=False)))
    offices = result.families["offices"]
    assert (offices.stored, offices.asked, offices.absent) == (2, 2, 2)
