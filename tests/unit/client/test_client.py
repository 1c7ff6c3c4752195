"""Waiting for one's own event, against a retriever that answers from a script."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc
import pytest

from recipe_client.client import RecipeClient
from recipe_client.publishing import PublishedEvent
from recipe_common.errors import DeadlineExceededError, FailedPreconditionError, UnavailableError
from recipe_protos.retriever.v1 import retriever_pb2 as pb
from recipe_protos.retriever.v1 import retriever_pb2_grpc

EVENT = PublishedEvent("default", "f", 3, "e", "updates", 1, offset=20)


def stored(offset: int, *, revision: int = 3, partition: int = 1, topic: str = "updates") -> pb.Fact:
    return pb.Fact(
        fact_id="f", revision=revision, position=pb.LogPosition(topic=topic, partition=partition, offset=offset)
    )


class ScriptedRetriever(retriever_pb2_grpc.RetrieverServiceServicer):
    """GetFact answers with the facts of a script, one after the other, the last one for ever; None is NOT_FOUND."""

    def __init__(self, script: list[pb.Fact | None]) -> None:
        self.script = script
        self.asked = 0

    def GetFact(self, request: pb.GetFactRequest, context: Any) -> pb.GetFactResponse:  # noqa: N802
        fact = self.script[min(self.asked, len(self.script) - 1)]
        self.asked += 1
        if fact is None:
            context.abort(grpc.StatusCode.NOT_FOUND, "no such fact")
        return pb.GetFactResponse(fact=fact)

    def Retrieve(self, request: pb.RetrieveRequest, context: Any) -> pb.RetrieveResponse:  # noqa: N802
        raise NotImplementedError

    def ListFacts(self, request: pb.ListFactsRequest, context: Any) -> pb.ListFactsResponse:  # noqa: N802
        raise NotImplementedError

    def GetFactHistory(self, request: pb.GetFactHistoryRequest, context: Any) -> pb.GetFactHistoryResponse:  # noqa: N802
        raise NotImplementedError


@contextmanager
def client_of(retriever: ScriptedRetriever) -> Iterator[RecipeClient]:
    server = grpc.server(ThreadPoolExecutor(1))
    retriever_pb2_grpc.add_RetrieverServiceServicer_to_server(retriever, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        with RecipeClient(f"127.0.0.1:{port}") as client:
            yield client
    finally:
        server.stop(0).wait()


def test_it_waits_until_the_event_or_a_later_one_is_stored() -> None:
    retriever = ScriptedRetriever([None, stored(19, revision=2), stored(21)])
    with client_of(retriever) as client:
        assert client.wait_until_applied(EVENT, 30).position.offset == 21
    assert retriever.asked == 3


def test_a_higher_stored_revision_will_never_be_replaced() -> None:
    with (
        client_of(ScriptedRetriever([stored(5, revision=7)])) as client,
        pytest.raises(FailedPreconditionError, match="f is stored with revision 7, so revision 3 is ignored"),
    ):
        client.wait_until_applied(EVENT, 30)


@pytest.mark.parametrize("other", [None, stored(99, topic="other"), stored(99, partition=0)])
def test_an_event_that_is_not_applied_in_time_is_named_with_what_to_look_at(other: pb.Fact | None) -> None:
    with (
        client_of(ScriptedRetriever([other])) as client,
        pytest.raises(DeadlineExceededError, match=r"default/f was published at updates/1/20.*updates\.dlq"),
    ):
        client.wait_until_applied(EVENT, 0.2)


def test_a_retriever_that_is_not_there_is_named() -> None:
    with RecipeClient("127.0.0.1:1") as client, pytest.raises(UnavailableError, match=r"retriever 127\.0\.0\.1:1"):
        client.wait_until_applied(EVENT, 5)
