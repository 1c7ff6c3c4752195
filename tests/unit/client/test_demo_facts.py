"""The hand-written facts of the demonstration are complete, distinct and free of leaked answers."""

import json
import re
from collections import Counter
from pathlib import Path

import pytest

from recipe_client.demo import load_demo_facts

FACTS_FILE = Path(__file__).parents[3] / "shared" / "recipe_client" / "data" / "demo_facts.jsonl"
FIELDS = {"fact_id", "kind", "subject", "prompt", "answer", "paraphrase", "unrelated"}
KINDS = {"people", "places", "companies", "products", "science", "sport", "published"}

Facts = list[dict[str, str]]


@pytest.fixture(scope="module")
def facts() -> Facts:
    return [json.loads(line) for line in FACTS_FILE.read_text(encoding="utf-8").splitlines()]


def test_there_are_at_least_forty_facts(facts: Facts) -> None:
    assert len(facts) >= 40


def test_every_fact_has_exactly_the_seven_fields(facts: Facts) -> None:
    assert [fact for fact in facts if set(fact) != FIELDS] == []


def test_every_field_is_a_non_empty_string_without_outer_blanks(facts: Facts) -> None:
    assert [
        (fact["fact_id"], field)
        for fact in facts
        for field, value in fact.items()
        if not isinstance(value, str) or not value or value != value.strip()
    ] == []


def test_every_kind_has_at_least_six_facts(facts: Facts) -> None:
    count = Counter(fact["kind"] for fact in facts)
    assert set(count) == KINDS
    assert min(count.values()) >= 6


def test_fact_ids_are_kebab_case(facts: Facts) -> None:
    ids = [fact["fact_id"] for fact in facts]
    assert [fact_id for fact_id in ids if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)+", fact_id)] == []


@pytest.mark.parametrize("field", ["fact_id", "prompt", "paraphrase", "unrelated"])
def test_values_are_unique(facts: Facts, field: str) -> None:
    count = Counter(fact[field].casefold() for fact in facts)
    assert [value for value, times in count.items() if times > 1] == []


@pytest.mark.parametrize("field", ["prompt", "paraphrase"])
def test_the_subject_is_named(facts: Facts, field: str) -> None:
    assert [fact["fact_id"] for fact in facts if fact["subject"] not in fact[field]] == []


@pytest.mark.parametrize("field", ["prompt", "paraphrase", "unrelated"])
def test_the_answer_is_not_given_away(facts: Facts, field: str) -> None:
    assert [fact["fact_id"] for fact in facts if fact["answer"].casefold() in fact[field].casefold()] == []


def test_only_what_companies_publish_is_longer_than_three_words(facts: Facts) -> None:
    assert {fact["kind"] for fact in facts if len(fact["answer"].split()) > 3} == {"published"}


def test_companies_publish_what_is_copied_to_the_letter(facts: Facts) -> None:
    answers = [fact["answer"] for fact in facts if fact["kind"] == "published"]
    assert len(answers) == 12
    assert sum(any(character.isdigit() for character in answer) for answer in answers) >= 6
    assert any(not answer.isascii() for answer in answers)
    assert max(len(answer.split()) for answer in answers) in range(12, 21)


def test_half_of_the_facts_of_either_sort_are_asked_about_in_chat() -> None:
    loaded = load_demo_facts()
    for sort in ([fact for fact in loaded if (fact.kind == "published") is published] for published in (True, False)):
        assert sum(fact.complete for fact in sort) == len(sort) / 2


def test_a_paraphrase_is_never_a_prompt(facts: Facts) -> None:
    prompts = {fact["prompt"].casefold() for fact in facts}
    assert [fact["fact_id"] for fact in facts if fact["paraphrase"].casefold() in prompts] == []


def test_an_unrelated_text_is_never_a_prompt_or_paraphrase(facts: Facts) -> None:
    in_scope = {fact[field].casefold() for fact in facts for field in ("prompt", "paraphrase")}
    assert [fact["fact_id"] for fact in facts if fact["unrelated"].casefold() in in_scope] == []
