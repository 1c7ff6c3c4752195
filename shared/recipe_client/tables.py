"""Results as tables for the terminal and as plain values for JSON."""

from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from rich.table import Table

from recipe_client.publishing import PublishedEvent
from recipe_protos.generator.v1 import generator_pb2
from recipe_protos.retriever.v1 import retriever_pb2

if TYPE_CHECKING:
    from recipe_client.demo import DemoResult, Reply
    from recipe_client.embedded import Addresses

_SHOWN_CHARACTERS: Final = 44


def rfc3339(moment: datetime | None) -> str | None:
    """A command line's time, which is UTC, as an event writes it."""
    return None if moment is None else moment.replace(tzinfo=UTC).isoformat().replace("+00:00", "Z")


def address_dict(addresses: "Addresses") -> dict[str, Any]:
    """Where a stack listens, for JSON."""
    encoder, retriever, generator = addresses.metrics
    return {
        "kafka": addresses.kafka,
        "retriever": addresses.retriever,
        "generator": addresses.generator,
        "metrics": {"encoder": encoder, "retriever": retriever, "generator": generator},
    }


def addresses(running: "Addresses") -> Table:
    """Where a stack listens."""
    table = Table("part", "address", "client setting", title="ready; stop with Ctrl-C")
    table.add_row("Kafka", running.kafka, "RECIPE_KAFKA")
    table.add_row("retriever (gRPC)", running.retriever, "RECIPE_RETRIEVER")
    table.add_row("generator (gRPC)", running.generator, "RECIPE_GENERATOR")
    for name, url in zip(("encoder", "retriever", "generator"), running.metrics, strict=True):
        table.add_row(f"{name} metrics", url, "")
    return table


def published_dict(event: PublishedEvent, *, applied: bool) -> dict[str, Any]:
    """A published event, for JSON."""
    return asdict(event) | {"applied": applied}


def answer(prompt: str, response: generator_pb2.GenerateResponse) -> Table:
    """One answer and the decision behind it."""
    table = Table(show_header=False, min_width=60)
    table.add_row("prompt", prompt)
    table.add_row("answer", response.text.strip())
    table.add_row("form", _form(response))
    table.add_row("knowledge", _knowledge(response.knowledge))
    return table


def comparison(prompt: str, response: generator_pb2.CompareResponse) -> Table:
    """Both answers to one text."""
    table = Table("", "answer", "knowledge", title=prompt, caption=f"form: {_form(response.with_knowledge)}")
    for name, each in (("with", response.with_knowledge), ("without", response.without_knowledge)):
        table.add_row(name, each.text.strip(), _knowledge(each.knowledge))
    return table


def facts(found: Sequence[retriever_pb2.Fact], namespace: str) -> Table:
    """Stored facts."""
    table = Table("fact", "revision", "statement", "valid", "position", title=f"{len(found)} facts in {namespace}")
    for fact in found:
        position = f"{fact.position.partition}/{fact.position.offset}"
        table.add_row(fact.fact_id, str(fact.revision), _what(fact), _validity(fact), position)
    return table


def explanation(question: str, response: retriever_pb2.ExplainResponse) -> Table:
    """The nearest facts of a question, best first, and what speaks for or against each."""
    decision = retriever_pb2.Decision.Name(response.decision).removeprefix("DECISION_").lower()
    columns = ("fact", "similarity", "margin", "confidence", "verdict", "valid", "statement")
    table = Table(*columns, title=f"{decision}: {question}")
    for near in response.nearest:
        verdict = retriever_pb2.Verdict.Name(near.verdict).removeprefix("VERDICT_").lower().replace("_", " ")
        margin = f"{near.margin:+.2f}" if near.HasField("margin") else "-"
        confidence = f"{near.confidence:.3f}" if near.HasField("confidence") else "-"
        scores = (f"{near.similarity:.3f}", margin, confidence)
        table.add_row(near.fact.fact_id, *scores, verdict, _validity(near.fact), near.fact.statement)
    table.caption = (
        f"{response.reason} Candidates have a similarity of at least {response.min_similarity:.3f}; "
        f"facts: {response.facts}."
    )
    if response.degraded:
        table.caption += f" Degraded: {response.degraded_reason}."
    return table


def history(revisions: Sequence[retriever_pb2.Fact]) -> Table:
    """Every revision of a fact, newest first."""
    newest = revisions[0]
    table = Table(
        "revision", "what", "valid", "event time", "publisher", "position", title=f"{newest.namespace}/{newest.fact_id}"
    )
    for fact in revisions:
        position = f"{fact.position.topic}/{fact.position.partition}/{fact.position.offset}"
        source = " ".join(part for part in (fact.source.publisher, fact.source.uri) if part)
        when = fact.event_time.ToJsonString()
        table.add_row(str(fact.revision), _what(fact), _validity(fact), when, source, position)
    return table


def demo(result: "DemoResult") -> Table:
    """The demonstration, a row a fact; a tick where it went as it should."""
    table = Table(
        "question and new answer",
        "before",
        "after",
        "confidence / needed",
        "paraphrased",
        "unrelated",
        title="Live knowledge updates",
        show_lines=True,
    )
    for row in result.rows:
        table.add_row(
            f"{row.fact.prompt} ({row.after.form.lower()})\n-> {row.fact.answer}",
            _cut(row.before.text),
            f"{_tick(row.answered)} {_cut(row.after.text)}",
            _scores(row.after),
            f"{row.fact.paraphrase}\n{_tick(row.paraphrase_answered)} {_cut(row.paraphrased.text)}",
            f"{row.fact.unrelated}\n{_tick(row.unrelated_unchanged)} {_cut(row.unrelated_after.text)}",
        )
    for change in result.changes:
        question = f"{change.what}: {change.fact.prompt}\n-> {change.new_answer or 'as before it was published'}"
        after = f"{_tick(change.followed)} {_cut(change.after.text)}"
        table.add_row(question, _cut(change.before.text), after, _scores(change.after), "", "")
    table.caption = ", ".join(f"{name} {right} of {all_}" for name, (right, all_) in _counts(result).items())
    return table


def demo_dict(result: "DemoResult") -> dict[str, Any]:
    """The demonstration, for JSON."""
    return {
        "counts": {name: {"right": right, "all": all_} for name, (right, all_) in _counts(result).items()},
        "pipeline_problems": result.pipeline_problems,
        "facts": [
            asdict(row)
            | {
                "answered": row.answered,
                "paraphrase_answered": row.paraphrase_answered,
                "unrelated_unchanged": row.unrelated_unchanged,
            }
            for row in result.rows
        ],
        "changes": [asdict(change) | {"followed": change.followed} for change in result.changes],
    }


def _counts(result: "DemoResult") -> dict[str, tuple[int, int]]:
    rows = result.rows
    return {
        "answers": (sum(row.answered for row in rows), len(rows)),
        "paraphrases": (sum(row.paraphrase_answered for row in rows), len(rows)),
        "unrelated unchanged": (sum(row.unrelated_unchanged for row in rows), len(rows)),
        "later changes followed": (sum(change.followed for change in result.changes), len(result.changes)),
    }


def _form(response: generator_pb2.GenerateResponse) -> str:
    return generator_pb2.Form.Name(response.form).removeprefix("FORM_").lower()


def _knowledge(knowledge: generator_pb2.Knowledge) -> str:
    status = generator_pb2.KnowledgeStatus.Name(knowledge.status).removeprefix("KNOWLEDGE_STATUS_").lower()
    scores = f"confidence {knowledge.confidence:.3f}, {knowledge.min_confidence:.3f} needed"
    if knowledge.HasField("fact_id"):
        return f"{status}: {knowledge.fact_id} revision {knowledge.revision} ({scores})"
    if knowledge.HasField("confidence") and not knowledge.degraded:
        decision = retriever_pb2.Decision.Name(knowledge.decision).removeprefix("DECISION_").lower()
        nearest = f" (nearest {knowledge.nearest_fact_id}, {scores})" if knowledge.nearest_fact_id else ""
        return f"{status}: {decision}{nearest}"
    return f"{status}: {knowledge.degraded_reason}" if knowledge.degraded_reason else status


def _what(fact: retriever_pb2.Fact) -> str:
    return f"retracted: {fact.retract_reason}" if fact.retracted else fact.statement


def _validity(fact: retriever_pb2.Fact) -> str:
    start = fact.valid_from.ToJsonString() if fact.HasField("valid_from") else ""
    end = fact.valid_until.ToJsonString() if fact.HasField("valid_until") else ""
    return f"{start} .. {end}" if start or end else "always"


def _scores(reply: "Reply") -> str:
    return f"{_number(reply.confidence)} / {_number(reply.min_confidence)}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _tick(right: bool) -> str:
    return "✓" if right else "✗"


def _cut(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _SHOWN_CHARACTERS else line[: _SHOWN_CHARACTERS - 1] + "…"
