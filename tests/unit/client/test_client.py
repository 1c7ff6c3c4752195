"""Waiting for one's own event, against a retriever that answers from a script."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from threading import Event
from typing import Any

import grpc
import pytest

from recipe_client.cli import app
from recipe_client.client import RecipeClient
from recipe_client.publishing import PublishedEvent
from recipe_common.clock import to_timestamp
from recipe_common.errors import (
    DeadlineExceededError,
    FailedPreconditionError,
    InvalidArgumentError,
    RecipeError,
    UnavailableError,
)
from recipe_protos.generator.v1 import generator_pb2, generator_pb2_grpc
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
        self.explained: list[pb.ExplainRequest] = []

    def GetFact(self, request: pb.GetFactRequest, context: Any) -> pb.GetFactResponse:  # noqa: N802
        fact = self.script[min(self.asked, len(self.script) - 1)]
        self.asked += 1
        if fact is None:
            context.abort(grpc.StatusCode.NOT_FOUND, "no such fact")
        return pb.GetFactResponse(fact=fact)

    def Retrieve(self, request: pb.RetrieveRequest, context: Any) -> pb.RetrieveResponse:  # noqa: N802
        raise NotImplementedError

    def RetrieveBatch(self, request: pb.RetrieveBatchRequest, context: Any) -> pb.RetrieveBatchResponse:  # noqa: N802
        raise NotImplementedError

    def Explain(self, request: pb.ExplainRequest, context: Any) -> pb.ExplainResponse:  # noqa: N802
        self.explained.append(request)
        return pb.ExplainResponse(decision=pb.DECISION_EMPTY_BASE)

    def ListFacts(self, request: pb.ListFactsRequest, context: Any) -> pb.ListFactsResponse:  # noqa: N802
        raise NotImplementedError

    def GetFactHistory(self, request: pb.GetFactHistoryRequest, context: Any) -> pb.GetFactHistoryResponse:  # noqa: N802
        raise NotImplementedError


@contextmanager
def address_of(retriever: ScriptedRetriever) -> Iterator[str]:
    server = grpc.server(ThreadPoolExecutor(1))
    retriever_pb2_grpc.add_RetrieverServiceServicer_to_server(retriever, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(0).wait()


@contextmanager
def client_of(retriever: ScriptedRetriever) -> Iterator[RecipeClient]:
    with address_of(retriever) as address, RecipeClient(address) as client:
        yield client


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


class ScriptedGenerator(generator_pb2_grpc.GeneratorServiceServicer):
    """Streams the text it was asked, word by word, then the answer, or waits for ever; keeps the requests."""

    def __init__(self, *, endless: bool = False) -> None:
        self.endless = endless
        self.requests: list[generator_pb2.GenerateRequest] = []
        self.compared: list[generator_pb2.CompareRequest] = []
        self.cancelled = Event()

    def Generate(self, request: generator_pb2.GenerateRequest, context: Any) -> generator_pb2.GenerateResponse:  # noqa: N802
        self.requests.append(request)
        return generator_pb2.GenerateResponse(text="answer")

    def GenerateStream(  # noqa: N802
        self, request: generator_pb2.GenerateStreamRequest, context: Any
    ) -> Iterator[generator_pb2.GenerateStreamResponse]:
        self.requests.append(request.request)
        context.add_callback(self.cancelled.set)
        for word in request.request.prompt.split():
            yield generator_pb2.GenerateStreamResponse(text=word)
        if self.endless:
            self.cancelled.wait(20)
        if not request.request.prompt:
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "too many")
        yield generator_pb2.GenerateStreamResponse(answer=generator_pb2.GenerateResponse(text=request.request.prompt))

    def Compare(self, request: generator_pb2.CompareRequest, context: Any) -> generator_pb2.CompareResponse:  # noqa: N802
        self.compared.append(request)
        return generator_pb2.CompareResponse()


@contextmanager
def served(generator: ScriptedGenerator) -> Iterator[str]:
    """The address of a server that serves the generator."""
    server = grpc.server(ThreadPoolExecutor(1))
    generator_pb2_grpc.add_GeneratorServiceServicer_to_server(generator, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(0).wait()


@contextmanager
def client_of_generator(generator: ScriptedGenerator) -> Iterator[RecipeClient]:
    with served(generator) as address, RecipeClient(generator=address) as client:
        yield client


def test_what_is_said_about_a_question_is_sent() -> None:
    generator = ScriptedGenerator()
    decoding = generator_pb2.Decoding(temperature=1, seed=3, stop=["x"])
    with client_of_generator(generator) as client:
        assert client.ask("Who?").text == "answer"
        client.ask(
            "Who?",
            namespace="n",
            knowledge=False,
            answer_unedited=True,
            max_new_tokens=5,
            complete=True,
            as_of=datetime(2024, 1, 1, tzinfo=UTC),
            min_confidence=0.875,
            confirm=False,
            copying=False,
            query="Who is it?",
            decoding=decoding,
        )
    assert generator.requests == [
        generator_pb2.GenerateRequest(
            prompt="Who?",
            form=generator_pb2.FORM_CHAT_IF_POSSIBLE,
            knowledge=generator_pb2.KNOWLEDGE_MODE_ON,
            on_retriever_failure=generator_pb2.RETRIEVER_FAILURE_POLICY_FAIL,
            answer_policy=generator_pb2.ANSWER_POLICY_CONFIRM,
            copying=generator_pb2.COPYING_ON,
        ),
        generator_pb2.GenerateRequest(
            namespace="n",
            prompt="Who?",
            form=generator_pb2.FORM_COMPLETION,
            knowledge=generator_pb2.KNOWLEDGE_MODE_OFF,
            on_retriever_failure=generator_pb2.RETRIEVER_FAILURE_POLICY_ANSWER_UNEDITED,
            max_new_tokens=5,
            as_of=to_timestamp(datetime(2024, 1, 1, tzinfo=UTC)),
            min_confidence=0.875,
            answer_policy=generator_pb2.ANSWER_POLICY_AS_IS,
            copying=generator_pb2.COPYING_OFF,
            query="Who is it?",
            decoding=decoding,
        ),
    ]


def test_an_option_that_there_is_not_is_refused_and_nothing_is_asked() -> None:
    generator = ScriptedGenerator()
    wrong: dict[str, Any] = {"namespce": "tenant-b"}
    with client_of_generator(generator) as client:
        for ask in (client.ask, client.ask_stream):
            with pytest.raises(TypeError, match="there is no option 'namespce'; the options are namespace, knowledge,"):
                ask("The user lives in", **wrong)
    assert generator.requests == []


def test_a_time_without_a_zone_is_refused() -> None:
    with (
        client_of_generator(ScriptedGenerator()) as client,
        pytest.raises(ValueError, match="has no time zone: give it one, for example UTC"),
    ):
        client.ask("Who?", as_of=datetime(2024, 1, 1))


def test_a_stream_comes_piece_by_piece_and_ends_with_the_answer() -> None:
    with client_of_generator(ScriptedGenerator()) as client:
        first, second, last = client.ask_stream("one two")
    assert (first.text, second.text, last.answer.text) == ("one", "two", "one two")


def test_a_stream_fails_with_a_domain_error() -> None:
    with (
        client_of_generator(ScriptedGenerator()) as client,
        pytest.raises(RecipeError, match="RESOURCE_EXHAUSTED: too many"),
    ):
        list(client.ask_stream(""))


def test_a_stream_that_is_closed_is_cancelled() -> None:
    generator = ScriptedGenerator(endless=True)
    with client_of_generator(generator) as client:
        events = client.ask_stream("one")
        assert next(events).text == "one"
        assert not generator.cancelled.is_set()
        events.close()
        assert generator.cancelled.wait(20)


def test_recipe_ask_prints_a_stream_and_sends_how_to_decode(capsys: pytest.CaptureFixture[str]) -> None:
    generator = ScriptedGenerator()
    with served(generator) as address:
        decoding = ["--temperature", "0.5", "--top-p", "0.9", "--seed", "4", "--stop", "a", "--stop", "b"]
        app(["ask", "one two", "--stream", "--generator", address, *decoding], standalone_mode=False)
    assert capsys.readouterr().out.startswith("onetwo\n")
    (request,) = generator.requests
    assert request.decoding == generator_pb2.Decoding(temperature=0.5, top_p=0.9, seed=4, stop=["a", "b"])


@pytest.mark.parametrize("more", [[], ["--stream"]])
def test_recipe_ask_chats_where_the_llm_can_unless_told_to_complete(more: list[str]) -> None:
    generator = ScriptedGenerator()
    with served(generator) as address:
        for chosen in ([], ["--complete"]):
            app(["ask", "Who?", "--generator", address, *more, *chosen], standalone_mode=False)
    assert [request.form for request in generator.requests] == [
        generator_pb2.FORM_CHAT_IF_POSSIBLE,
        generator_pb2.FORM_COMPLETION,
    ]


def test_recipe_compare_chats_where_the_llm_can_unless_told_to_complete() -> None:
    generator = ScriptedGenerator()
    with served(generator) as address:
        for chosen in ([], ["--complete", "--namespace", "n", "--max-new-tokens", "5"]):
            app(["compare", "Who?", "--generator", address, *chosen], standalone_mode=False)
    assert generator.compared == [
        generator_pb2.CompareRequest(prompt="Who?", namespace="default", form=generator_pb2.FORM_CHAT_IF_POSSIBLE),
        generator_pb2.CompareRequest(
            prompt="Who?", namespace="n", max_new_tokens=5, form=generator_pb2.FORM_COMPLETION
        ),
    ]


def test_recipe_ask_and_explain_ask_as_of_an_instant_with_the_least_confidence() -> None:
    generator, retriever = ScriptedGenerator(), ScriptedRetriever([None])
    options = ["--as-of", "2024-01-01", "--min-confidence", "0.75"]
    with served(generator) as address, address_of(retriever) as other:
        app(["ask", "Who?", "--generator", address, *options], standalone_mode=False)
        app(["explain", "Who?", "--retriever", other, *options], standalone_mode=False)
    requests: list[generator_pb2.GenerateRequest | pb.ExplainRequest] = [*generator.requests, *retriever.explained]
    for request in requests:
        assert request.as_of == to_timestamp(datetime(2024, 1, 1, tzinfo=UTC))
        assert request.min_confidence == 0.75
    assert (len(generator.requests), len(retriever.explained)) == (1, 1)


def test_recipe_ask_streams_either_text_or_json() -> None:
    with pytest.raises(InvalidArgumentError, match="stream: give either --stream or --json"):
        app(["ask", "x", "--stream", "--json"], standalone_mode=False)
