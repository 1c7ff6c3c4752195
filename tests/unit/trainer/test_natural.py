import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from recipe_common.errors import InvalidArgumentError
from recipe_trainer.datasets import Edit, Question
from recipe_trainer.natural import Pair, load_facts, load_pairs, natural_edits, sources

FACT = {
    "source": "made", "id": "1", "statement": "Since May  the mayor of Aville is Ann.",
    "prompt": "The mayor of Aville is", "answer": "Ann", "subject": "Aville", "aliases": ["the Ville", ""],
    "asks": ["Who rules Aville?", "aville mayor"], "asks_wording": ["human", "template"],
    "near_misses": ["Who built Aville?"], "wording": "human",
}  # fmt: skip
Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def lines(name: str, *records: Any) -> Path:
        path = tmp_path / name
        path.write_text("".join(f"{json.dumps(record, ensure_ascii=False)}\n" for record in records))
        return path

    return lines


def test_a_fact_is_an_edit_with_who_worded_each_paraphrase(write: Write) -> None:
    (fact,) = load_facts(write("facts.made.jsonl", FACT))
    assert fact.asks_wording == ("human", "template")
    assert fact.edit == Edit(
        "The mayor of Aville is", "Ann", "Aville", ("Who rules Aville?", "aville mayor"),
        (Question("Who built Aville?"),), aliases=("the Ville",), sentence="Since May the mayor of Aville is Ann.",
    )  # fmt: skip
    assert fact.edit.knowledge == "The mayor of Aville is → Ann ≡ the Ville"
    assert fact.edit.statement == "Since May the mayor of Aville is Ann."


def test_without_an_answer_the_prompt_is_a_bare_statement(write: Write) -> None:
    changed: dict[str, Any] = FACT | {"answer": None, "subject": None, "aliases": [], "statement": "Something."}
    (fact,) = load_facts(write("facts.made.jsonl", changed))
    assert (fact.edit.answer, fact.edit.subject, fact.edit.sentence) == ("", "", "")
    assert fact.edit.knowledge == fact.edit.statement == "The mayor of Aville is"


def test_a_statement_that_does_not_hold_the_answer_is_not_the_facts_sentence(write: Write) -> None:
    (fact,) = load_facts(write("facts.made.jsonl", FACT | {"statement": "She won."}))
    assert fact.edit.statement == "The mayor of Aville is Ann"


def test_a_line_separator_within_a_text_ends_no_record(write: Write) -> None:
    (fact,) = load_facts(write("facts.made.jsonl", FACT | {"prompt": "The mayor\u2028of Aville is"}))
    assert fact.edit.prompt == "The mayor of Aville is"


def test_pairs_that_ask_nothing_are_left_out(write: Write) -> None:
    pairs = [
        {"a": "A?", "b": "B?", "same": True},
        {"a": "A?", "b": "n/a", "same": False},
        {"a": "", "b": "B", "same": 1},
    ]
    assert load_pairs(write("pairs.made.jsonl", *pairs)) == [Pair("A?", "B?", same=True)]


def test_the_prompts_learn_from_facts_with_a_short_answer_and_other_wordings(write: Write, tmp_path: Path) -> None:
    records = [FACT, FACT | {"answer": "long " * 20}, FACT | {"answer": None}, FACT | {"asks": [], "asks_wording": []}]
    write("facts.made.jsonl", *records)
    write("pairs.made.jsonl", {})
    assert [edit.answer for edit in natural_edits(tmp_path)] == ["Ann"]
    assert list(sources(tmp_path, "pairs")) == ["made"]


def test_a_record_of_another_shape_and_a_missing_folder_are_named(write: Write, tmp_path: Path) -> None:
    path = write("facts.made.jsonl", FACT, {"prompt": "x"})
    with pytest.raises(InvalidArgumentError, match=r"data: .*facts.made.jsonl, record 1: not a known format"):
        load_facts(path)
    with pytest.raises(InvalidArgumentError, match="natural: there is no folder"):
        sources(tmp_path / "none", "facts")
