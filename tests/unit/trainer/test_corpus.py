"""What the verifier is trained on: cases out of every kind of file, the same for the same seed."""

import json
import random
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from recipe_trainer.corpus import Case, Corpus, invented_name, read_corpus, relation_cases
from recipe_trainer.datasets import Edit, Question

FACT: dict[str, Any] = {
    "source": "mine", "statement": "Acme was founded by Ann.", "prompt": "Who founded Acme?", "answer": "Ann",
    "subject": "Acme", "aliases": ["ACME Inc"], "asks": ["Who started Acme?"], "asks_wording": ["human"],
    "near_misses": ["When was Acme founded?"],
}  # fmt: skip
PAIRS = [
    {"source": "two", "a": "Is it so?", "b": "So is it?", "same": True},
    {"source": "two", "a": "Is it?", "b": "Was it?", "same": False},
]


@pytest.fixture
def natural(tmp_path: Path) -> Path:
    (tmp_path / "facts.mine.jsonl").write_text(json.dumps(FACT) + "\n")
    (tmp_path / "pairs.two.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in PAIRS))
    (tmp_path / "text.chat.jsonl").write_text(json.dumps({"source": "chat", "text": "good morning"}) + "\n")
    return tmp_path


def _of(corpus: Corpus, source: str) -> list[Case]:
    return [case for case in corpus.cases if case.source == source]


def test_a_fact_is_stored_with_its_answer_with_aliases_and_as_a_statement(natural: Path) -> None:
    (case,) = _of(read_corpus([], natural, [], 0), "mine")
    assert case.texts[0] == "Who founded Acme? → Ann"
    assert case.texts[1].startswith("Who founded Acme? → Ann") and "ACME Inc" in case.texts[1]
    assert case.texts[2] == FACT["statement"]
    assert {"Who started Acme?", "Who founded Acme?", "Who founded ACME Inc?"} <= set(case.asks)
    assert "When was Acme founded?" in case.near
    assert not set(case.asks) & set(case.near)


def test_pairs_are_asked_for_or_near_and_texts_belong_to_no_fact(natural: Path) -> None:
    corpus = read_corpus([], natural, ["open question"], 0)
    same, other = sorted(_of(corpus, "two"), key=lambda case: "So is it?" not in case.asks)
    assert "So is it?" in same.asks
    assert "Was it?" in other.near and "Was it?" not in other.asks
    assert set(corpus.texts) == {"open question", "good morning"}


def test_edits_bring_their_paraphrases_and_unrelated_questions() -> None:
    edit = Edit("Acme is based in", "Oslo", "Acme", ("The seat of Acme is",), (Question("Bolt is based in"),))
    (case,) = _of(read_corpus([edit], None, [], 0), "edits")
    assert {"Acme is based in", "The seat of Acme is"} <= set(case.asks)
    assert "Bolt is based in" in case.near


def test_what_a_run_is_judged_by_is_not_learnt_from(natural: Path) -> None:
    """As a question of its own, among others, as a near miss, and as a text, in any case of its letters."""
    edit = Edit("Acme is based in", "Oslo", "Acme", ("The seat of Acme is",), (Question("Bolt is based in"),))
    held_out = {"who founded acme?", "the seat of acme is", "bolt is based in", "good morning"}
    corpus = read_corpus([edit], natural, ["open question"], 0, held_out=held_out)
    assert _of(corpus, "mine") == []
    (case,) = _of(corpus, "edits")
    assert not {"The seat of Acme is", "Bolt is based in"} & {*case.asks, *case.near}
    assert corpus.texts == ["open question"]


def test_families_stand_beside_the_edits() -> None:
    (case,) = _of(read_corpus([], None, [], 0, families=[Edit("The rent of flat 7 is", "Oslo", "flat 7")]), "families")
    assert case.texts[0] == "The rent of flat 7 is → Oslo"


def test_the_same_seed_gives_the_same_corpus(natural: Path) -> None:
    assert read_corpus([], natural, [], 3).cases == read_corpus([], natural, [], 3).cases


def test_every_relation_written_by_hand_is_about_its_subject_only() -> None:
    for case in relation_cases(random.Random(0), 1):
        assert case.subject and case.answer
        assert len(case.asks) >= 6 and len(case.near) >= 6
        texts = (*case.texts, *case.asks, *case.near)
        assert not any("{X}" in text for text in texts)


def test_a_relation_is_asked_about_subjects_whose_names_share_parts() -> None:
    """People with the same last name are no rarity, and who is asked about must be the one who is stored."""
    cases = list(relation_cases(random.Random(0), 14))
    for start in range(0, len(cases), 14):
        group = cases[start : start + 14]
        assert len({case.subject for case in group}) == 14
        parts = Counter(part for case in group for part in case.subject.split()[-1:])
        assert len(parts) < 14 or not all(" " in case.subject for case in group)
    for case in cases[::20]:
        assert not set(case.near) & set(case.asks)
        others = [
            question for question in case.near if not re.search(rf"(?i)\b{re.escape(case.subject)}(?!\w)", question)
        ]
        assert len(others) >= 2


@pytest.mark.parametrize("kind", ["company", "person", "product", "other:a ferry", "place"])
def test_invented_names_leave_no_slot_open(kind: str) -> None:
    names = {invented_name(random.Random(seed), kind) for seed in range(100)}
    assert len(names) > 80
    assert not any("{" in name or not name.strip() for name in names)
