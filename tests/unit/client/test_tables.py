"""What people read of a decision."""

import io

import pytest
from rich.console import Console
from rich.table import Table

from recipe_client import tables
from recipe_protos.generator.v1 import generator_pb2 as pb
from recipe_protos.retriever.v1 import retriever_pb2

HIT = pb.Knowledge(
    status=pb.KNOWLEDGE_STATUS_EDITED,
    decision=retriever_pb2.DECISION_HIT,
    fact_id="mayor",
    revision=7,
    confidence=0.9375,
    min_confidence=0.75,
)
MISS = pb.Knowledge(
    status=pb.KNOWLEDGE_STATUS_UNEDITED_NO_MATCH,
    decision=retriever_pb2.DECISION_BELOW_SENTINEL,
    nearest_fact_id="mayor",
    confidence=0.25,
    min_confidence=0.75,
)
NOTHING_NEAR = pb.Knowledge(
    status=pb.KNOWLEDGE_STATUS_UNEDITED_NO_MATCH,
    decision=retriever_pb2.DECISION_EMPTY_BASE,
    confidence=0.0,
    min_confidence=0.75,
)
FAILED = pb.Knowledge(
    status=pb.KNOWLEDGE_STATUS_UNEDITED_DEGRADED,
    decision=retriever_pb2.DECISION_BELOW_SENTINEL,
    confidence=0.0,
    min_confidence=0.75,
    degraded=True,
    degraded_reason="no numbers",
)


def text_of(table: Table) -> str:
    console = Console(file=io.StringIO(), width=200)
    console.print(table)
    written: str = console.file.getvalue()  # type: ignore[attr-defined]
    return written


@pytest.mark.parametrize(
    ("knowledge", "said"),
    [
        (HIT, "edited: mayor revision 7 (confidence 0.938, 0.750 needed)"),
        (MISS, "unedited_no_match: below_sentinel (nearest mayor, confidence 0.250, 0.750 needed)"),
        (NOTHING_NEAR, "unedited_no_match: empty_base "),
        (FAILED, "unedited_degraded: no numbers "),
        (pb.Knowledge(status=pb.KNOWLEDGE_STATUS_UNEDITED_OFF), "unedited_off "),
    ],
)
def test_an_answer_says_how_sure_the_decision_was(knowledge: pb.Knowledge, said: str) -> None:
    assert said in text_of(tables.answer("Who?", pb.GenerateResponse(text="Ann", knowledge=knowledge)))


@pytest.mark.parametrize(("form", "said"), [(pb.FORM_CHAT, " chat "), (pb.FORM_COMPLETION, " completion ")])
def test_an_answer_says_in_which_form_it_was_asked(form: pb.Form.ValueType, said: str) -> None:
    answer = pb.GenerateResponse(text="Ann", form=form)
    assert said in text_of(tables.answer("Who?", answer))
    both = pb.CompareResponse(with_knowledge=answer, without_knowledge=answer)
    assert said in text_of(tables.comparison("Who?", both))


def explained(**changes: object) -> retriever_pb2.ExplainedFact:
    fact = retriever_pb2.Fact(fact_id="mayor", statement="The mayor of Aville is Ann")
    return retriever_pb2.ExplainedFact(fact=fact, similarity=0.5, **changes)  # type: ignore[arg-type]


def test_an_explanation_shows_both_steps() -> None:
    response = retriever_pb2.ExplainResponse(
        decision=retriever_pb2.DECISION_HIT,
        reason="It applies.",
        nearest=[explained(margin=1.25, confidence=0.875, verdict=retriever_pb2.VERDICT_APPLIES)],
        facts=3,
        min_similarity=0.25,
    )
    text = text_of(tables.explanation("Who?", response))
    for said in ("hit: Who?", " 0.500 ", " +1.25 ", " 0.875 ", " applies ", "at least 0.250; facts: 3."):
        assert said in text


def test_an_explanation_says_that_the_second_step_failed() -> None:
    response = retriever_pb2.ExplainResponse(
        decision=retriever_pb2.DECISION_BELOW_SENTINEL,
        nearest=[explained(verdict=retriever_pb2.VERDICT_NOT_A_CANDIDATE)],
        degraded=True,
        degraded_reason="no numbers",
    )
    text = text_of(tables.explanation("Who?", response))
    assert "Degraded: no numbers." in text
    assert text.count(" - ") == 2
    assert " not a candidate " in text
