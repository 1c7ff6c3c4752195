import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from recipe_common.errors import InvalidArgumentError
from recipe_model.editor import RecipeEditor
from recipe_trainer.datasets import Edit, Question
from recipe_trainer.knowledge_base import Asked, Candidate
from recipe_trainer.recognition import (
    BINS,
    Recognition,
    evaluate_natural,
    evaluate_wordings,
    expected_calibration_error,
    load_wordings,
    reliability,
    wordings_figures,
)
from unit.trainer.table_editor import TableEditor

RECORDS = [
    {
        "id": "a", "prompt": "The mayor of A is", "answer": "Ann", "subject": "A",
        "asks": ["Who rules A?", "Please, who rules A?", "a mayor", "In A the mayor is"],
        "near_misses": ["Who built A?", "who rules c?"],
    },
    {
        "id": "c", "prompt": "The mayor of C is", "answer": "Cem", "subject": "C",
        "asks": ["Who rules C?", "Please, who rules C?", "c mayor", "In C the mayor is"],
        "near_misses": ["Who built C?"],
    },
]  # fmt: skip
HITS: dict[str, int | str] = {
    "The mayor of A is": 0,
    "The mayor of C is": 1,
    "Who rules A?": 0,
    "Please, who rules A?": 1,
    "c mayor": 1,
}


def editor_of(hits: Mapping[str, int | str]) -> RecipeEditor:
    return cast("RecipeEditor", TableEditor(hits))


@pytest.fixture
def wordings(tmp_path: Path) -> Path:
    path = tmp_path / "dev.json"
    path.write_text(json.dumps(RECORDS))
    return path


def test_each_form_of_question_is_counted_by_itself(wordings: Path) -> None:
    editor = TableEditor(HITS | {"Who built C?": 0})
    others = [Edit("The river of D is", "Red")]
    figures = wordings_figures(evaluate_wordings([wordings], others, cast("RecipeEditor", editor)), {})
    own = {"own": 100.0, "question": 50.0, "longer_question": 0.0, "keywords": 50.0, "completion": 0.0}
    assert figures["recognised"] == own
    assert (figures["nearest"]["own"], figures["nearest"]["keywords"]) == (100.0, 50.0)
    assert figures["candidates"] == dict.fromkeys(own, 100.0)  # three facts are all candidates
    assert editor.statements == ["The mayor of A is → Ann", "The mayor of C is → Cem", "The river of D is → Red"]


def test_a_near_miss_that_asks_for_another_record_word_for_word_is_none(wordings: Path) -> None:
    editor = TableEditor(HITS | {"Who built C?": 0, "who rules c?": 1})
    figures = wordings_figures(evaluate_wordings([wordings], [], cast("RecipeEditor", editor)), {})
    assert figures["near_miss_false_hits"] == 50.0
    assert "who rules c?" not in editor.questions


def test_figures_at_each_threshold_are_means_over_the_asks_without_the_own_question(wordings: Path) -> None:
    figures = wordings_figures(evaluate_wordings([wordings], [], editor_of(HITS | {"Who built C?": 0})), {})
    found = {each["min_confidence"]: each for each in figures["by_min_confidence"]}
    assert list(found) == [round(0.05 * step, 2) for step in range(1, 20)]
    assert found[0.95] == {"min_confidence": 0.95, "recognised": 25.0, "near_miss_false_hits": 50.0}


def test_two_asks_are_a_question_and_keywords_and_several_files_are_pooled(wordings: Path, tmp_path: Path) -> None:
    other = tmp_path / "tricky.json"
    other.write_text(json.dumps([RECORDS[0] | {"asks": ["Who rules A?", "a mayor"], "near_misses": []}]))
    said = {"dev.json": {"said": {"own": 50.0}}}
    figures = wordings_figures(evaluate_wordings([wordings, other], [], editor_of(HITS)), said)
    assert list(figures["files"]) == ["dev.json", "tricky.json"]
    assert figures["files"]["dev.json"]["said"] == {"own": 50.0}
    tricky = figures["files"]["tricky.json"]
    assert tricky["recognised"] == {"own": 100.0, "question": 100.0, "keywords": 0.0}
    assert tricky["near_miss_false_hits"] is None
    assert figures["recognised"]["question"] == pytest.approx(200 / 3)
    assert figures["recognised"]["completion"] == 0.0


def test_a_record_without_asks_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(json.dumps([{"prompt": "p", "answer": "a"}]))
    with pytest.raises(InvalidArgumentError, match="record 0: not a known format"):
        load_wordings(tmp_path / "x.json")


def asked(record: int, confidence: float | None, *, hit: bool = True, found: int = 0) -> Asked:
    candidates = () if confidence is None else (Candidate(found, "s", "a", 0.5, 0.0, confidence),)
    return Asked(Question("q", criterion="own"), record, candidates, applies=hit)


def test_the_calibration_error_is_of_all_decisions_that_had_a_candidate() -> None:
    found = Recognition([asked(0, 0.9), asked(1, 0.9), asked(0, None, hit=False)], [asked(-1, 0.2)])
    given, right = found.confidences()
    assert (given.tolist(), right.tolist()) == ([0.9, 0.9, 0.2], [1.0, 0.0, 0.0])
    assert reliability(given, right) == [(0.2, 0.0, 1), (0.9, 0.5, 2)]
    assert expected_calibration_error(given, right) == pytest.approx(100 * (2 * 0.4 + 0.2) / 3)
    assert expected_calibration_error(np.array([]), np.array([])) is None
    assert reliability(np.array([1.0]), np.array([1.0])) == [(1.0, 1.0, 1)]
    assert BINS == 15


def test_nearest_goes_by_the_first_step_and_right_by_the_second() -> None:
    candidates = (Candidate(0, "s", "a", 0.5, 2.0, 0.9), Candidate(1, "s", "a", 0.7, 1.0, 0.8))
    found = [Asked(Question("q"), record, candidates, applies=True) for record in (0, 1, 2)]
    assert [item.right for item in found] == [True, False, False]
    assert [item.nearest for item in found] == [False, True, False]
    assert [item.among_candidates for item in found] == [True, True, False]


def fact(prompt: str, asks: list[str], wording: str, near: tuple[str, ...] = (), **changes: Any) -> dict[str, Any]:
    return {
        "prompt": prompt, "answer": "x", "statement": None, "subject": "s", "aliases": ["t"], "asks": asks,
        "asks_wording": [wording] * len(asks), "near_misses": list(near), **changes,
    }  # fmt: skip


@pytest.fixture
def natural(tmp_path: Path) -> Path:
    files = {
        "facts.people": [
            fact("A is", ["what is A?"], "human", ("where is A?",)),
            fact("B is", ["what is B?"], "llm", ("where is B?",), answer=None),
            fact("B is", ["what is B again?"], "llm"),
        ],
        "facts.rules": [fact("C is", ["what is C?"], "template", ("where is C?",))],
        "facts.bare": [fact("D is", [], "human")],
        "pairs.twins": [
            {"a": "How is it?", "b": "How's it?", "same": True},
            {"a": "How is it?", "b": "How was it?", "same": False},
            {"a": "Why?", "b": "Why so?", "same": True},
        ],
        "text.talk": [{"text": "Hello!"}, {"text": "Bye!"}, {"text": "long " * 30}],
    }
    for name, records in files.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(f"{json.dumps(record)}\n" for record in records))
    return tmp_path


def test_every_source_has_a_row_and_what_people_worded_a_mean(natural: Path) -> None:
    own = {"what is A?": "A is", "what is B?": "B is", "what is B again?": "B is", "How's it?": "How is it?"}
    hits = own | {"where is B?": "A is", "where is C?": "C is", "How was it?": "Why?", "Why so?": "How is it?"}
    figures = evaluate_natural(natural, editor_of(hits), 500, 0)
    rows = figures["sources"]
    assert list(rows) == ["facts.bare", "facts.people", "facts.rules", "pairs.twins", "text.talk"]
    shared = {"nearest": rows["facts.people"]["nearest"], "candidates": 100.0}
    assert rows["facts.people"] == {
        "records": 2, "asks": 2, "near_misses": 2, "recognised": 100.0, "near_miss_false_hits": 50.0,
        "recognised_people": 100.0, **shared,
    }  # fmt: skip
    assert (rows["facts.rules"]["recognised"], rows["facts.rules"]["recognised_people"]) == (0.0, None)
    assert rows["facts.rules"]["near_miss_false_hits"] == 100.0
    assert (rows["facts.bare"]["recognised"], rows["facts.bare"]["near_miss_false_hits"]) == (None, None)
    assert (rows["pairs.twins"]["recognised"], rows["pairs.twins"]["near_miss_false_hits"]) == (50.0, 100.0)
    assert rows["text.talk"] == {"records": 3, "asked": 2, "false_hits": 0.0}
    assert figures["mean"] == {"recognised": 100.0, "near_miss_false_hits": 50.0}


def test_a_limit_draws_the_same_records_again(natural: Path) -> None:
    def asked_with(seed: int) -> list[str]:
        editor = TableEditor({})
        evaluate_natural(natural, cast("RecipeEditor", editor), 1, seed)
        return editor.questions

    assert asked_with(0) == asked_with(0)
    assert len({tuple(asked_with(seed)) for seed in range(6)}) > 1
