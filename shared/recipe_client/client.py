"""Calls to the retriever and the generator, with domain errors in place of gRPC's."""

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from datetime import datetime
from types import ModuleType, TracebackType
from typing import Final, Self, TypedDict, TypeVar, Unpack

import grpc
from google.protobuf.timestamp_pb2 import Timestamp

from recipe_client.publishing import PublishedEvent
from recipe_common.clock import to_timestamp
from recipe_common.errors import DeadlineExceededError, FailedPreconditionError, NotFoundError
from recipe_common.grpc_errors import to_domain_error
from recipe_common.grpc_options import client_options
from recipe_common.interceptors import TracingClientInterceptor
from recipe_protos.generator.v1 import generator_pb2, generator_pb2_grpc
from recipe_protos.retriever.v1 import retriever_pb2, retriever_pb2_grpc

DEFAULT_RETRIEVER: Final = "127.0.0.1:50051"
DEFAULT_GENERATOR: Final = "127.0.0.1:50052"
_POLL_SECONDS: Final = 0.02

Message = TypeVar("Message")


class AskOptions(TypedDict, total=False):
    """What else may be said about a question."""

    namespace: str  # the base of knowledge; "default" if not given
    knowledge: bool  # False answers with the LLM alone
    answer_unedited: bool  # True accepts an answer without knowledge, marked degraded, when the retriever is down
    max_new_tokens: int  # 0, or not given, is the server's default
    complete: bool  # True continues the text; else it is a user's message where the LLM has a chat template
    as_of: datetime | None  # use what was known to hold at that instant, with a time zone; now if not given
    min_confidence: float | None  # the least confidence, 0 to 1, of a fact; the namespace's default if not given
    after: retriever_pb2.LogPosition | None  # answer only once this event is known
    confirm: bool  # False takes an edited text as it is, though it may not state the fact's answer
    copying: bool  # False does not help an edited text to finish the answer that it has begun
    query: str  # what knowledge is looked up for, in place of the text
    decoding: generator_pb2.Decoding | None  # how tokens are chosen; the most likely ones if not given


class RecipeClient:
    """A client of one deployment. Every call raises a RecipeError whose message names the fix."""

    def __init__(
        self,
        retriever: str = DEFAULT_RETRIEVER,
        generator: str = DEFAULT_GENERATOR,
        *,
        timeout_seconds: float = 60.0,
    ) -> None:
        self._timeout = timeout_seconds
        self._channels = [
            grpc.insecure_channel(retriever, options=client_options(_full_name(retriever_pb2, "RetrieverService"))),
            grpc.insecure_channel(generator, options=client_options(_full_name(generator_pb2, "GeneratorService"))),
        ]
        traced = [grpc.intercept_channel(channel, TracingClientInterceptor()) for channel in self._channels]
        self._retriever = retriever_pb2_grpc.RetrieverServiceStub(traced[0])
        self._generator = generator_pb2_grpc.GeneratorServiceStub(traced[1])
        self._addresses = f"retriever {retriever}, generator {generator}"

    def ask(self, prompt: str, **options: Unpack[AskOptions]) -> generator_pb2.GenerateResponse:
        """Answer a question, or continue a text, with knowledge unless told otherwise; `form` says which it was.

        Raises TypeError for an option that there is not.
        """
        request = _generate_request(prompt, **options)
        return self._call(lambda: self._generator.Generate(request, timeout=self._timeout))

    def ask_stream(
        self, prompt: str, **options: Unpack[AskOptions]
    ) -> Generator[generator_pb2.GenerateStreamResponse, None, None]:
        """As `ask`, while the text is written: first the knowledge, then pieces of the text, last the whole answer.

        Closing the generator stops the work.
        """
        return self._stream(generator_pb2.GenerateStreamRequest(request=_generate_request(prompt, **options)))

    def _stream(
        self, request: generator_pb2.GenerateStreamRequest
    ) -> Generator[generator_pb2.GenerateStreamResponse, None, None]:
        call = self._generator.GenerateStream(request, timeout=self._timeout)
        try:
            yield from call
        except grpc.RpcError as error:
            raise to_domain_error(error, self._addresses) from error
        finally:
            call.cancel()

    def compare(
        self, prompt: str, *, namespace: str = "", max_new_tokens: int = 0, complete: bool = False
    ) -> generator_pb2.CompareResponse:
        """Ask with and without knowledge, in the form that `ask` takes."""
        request = generator_pb2.CompareRequest(
            namespace=namespace, prompt=prompt, max_new_tokens=max_new_tokens, form=_form(complete=complete)
        )
        return self._call(lambda: self._generator.Compare(request, timeout=self._timeout))

    def retrieve(
        self,
        query: str,
        *,
        namespace: str = "",
        as_of: datetime | None = None,
        min_confidence: float | None = None,
        after: retriever_pb2.LogPosition | None = None,
    ) -> retriever_pb2.RetrieveResponse:
        """The retriever's decision about a query, made only once it knows the event at `after`."""
        request = retriever_pb2.RetrieveRequest(
            namespace=namespace,
            query=query,
            as_of=_timestamp(as_of),
            min_position=after,
            min_confidence=min_confidence,
        )
        return self._call(lambda: self._retriever.Retrieve(request, timeout=self._timeout))

    def retrieve_batch(
        self,
        queries: Sequence[str],
        *,
        namespace: str = "",
        as_of: datetime | None = None,
        min_confidence: float | None = None,
    ) -> list[retriever_pb2.RetrieveResponse]:
        """The retriever's decisions about several queries, in their order."""
        request = retriever_pb2.RetrieveBatchRequest(
            namespace=namespace, queries=queries, as_of=_timestamp(as_of), min_confidence=min_confidence
        )
        return list(self._call(lambda: self._retriever.RetrieveBatch(request, timeout=self._timeout)).responses)

    def explain(
        self,
        query: str,
        *,
        namespace: str = "",
        as_of: datetime | None = None,
        limit: int = 0,
        min_confidence: float | None = None,
    ) -> retriever_pb2.ExplainResponse:
        """The retriever's decision about a query and why; `limit` 0 is the server's default."""
        request = retriever_pb2.ExplainRequest(
            namespace=namespace,
            query=query,
            as_of=_timestamp(as_of),
            limit=limit,
            min_confidence=min_confidence,
        )
        return self._call(lambda: self._retriever.Explain(request, timeout=self._timeout))

    def fact(self, fact_id: str, *, namespace: str = "") -> retriever_pb2.Fact:
        """One stored fact, which may be retracted. Raises NotFoundError."""
        request = retriever_pb2.GetFactRequest(namespace=namespace, fact_id=fact_id)
        return self._call(lambda: self._retriever.GetFact(request, timeout=self._timeout)).fact

    def history(self, fact_id: str, *, namespace: str = "") -> list[retriever_pb2.Fact]:
        """All known revisions of a fact, newest first. Raises NotFoundError."""
        request = retriever_pb2.GetFactHistoryRequest(namespace=namespace, fact_id=fact_id)
        return list(self._call(lambda: self._retriever.GetFactHistory(request, timeout=self._timeout)).revisions)

    def facts(self, *, namespace: str = "", include_retracted: bool = False) -> Iterator[retriever_pb2.Fact]:
        """All facts of a namespace."""
        request = retriever_pb2.ListFactsRequest(namespace=namespace, include_retracted=include_retracted)
        while True:
            page = self._call(lambda: self._retriever.ListFacts(request, timeout=self._timeout))
            yield from page.facts
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    def wait_until_applied(self, event: PublishedEvent, timeout_seconds: float) -> retriever_pb2.Fact:
        """Wait until the store has applied a published event: until then answers do not know it.

        Raises FailedPreconditionError if the store holds a higher revision, which the event will never replace,
        and DeadlineExceededError if it is not applied in time.
        """
        deadline = time.monotonic() + timeout_seconds
        while (left := deadline - time.monotonic()) > 0:
            try:
                fact = self._fact_or_none(event, left)
            except DeadlineExceededError:
                break
            if fact is not None and _applied(fact, event):
                return fact
            if fact is not None and 0 < event.revision < fact.revision:
                raise FailedPreconditionError(
                    f"revision: {event.fact_id} is stored with revision {fact.revision}, so revision "
                    f"{event.revision} is ignored; publish a higher one"
                )
            time.sleep(_POLL_SECONDS)
        raise DeadlineExceededError(
            f"{event.namespace}/{event.fact_id} was published at {event.topic}/{event.partition}/{event.offset} but "
            f"not applied within {timeout_seconds:g} s; is the encoder running, and is the event in {event.topic}.dlq?"
        )

    def close(self) -> None:
        """Disconnect."""
        for channel in self._channels:
            channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _fact_or_none(self, event: PublishedEvent, seconds: float) -> retriever_pb2.Fact | None:
        request = retriever_pb2.GetFactRequest(namespace=event.namespace, fact_id=event.fact_id)
        try:
            return self._call(lambda: self._retriever.GetFact(request, timeout=min(seconds, self._timeout))).fact
        except NotFoundError:
            return None

    def _call(self, call: Callable[[], Message]) -> Message:
        try:
            return call()
        except grpc.RpcError as error:
            raise to_domain_error(error, self._addresses) from error


def _applied(fact: retriever_pb2.Fact, event: PublishedEvent) -> bool:
    position = fact.position
    same_log = (position.topic, position.partition) == (event.topic, event.partition)
    return same_log and position.offset >= event.offset


def _full_name(module: ModuleType, service: str) -> str:
    name: str = module.DESCRIPTOR.services_by_name[service].full_name
    return name


def _timestamp(moment: datetime | None) -> Timestamp | None:
    return None if moment is None else to_timestamp(moment)


def _form(*, complete: bool) -> generator_pb2.Form.ValueType:
    return generator_pb2.FORM_COMPLETION if complete else generator_pb2.FORM_CHAT_IF_POSSIBLE


def _generate_request(prompt: str, **options: Unpack[AskOptions]) -> generator_pb2.GenerateRequest:
    known = AskOptions.__annotations__
    if unknown := [name for name in options if name not in known]:
        raise TypeError(f"there is no option {unknown[0]!r}; the options are {', '.join(known)}")
    unedited = options.get("answer_unedited", False)
    on, off = generator_pb2.KNOWLEDGE_MODE_ON, generator_pb2.KNOWLEDGE_MODE_OFF
    fail = generator_pb2.RETRIEVER_FAILURE_POLICY_FAIL
    confirm, as_it_is = generator_pb2.ANSWER_POLICY_CONFIRM, generator_pb2.ANSWER_POLICY_AS_IS
    return generator_pb2.GenerateRequest(
        namespace=options.get("namespace", ""),
        prompt=prompt,
        form=_form(complete=options.get("complete", False)),
        knowledge=on if options.get("knowledge", True) else off,
        on_retriever_failure=generator_pb2.RETRIEVER_FAILURE_POLICY_ANSWER_UNEDITED if unedited else fail,
        max_new_tokens=options.get("max_new_tokens", 0),
        decoding=options.get("decoding"),
        as_of=_timestamp(options.get("as_of")),
        min_position=options.get("after"),
        min_confidence=options.get("min_confidence"),
        answer_policy=confirm if options.get("confirm", True) else as_it_is,
        copying=generator_pb2.COPYING_ON if options.get("copying", True) else generator_pb2.COPYING_OFF,
        query=options.get("query", ""),
    )
