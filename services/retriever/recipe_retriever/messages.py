"""Domain values to protobuf messages."""

import hashlib

import numpy as np

from recipe_common.clock import to_timestamp
from recipe_protos.knowledge.v1.knowledge_pb2 import Source
from recipe_protos.retriever.v1 import retriever_pb2 as pb
from recipe_retriever.explanation import ExplainedMatch, Explanation
from recipe_retriever.retrieval import Decision, Retrieval
from recipe_store.facts import Fact, LogPosition

_DECISIONS = {
    Decision.HIT: pb.DECISION_HIT,
    Decision.BELOW_SENTINEL: pb.DECISION_BELOW_SENTINEL,
    Decision.EMPTY_BASE: pb.DECISION_EMPTY_BASE,
}


def retrieve_response(
    retrieval: Retrieval, looked_up: str, model_version: str, applied: LogPosition | None = None
) -> pb.RetrieveResponse:
    """The answer to a Retrieve call about the text that was `looked_up`.

    `applied` is how far the log is, where the call asked for a place in it.
    """
    response = pb.RetrieveResponse(
        decision=_DECISIONS[retrieval.decision],
        min_confidence=retrieval.min_confidence,
        model_version=model_version,
        applied_position=None if applied is None else position_message(applied),
        degraded=bool(retrieval.degraded_reason),
        degraded_reason=retrieval.degraded_reason,
        looked_up=looked_up,
    )
    if (nearest := retrieval.nearest) is None:
        return response
    response.confidence = nearest.confidence
    response.margin = nearest.margin
    response.similarity = nearest.candidate.similarity
    if retrieval.prompt is None:
        response.nearest_fact_id = nearest.candidate.fact.fact_id
    else:
        response.fact.CopyFrom(fact_message(nearest.candidate.fact))
        response.prompt.CopyFrom(prompt_message(retrieval.prompt))
    return response


def explain_response(explanation: Explanation, model_version: str) -> pb.ExplainResponse:
    """The answer to an Explain call."""
    return pb.ExplainResponse(
        decision=_DECISIONS[explanation.decision],
        reason=explanation.reason,
        min_confidence=explanation.min_confidence,
        min_similarity=explanation.min_similarity,
        nearest=map(_explained_fact, explanation.nearest),
        facts=explanation.facts,
        model_version=model_version,
        degraded=bool(explanation.degraded_reason),
        degraded_reason=explanation.degraded_reason,
    )


def _explained_fact(explained: ExplainedMatch) -> pb.ExplainedFact:
    judged = explained.judged
    return pb.ExplainedFact(
        fact=fact_message(explained.match.fact),
        similarity=explained.match.similarity,
        margin=None if judged is None else judged.margin,
        confidence=None if judged is None else judged.confidence,
        verdict=pb.Verdict.Value(f"VERDICT_{explained.verdict.name}"),
    )


def prompt_message(prompt: np.ndarray) -> pb.Prompt:
    """A continuous prompt [l, d], float16, as bytes with their digest."""
    values = prompt.astype("<f2").tobytes()
    tokens, hidden_size = prompt.shape
    return pb.Prompt(values=values, tokens=tokens, hidden_size=hidden_size, sha256=hashlib.sha256(values).digest())


def position_message(position: LogPosition) -> pb.LogPosition:
    """A place in the log."""
    return pb.LogPosition(topic=position.topic, partition=position.partition, offset=position.offset)


def fact_message(fact: Fact) -> pb.Fact:
    """A stored fact, without its vectors."""
    return pb.Fact(
        namespace=fact.namespace,
        fact_id=fact.fact_id,
        revision=fact.revision,
        statement=fact.statement,
        subject=fact.subject,
        aliases=fact.aliases,
        valid_from=None if fact.valid_from is None else to_timestamp(fact.valid_from),
        valid_until=None if fact.valid_until is None else to_timestamp(fact.valid_until),
        labels=fact.labels,
        event_id=fact.event_id,
        event_time=to_timestamp(fact.event_time),
        source=Source(publisher=fact.publisher, uri=fact.uri),
        position=position_message(fact.position),
        retracted=fact.retracted,
        retract_reason=fact.retract_reason,
        answer=fact.answer,
    )
