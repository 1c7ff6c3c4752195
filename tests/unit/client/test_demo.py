"""The demonstration tells a broken pipeline from a model that is not skilled enough."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Self

import pytest

from recipe_client import demo
from recipe_client.demo import Demo, DemoFact, DemoResult
from recipe_client.embedded import Addresses
from recipe_common.errors import DeadlineExceededError
from recipe_protos.generator.v1 import generator_pb2 as pb
from recipe_protos.retriever.v1 import retriever_pb2

FACTS = [
    DemoFact("river", "places", "Beton", "The river of Beton is", "Dee", "Beton's river:", "The sky is", True),
    DemoFact("mayor", "places", "Aville", "The mayor of Aville is", "Ann", "Aville's mayor:", "Two and two is", False),
]
QUESTIONS = {text: fact.fact_id for fact in FACTS for text in (fact.prompt, fact.paraphrase)}
Misbehaviour = Callable[["World", str, pb.GenerateResponse], None]


class World:
    """A publisher and a client in one: what is published is known at once, and answered rightly."""

    def __init__(self, misbehave: Misbehaviour) -> None:
        self.known: dict[str, str] = {}
        self.history: list[str] = []
        self.tokens: dict[str, int] = {}
        self.misbehave = misbehave

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None: ...

    def publish(self, event: Mapping[str, Any]) -> str:
        fact_id: str = event["fact_id"]
        if "retract" in event:
            del self.known[fact_id]
        else:
            self.known[fact_id] = f"{event['upsert']['prompt']} {event['upsert']['answer']}"
            self.history.append(self.known[fact_id])
        return fact_id

    def wait_until_applied(self, event: str, seconds: float) -> None: ...

    def facts(self, **_: str) -> list[retriever_pb2.Fact]:
        return [retriever_pb2.Fact(fact_id=fact_id) for fact_id in self.known]

    def ask(self, prompt: str, *, complete: bool, max_new_tokens: int, **_: Any) -> pb.GenerateResponse:
        fact_id = QUESTIONS.get(prompt, "")
        self.tokens[prompt] = max_new_tokens
        answer = pb.GenerateResponse(
            text=" I do not know",
            knowledge=pb.Knowledge(status=pb.KNOWLEDGE_STATUS_UNEDITED_NO_MATCH),
            form=pb.FORM_COMPLETION if complete else pb.FORM_CHAT,
        )
        if fact_id in self.known:
            statement = self.known[fact_id]
            answer.text = f" {statement.split()[-1]}" if complete else statement
            answer.knowledge.MergeFrom(
                pb.Knowledge(status=pb.KNOWLEDGE_STATUS_EDITED, fact_id=fact_id, statement=statement)
            )
        self.misbehave(self, prompt, answer)
        return answer


def run(monkeypatch: pytest.MonkeyPatch, misbehave: Misbehaviour = lambda *_: None) -> DemoResult:
    return run_in(World(misbehave), monkeypatch, FACTS)


def run_in(world: World, monkeypatch: pytest.MonkeyPatch, facts: list[DemoFact]) -> DemoResult:
    monkeypatch.setattr(demo, "RecipeClient", lambda *_: world)
    monkeypatch.setattr(demo, "Publisher", lambda *_: world)
    return Demo(Addresses("k", "r", "g", ("a", "b", "c")), lambda _: None).run(facts)


def test_where_all_is_well_everything_counts_and_nothing_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    result = run(monkeypatch)
    assert result.pipeline_problems == []
    assert all(row.answered and row.paraphrase_answered and row.unrelated_unchanged for row in result.rows)
    assert [(change.what, change.followed) for change in result.changes] == [("superseded", True), ("retracted", True)]


def test_a_completion_begins_with_the_answer_and_a_reply_in_chat_states_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def say_more(_: World, __: str, answer: pb.GenerateResponse) -> None:
        if answer.knowledge.fact_id:
            answer.text = f"It is {answer.text.strip()}."

    river, mayor = run(monkeypatch, say_more).rows
    assert (river.after.form, river.answered, river.paraphrase_answered) == ("COMPLETION", False, False)
    assert (mayor.after.form, mayor.answered, mayor.paraphrase_answered) == ("CHAT", True, True)


def test_there_is_room_for_every_answer_and_for_a_sentence_around_it_in_chat(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(lambda *_: None)
    answers = ("\N{LATIN CAPITAL LETTER A WITH RING ABOVE}" * 30, "n" * 60)  # of as many bytes
    run_in(world, monkeypatch, [replace(fact, answer=answer) for fact, answer in zip(FACTS, answers, strict=True)])
    river, mayor = FACTS
    assert [world.tokens[text] for text in (river.prompt, river.paraphrase, river.unrelated)] == [60, 60, 12]
    assert [world.tokens[text] for text in (mayor.prompt, mayor.paraphrase, mayor.unrelated)] == [80, 80, 12]


def test_a_new_answer_gets_its_room(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(lambda *_: None)
    run_in(world, monkeypatch, [FACTS[0], replace(FACTS[1], answer="n" * 40)])
    assert world.tokens[FACTS[0].prompt] == 40  # it was superseded by the other's answer


def test_an_unskilled_model_is_no_broken_pipeline(monkeypatch: pytest.MonkeyPatch) -> None:
    def stammer(_: World, __: str, answer: pb.GenerateResponse) -> None:
        if answer.knowledge.fact_id:
            answer.text = " er"

    result = run(monkeypatch, stammer)
    assert result.pipeline_problems == []
    assert not any(row.answered for row in result.rows)


def test_an_answer_that_changes_without_a_hit_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    def drift(world: World, prompt: str, answer: pb.GenerateResponse) -> None:
        if world.known and prompt == "The sky is":
            answer.text = " green"

    assert run(monkeypatch, drift).pipeline_problems == ["an answer to a question of river changed without a hit"]


def test_a_decision_that_fails_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(world: World, prompt: str, answer: pb.GenerateResponse) -> None:
        if world.known and prompt == "The sky is":
            answer.knowledge.degraded = True

    assert run(monkeypatch, fail).pipeline_problems == ["a question of river could not be decided about"]


def test_a_statement_that_outlives_its_fact_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    def stale(world: World, prompt: str, answer: pb.GenerateResponse) -> None:
        fact_id = QUESTIONS.get(prompt)
        if fact_id and len(world.history) > len(FACTS):  # one has been superseded by now
            first = next(text for text in world.history if text.startswith(prompt.split(" of ", maxsplit=1)[0]))
            answer.knowledge.MergeFrom(
                pb.Knowledge(status=pb.KNOWLEDGE_STATUS_EDITED, fact_id=fact_id, statement=first)
            )

    assert run(monkeypatch, stale).pipeline_problems == [
        "river was superseded but its old statement is still used",
        "mayor was retracted but its old statement is still used",
    ]


def test_an_event_that_is_not_applied_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object) -> None:
        raise DeadlineExceededError("not applied within 30 s")

    monkeypatch.setattr(World, "wait_until_applied", never)
    with pytest.raises(DeadlineExceededError):
        run(monkeypatch)
