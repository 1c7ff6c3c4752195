"""The demonstration: sample facts published over Kafka, every question asked before and after.

It tells two things apart. The pipeline must work: an event that is not applied, an answer that changes without a
hit, a superseded or retracted fact that is still used are failures. The model's skill is reported as it is: how
many answers, paraphrases and unrelated questions went as they should.
"""

import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path

from recipe_client.client import RecipeClient
from recipe_client.embedded import Addresses, EmbeddedOptions, EmbeddedStack
from recipe_client.publishing import Publisher
from recipe_common.answers import says, states
from recipe_protos.generator.v1 import generator_pb2 as pb

NAMESPACE = "demo"
NEW_TOKENS = 12
SENTENCE_TOKENS = 20  # a reply in chat may be a sentence around the answer
APPLY_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class DemoFact:
    """A hand-written change of the world and the questions asked about it."""

    fact_id: str
    kind: str
    subject: str
    prompt: str
    answer: str
    paraphrase: str
    unrelated: str
    complete: bool  # whether its questions are texts to continue; else they are asked in chat


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer with the decision behind it."""

    text: str
    form: str  # COMPLETION or CHAT
    status: str
    fact_id: str
    statement: str
    confidence: float | None  # that the fact applies, or on a miss that the nearest one does; None without a decision
    min_confidence: float | None  # that was needed
    nearest_fact_id: str  # on a miss
    degraded: bool  # the decision failed, so that no fact applied

    @property
    def hit(self) -> bool:
        """Whether a fact was applied."""
        return self.status.startswith("EDITED")

    def gives(self, answer: str) -> bool:
        """Whether a completion begins with the answer, or a reply in chat states it."""
        return states(self.text, answer) if self.form == "CHAT" else says(self.text, answer)


@dataclass(frozen=True, slots=True)
class DemoRow:
    """One fact's questions, before and after it was published."""

    fact: DemoFact
    before: Reply
    after: Reply
    paraphrased: Reply
    unrelated_before: Reply
    unrelated_after: Reply

    @property
    def answered(self) -> bool:
        return self.after.fact_id == self.fact.fact_id and self.after.gives(self.fact.answer)

    @property
    def paraphrase_answered(self) -> bool:
        return self.paraphrased.fact_id == self.fact.fact_id and self.paraphrased.gives(self.fact.answer)

    @property
    def unrelated_unchanged(self) -> bool:
        return self.unrelated_after.text == self.unrelated_before.text


@dataclass(frozen=True, slots=True)
class LaterChange:
    """What happens to a fact after it was published: a new answer, or none."""

    what: str
    fact: DemoFact
    new_answer: str
    before: Reply
    after: Reply
    plain: Reply

    @property
    def followed(self) -> bool:
        """Whether the answer followed: it gives the new answer, or is the plain model's again."""
        if self.new_answer:
            return self.after.hit and self.after.gives(self.new_answer)
        return self.after.text == self.plain.text


@dataclass(slots=True)
class DemoResult:
    """All that the demonstration saw."""

    rows: list[DemoRow] = field(default_factory=list)
    changes: list[LaterChange] = field(default_factory=list)
    pipeline_problems: list[str] = field(default_factory=list)


def load_demo_facts() -> list[DemoFact]:
    """The sample facts that ship with the package; every second one is asked about in chat."""
    text = files("recipe_client").joinpath("data/demo_facts.jsonl").read_text(encoding="utf-8")
    return [DemoFact(**json.loads(line), complete=place % 2 == 0) for place, line in enumerate(text.splitlines())]


async def run_demo(checkpoint: Path | None, report: Callable[[str], None]) -> DemoResult:
    """Start everything on free ports, run the demonstration, stop everything."""
    ports = {"kafka_port": 0, "retriever_port": 0, "generator_port": 0, "metrics_ports": (0, 0, 0)}
    stack = EmbeddedStack(EmbeddedOptions(checkpoint=checkpoint, **ports), report)  # type: ignore[arg-type]
    addresses = await stack.start()
    try:
        return await asyncio.to_thread(Demo(addresses, report).run, load_demo_facts())
    finally:
        await stack.stop()


class Demo:
    """Runs against a stack that is up."""

    def __init__(self, addresses: Addresses, report: Callable[[str], None]) -> None:
        self._client = RecipeClient(addresses.retriever, addresses.generator)
        self._publisher = Publisher(addresses.kafka)
        self._report = report
        self._result = DemoResult()

    def run(self, facts: Sequence[DemoFact]) -> DemoResult:
        """Ask, publish, ask again; then supersede one fact and retract another."""
        with self._client, self._publisher:
            self._report(f"asking {len(facts)} facts' questions before anything is known")
            before = [(self._ask_for(fact, fact.prompt, fact.answer), self._ask_unrelated(fact)) for fact in facts]
            self._report(f"publishing {len(facts)} facts over Kafka")
            for fact in facts:
                self._publish(fact, fact.answer)
            self._report("asking again")
            for fact, (plain, unrelated) in zip(facts, before, strict=True):
                after, paraphrased = (self._ask_for(fact, text, fact.answer) for text in (fact.prompt, fact.paraphrase))
                row = DemoRow(fact, plain, after, paraphrased, unrelated, self._ask_unrelated(fact))
                self._result.rows.append(row)
            self._check_rows()
            self._report("superseding one fact and retracting one")
            self._later_changes()
        return self._result

    def _later_changes(self) -> None:
        answered = [row for row in self._result.rows if row.answered] or self._result.rows
        superseded, retracted = answered[0], answered[-1]
        # A new answer of the same kind: another fact's, so that the sample facts stay the only texts to write.
        other = next(
            row.fact
            for row in self._result.rows
            if row.fact.kind == superseded.fact.kind and row.fact.answer != superseded.fact.answer
        )
        self._publish(superseded.fact, other.answer)
        self._record("superseded", superseded, other.answer)
        self._apply(retracted.fact, {"retract": {"reason": "the demonstration takes it back"}})
        self._record("retracted", retracted, "")

    def _record(self, what: str, row: DemoRow, new_answer: str) -> None:
        after = self._ask_for(row.fact, row.fact.prompt, new_answer or row.fact.answer)
        self._result.changes.append(LaterChange(what, row.fact, new_answer, row.after, after, row.before))
        if after.fact_id == row.fact.fact_id and after.statement == row.after.statement:
            self._problem(f"{row.fact.fact_id} was {what} but its old statement is still used")

    def _check_rows(self) -> None:
        """The pipeline's promises, whatever the model's skill."""
        stored = {fact.fact_id for fact in self._client.facts(namespace=NAMESPACE)}
        for row in self._result.rows:
            if row.fact.fact_id not in stored:
                self._problem(f"{row.fact.fact_id} was published but is not stored")
            if row.before.hit:
                self._problem(f"{row.fact.fact_id} was answered with knowledge before anything was published")
            for before, after in ((row.before, row.after), (row.unrelated_before, row.unrelated_after)):
                if after.degraded:
                    self._problem(f"a question of {row.fact.fact_id} could not be decided about")
                if not after.hit and after.text != before.text:
                    self._problem(f"an answer to a question of {row.fact.fact_id} changed without a hit")

    def _publish(self, fact: DemoFact, answer: str) -> None:
        self._apply(fact, {"upsert": {"prompt": fact.prompt, "answer": answer, "subject": fact.subject}})

    def _apply(self, fact: DemoFact, change: dict[str, object]) -> None:
        """Publish and wait; an event that is not applied ends the demonstration with the client's error."""
        event = self._publisher.publish({"namespace": NAMESPACE, "fact_id": fact.fact_id, **change})
        self._client.wait_until_applied(event, APPLY_SECONDS)

    def _ask_for(self, fact: DemoFact, question: str, expected: str) -> Reply:
        """Ask with room for the expected answer, whatever the LLM's tokens are: none has less than a byte."""
        room = max(NEW_TOKENS, len(expected.encode()))
        return self._ask(question, room if fact.complete else room + SENTENCE_TOKENS, complete=fact.complete)

    def _ask_unrelated(self, fact: DemoFact) -> Reply:
        return self._ask(fact.unrelated, NEW_TOKENS, complete=fact.complete)

    def _ask(self, question: str, new_tokens: int, *, complete: bool) -> Reply:
        answer = self._client.ask(question, namespace=NAMESPACE, max_new_tokens=new_tokens, complete=complete)
        knowledge = answer.knowledge
        return Reply(
            text=answer.text,
            form=pb.Form.Name(answer.form).removeprefix("FORM_"),
            status=pb.KnowledgeStatus.Name(knowledge.status).removeprefix("KNOWLEDGE_STATUS_"),
            fact_id=knowledge.fact_id,
            statement=knowledge.statement,
            confidence=_optional(knowledge, "confidence"),
            min_confidence=_optional(knowledge, "min_confidence"),
            nearest_fact_id=knowledge.nearest_fact_id,
            degraded=knowledge.degraded,
        )

    def _problem(self, what: str) -> None:
        self._result.pipeline_problems.append(what)


def _optional(knowledge: pb.Knowledge, name: str) -> float | None:
    return float(getattr(knowledge, name)) if knowledge.HasField(name) else None  # type: ignore[arg-type]
