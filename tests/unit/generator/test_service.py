import asyncio
import urllib.request
from datetime import UTC, datetime
from typing import Any

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from grpc_health.v1 import health_pb2

from generation_harness import (
    MISS,
    MODEL_VERSION,
    TEXT,
    FakeRetriever,
    Setup,
    Stub,
    closed_address,
    generator,
    health,
    hit,
    in_front,
    served,
    silent_address,
    some_prompt,
    spell_out,
)
from grpc_calls import violations
from recipe_common.clock import to_timestamp
from recipe_common.errors import (
    DataLossError,
    FailedPreconditionError,
    FieldViolation,
    InvalidArgumentError,
    RecipeError,
    UnavailableError,
)
from recipe_generator.engine import Edit
from recipe_generator.server import GeneratorServer
from recipe_generator.transformers_engine import TransformersEngine
from recipe_model import copying
from recipe_model.language_model import LanguageModel
from recipe_protos.generator.v1 import generator_pb2 as pb
from recipe_protos.generator.v1 import generator_pb2_grpc
from recipe_protos.retriever.v1 import retriever_pb2
from tiny_models import make_language_model

STATEMENT = "The mayor of Aville is Ann"
UNEDITED = [pb.KNOWLEDGE_STATUS_UNEDITED_NO_MATCH, pb.KNOWLEDGE_STATUS_UNEDITED_OFF]
ANSWER_UNEDITED = pb.RETRIEVER_FAILURE_POLICY_ANSWER_UNEDITED


@pytest.fixture
def llm() -> LanguageModel:
    return make_language_model()


def test_on_a_hit_the_text_is_generated_behind_the_facts_prompt(llm: LanguageModel) -> None:
    prompt = some_prompt()

    response = Setup(llm, hit(prompt)).generate()

    expected = llm.generate(in_front(llm, Edit(prompt, STATEMENT)), TEXT, 8).text
    assert expected != llm.generate(None, TEXT, 8).text
    assert response == pb.GenerateResponse(
        text=expected,
        finish_reason=pb.FINISH_REASON_LENGTH,
        generated_tokens=8,
        prompt_tokens=len(TEXT),
        form=pb.FORM_COMPLETION,
        knowledge=pb.Knowledge(
            status=pb.KNOWLEDGE_STATUS_EDITED,
            decision=retriever_pb2.DECISION_HIT,
            fact_id="mayor",
            revision=7,
            statement="The mayor of Aville is Ann",
            similarity=0.875,
            margin=3.0,
            confidence=0.9375,
            min_confidence=0.75,
            model_version=MODEL_VERSION,
        ),
    )


@pytest.mark.parametrize("decision", [retriever_pb2.DECISION_BELOW_SENTINEL, retriever_pb2.DECISION_EMPTY_BASE])
def test_on_a_miss_the_text_is_the_plain_models(llm: LanguageModel, decision: retriever_pb2.Decision.ValueType) -> None:
    answer = retriever_pb2.RetrieveResponse(decision=decision, min_confidence=0.75, model_version=MODEL_VERSION)

    response = Setup(llm, answer).generate(knowledge=pb.KNOWLEDGE_MODE_ON)

    assert response.text == llm.generate(None, TEXT, 8).text
    assert response.knowledge == pb.Knowledge(
        status=pb.KNOWLEDGE_STATUS_UNEDITED_NO_MATCH,
        decision=decision,
        confidence=0.0,
        min_confidence=0.75,
        model_version=MODEL_VERSION,
    )


def test_a_miss_says_which_fact_was_nearest_and_how_likely_it_was(llm: LanguageModel) -> None:
    assert Setup(llm).generate().knowledge == pb.Knowledge(
        status=pb.KNOWLEDGE_STATUS_UNEDITED_NO_MATCH,
        decision=retriever_pb2.DECISION_BELOW_SENTINEL,
        similarity=0.5,
        margin=-2.0,
        confidence=0.25,
        min_confidence=0.75,
        nearest_fact_id="river",
        model_version=MODEL_VERSION,
    )


@pytest.mark.parametrize("policy", pb.RetrieverFailurePolicy.values())
def test_a_decision_that_failed_is_answered_unedited_and_marked(
    llm: LanguageModel, policy: pb.RetrieverFailurePolicy.ValueType
) -> None:
    answer = retriever_pb2.RetrieveResponse(
        decision=retriever_pb2.DECISION_BELOW_SENTINEL,
        degraded=True,
        degraded_reason="no numbers",
        min_confidence=0.75,
        model_version=MODEL_VERSION,
    )
    response = Setup(llm, answer).generate(on_retriever_failure=policy)
    assert response.text == llm.generate(None, TEXT, 8).text
    assert response.knowledge == pb.Knowledge(
        status=pb.KNOWLEDGE_STATUS_UNEDITED_DEGRADED,
        decision=retriever_pb2.DECISION_BELOW_SENTINEL,
        degraded=True,
        degraded_reason="no numbers",
        confidence=0.0,
        min_confidence=0.75,
        model_version=MODEL_VERSION,
    )


@pytest.mark.parametrize("tokens", [1, 190])
def test_a_prompt_may_have_any_length(llm: LanguageModel, tokens: int) -> None:
    prompt = some_prompt(tokens=tokens)
    response = Setup(llm, hit(prompt)).generate()
    assert response.knowledge.status == pb.KNOWLEDGE_STATUS_EDITED
    assert response.text == llm.generate(in_front(llm, Edit(prompt, STATEMENT)), TEXT, 8).text


@pytest.mark.parametrize("asked", [None, 0.0, 0.875])
def test_the_least_confidence_of_a_request_is_the_retrievals(llm: LanguageModel, asked: float | None) -> None:
    setup = Setup(llm)
    setup.generate(min_confidence=asked)
    setup.compare(min_confidence=asked)
    assert [
        request.min_confidence if request.HasField("min_confidence") else None for request in setup.retriever.requests
    ] == [asked, asked]


def test_a_least_confidence_that_is_no_probability_is_refused(llm: LanguageModel) -> None:
    error = Setup(llm).refusal(min_confidence=90)
    assert violations(error) == [
        ("min_confidence", "must be from 0 to 1, is 90; leave it out for the namespace's default")
    ]


def test_off_does_not_ask_the_retriever_and_the_text_is_the_plain_models(llm: LanguageModel) -> None:
    setup = Setup(llm, hit(some_prompt()))

    response = setup.generate(knowledge=pb.KNOWLEDGE_MODE_OFF)

    assert response.text == llm.generate(None, TEXT, 8).text
    assert response.knowledge == pb.Knowledge(status=pb.KNOWLEDGE_STATUS_UNEDITED_OFF)
    assert setup.retriever.requests == []


def test_compare_answers_with_and_without_the_fact(llm: LanguageModel) -> None:
    prompt = some_prompt()
    setup = Setup(llm, hit(prompt))

    response = setup.compare()

    assert response.with_knowledge.text == llm.generate(in_front(llm, Edit(prompt, STATEMENT)), TEXT, 8).text
    assert response.with_knowledge.knowledge.status == pb.KNOWLEDGE_STATUS_EDITED
    assert response.without_knowledge.text == llm.generate(None, TEXT, 8).text
    assert response.without_knowledge.knowledge.status == pb.KNOWLEDGE_STATUS_UNEDITED_OFF
    assert len(setup.retriever.requests) == 1


def test_compare_of_a_miss_is_the_same_answer_twice(llm: LanguageModel) -> None:
    response = Setup(llm).compare()
    both = [response.with_knowledge, response.without_knowledge]
    assert [answer.knowledge.status for answer in both] == UNEDITED
    for answer in both:
        answer.ClearField("knowledge")
    assert both[0] == both[1]


def test_the_retriever_is_asked_for_the_bare_text_in_the_requests_namespace_and_time(llm: LanguageModel) -> None:
    setup = Setup(llm)
    time = to_timestamp(datetime(2026, 3, 1, tzinfo=UTC))

    async def scenario(stub: Stub, _: GeneratorServer, __: grpc.aio.Channel) -> None:
        await stub.Generate(pb.GenerateRequest(prompt=TEXT, max_new_tokens=1))
        await stub.Generate(pb.GenerateRequest(prompt=TEXT, max_new_tokens=1, namespace="cities", as_of=time))
        await stub.Compare(pb.CompareRequest(prompt=TEXT, max_new_tokens=1, namespace="cities", as_of=time))

    setup.run(scenario)

    assert setup.retriever.requests == [
        retriever_pb2.RetrieveRequest(namespace="default", query=TEXT),
        retriever_pb2.RetrieveRequest(namespace="cities", query=TEXT, as_of=time),
        retriever_pb2.RetrieveRequest(namespace="cities", query=TEXT, as_of=time),
    ]


def test_who_reads_an_own_write_may_wait_for_it_until_the_deadline(llm: LanguageModel) -> None:
    setup = Setup(llm)
    setup.settings = {"retriever_timeout_seconds": 1}
    place = retriever_pb2.LogPosition(topic="updates", partition=1, offset=5)

    async def scenario(stub: Stub, _: GeneratorServer, __: grpc.aio.Channel) -> None:
        await stub.Generate(pb.GenerateRequest(prompt=TEXT, max_new_tokens=1, min_position=place), timeout=30)
        await stub.Compare(pb.CompareRequest(prompt=TEXT, max_new_tokens=1, min_position=place), timeout=30)

    setup.run(scenario)

    assert [request.min_position for request in setup.retriever.requests] == [place, place]
    assert min(setup.retriever.seconds) > 10


@pytest.mark.parametrize("policy", [pb.RETRIEVER_FAILURE_POLICY_FAIL, ANSWER_UNEDITED])
def test_a_write_that_is_not_applied_in_time_is_told_or_makes_the_answer_a_degraded_one(
    llm: LanguageModel, policy: pb.RetrieverFailurePolicy.ValueType
) -> None:
    late = "min_position: updates/1/5 is not applied yet, that partition is up to 4"
    setup = Setup(llm, FailedPreconditionError(late))
    asked = {"min_position": retriever_pb2.LogPosition(topic="updates", partition=1, offset=5)}
    if policy == ANSWER_UNEDITED:
        knowledge = setup.generate(on_retriever_failure=policy, **asked).knowledge
        assert knowledge.status == pb.KNOWLEDGE_STATUS_UNEDITED_DEGRADED
        assert knowledge.degraded_reason == f"retriever: {late}"
    else:
        error = setup.refusal(on_retriever_failure=policy, **asked)
        assert (error.code(), error.details()) == (grpc.StatusCode.FAILED_PRECONDITION, f"retriever: {late}")


@pytest.mark.parametrize("policy", [pb.RETRIEVER_FAILURE_POLICY_FAIL, ANSWER_UNEDITED])
def test_a_damaged_prompt_makes_the_answer_an_unedited_one_under_either_policy(
    llm: LanguageModel, policy: pb.RetrieverFailurePolicy.ValueType
) -> None:
    damaged = Setup(llm, DataLossError("the stored prompt of fact 'f' is corrupt"))
    answer = damaged.generate(on_retriever_failure=policy)
    assert answer.knowledge == pb.Knowledge(
        status=pb.KNOWLEDGE_STATUS_UNEDITED_DEGRADED,
        degraded_reason="retriever: the stored prompt of fact 'f' is corrupt",
    )
    assert answer.text == Setup(llm).generate(knowledge=pb.KNOWLEDGE_MODE_OFF).text


def test_a_retrieval_gets_the_settings_time_or_what_is_left_of_the_callers(llm: LanguageModel) -> None:
    setup = Setup(llm)
    setup.settings = {"retriever_timeout_seconds": 60}

    async def scenario(stub: Stub, _: GeneratorServer, __: grpc.aio.Channel) -> None:
        for seconds in (None, 900, 30):
            await stub.Generate(pb.GenerateRequest(prompt=TEXT, max_new_tokens=1), timeout=seconds)

    setup.run(scenario)

    # Deadlines are rounded up a little on their way.
    assert [seconds > 45 for seconds in setup.retriever.seconds] == [True, True, False]
    assert max(setup.retriever.seconds) < 75


@pytest.mark.parametrize("policy", [pb.RETRIEVER_FAILURE_POLICY_UNSPECIFIED, pb.RETRIEVER_FAILURE_POLICY_FAIL])
def test_without_the_retriever_a_request_fails(llm: LanguageModel, policy: pb.RetrieverFailurePolicy.ValueType) -> None:
    setup = Setup(llm)
    setup.settings = {"retriever": closed_address()}

    error = setup.refusal(on_retriever_failure=policy)

    assert error.code() is grpc.StatusCode.UNAVAILABLE
    details = error.details() or ""
    assert details.startswith("the retriever failed (UNAVAILABLE: ")
    assert details.endswith("; retry, or set on_retriever_failure to ANSWER_UNEDITED")


def test_without_the_retriever_a_request_may_be_answered_unedited(llm: LanguageModel) -> None:
    setup = Setup(llm)
    setup.settings = {"retriever": closed_address()}

    response = setup.generate(on_retriever_failure=ANSWER_UNEDITED)

    assert response.text == llm.generate(None, TEXT, 8).text
    knowledge = response.knowledge
    assert knowledge.degraded_reason.startswith("the retriever failed (UNAVAILABLE: ")
    knowledge.ClearField("degraded_reason")
    assert knowledge == pb.Knowledge(status=pb.KNOWLEDGE_STATUS_UNEDITED_DEGRADED)


def test_compare_follows_the_policy_too(llm: LanguageModel) -> None:
    setup = Setup(llm)
    setup.settings = {"retriever": closed_address()}
    response = setup.compare(on_retriever_failure=ANSWER_UNEDITED)
    assert response.with_knowledge.knowledge.status == pb.KNOWLEDGE_STATUS_UNEDITED_DEGRADED
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        setup.compare()
    assert raised.value.code() is grpc.StatusCode.UNAVAILABLE


def test_a_retriever_that_hangs_is_given_up(llm: LanguageModel) -> None:
    setup = Setup(llm)
    with silent_address() as address:
        setup.settings = {"retriever": address, "retriever_timeout_seconds": 0.1}
        response = setup.generate(on_retriever_failure=ANSWER_UNEDITED)
    assert response.knowledge.status == pb.KNOWLEDGE_STATUS_UNEDITED_DEGRADED
    assert "did not answer within 0.1 s; retry" in response.knowledge.degraded_reason


FITTING = "the checkpoint makes 1 to 256 tokens of width 32; deploy the same checkpoint to both"
OTHER_VERSION = retriever_pb2.RetrieveResponse(
    decision=retriever_pb2.DECISION_BELOW_SENTINEL, model_version="recipe-other"
)
UNUSABLE: list[tuple[retriever_pb2.RetrieveResponse | RecipeError, grpc.StatusCode, str]] = [
    (
        OTHER_VERSION,
        grpc.StatusCode.FAILED_PRECONDITION,
        "the retriever serves model version recipe-other, this generator's checkpoint is recipe-tiny; "
        "deploy the same checkpoint to both",
    ),
    (
        hit(some_prompt()[:, :-1]),
        grpc.StatusCode.FAILED_PRECONDITION,
        f"the retriever sent a prompt of shape (3, 31) in 186 bytes; {FITTING}",
    ),
    (
        hit(some_prompt(), values=b"\0" * 190),
        grpc.StatusCode.FAILED_PRECONDITION,
        f"the retriever sent a prompt of shape (3, 32) in 190 bytes; {FITTING}",
    ),
    (
        hit(some_prompt(tokens=257)),
        grpc.StatusCode.FAILED_PRECONDITION,
        f"the retriever sent a prompt of shape (257, 32) in 16448 bytes; {FITTING}",
    ),
    (
        hit(some_prompt(), values=b"", tokens=0),
        grpc.StatusCode.FAILED_PRECONDITION,
        f"the retriever sent a prompt of shape (0, 32) in 0 bytes; {FITTING}",
    ),
    (
        hit(some_prompt(), values=some_prompt(1).tobytes()),
        grpc.StatusCode.UNAVAILABLE,
        "the retriever sent a prompt whose bytes do not match their digest; retry",
    ),
    (
        hit(some_prompt(), sha256=b""),
        grpc.StatusCode.UNAVAILABLE,
        "the retriever sent a prompt whose bytes do not match their digest; retry",
    ),
    (
        FailedPreconditionError("the base was made for another model"),
        grpc.StatusCode.FAILED_PRECONDITION,
        "retriever: the base was made for another model",
    ),
    (
        UnavailableError("the store is away"),
        grpc.StatusCode.UNAVAILABLE,
        "the retriever failed (UNAVAILABLE: the store is away); retry, or set on_retriever_failure to ANSWER_UNEDITED",
    ),
]


@pytest.mark.parametrize(("answer", "code", "details"), UNUSABLE)
def test_knowledge_that_cannot_be_used_fails_the_request(
    llm: LanguageModel,
    answer: retriever_pb2.RetrieveResponse | RecipeError,
    code: grpc.StatusCode,
    details: str,
) -> None:
    error = Setup(llm, answer).refusal()
    assert (error.code(), error.details()) == (code, details)


@pytest.mark.parametrize(("answer", "code", "details"), UNUSABLE[:1] + UNUSABLE[3:4])
def test_knowledge_that_cannot_be_used_may_be_done_without(
    llm: LanguageModel, answer: retriever_pb2.RetrieveResponse, code: grpc.StatusCode, details: str
) -> None:
    response = Setup(llm, answer).generate(on_retriever_failure=ANSWER_UNEDITED)
    assert response.text == llm.generate(None, TEXT, 8).text
    assert response.knowledge == pb.Knowledge(status=pb.KNOWLEDGE_STATUS_UNEDITED_DEGRADED, degraded_reason=details)


@pytest.mark.parametrize("policy", [pb.RETRIEVER_FAILURE_POLICY_FAIL, ANSWER_UNEDITED])
def test_a_text_that_the_retriever_refuses_is_the_callers_fault_whatever_the_policy(
    llm: LanguageModel, policy: pb.RetrieverFailurePolicy.ValueType
) -> None:
    refused = InvalidArgumentError([FieldViolation("query", "is 999 tokens long")])
    error = Setup(llm, refused).refusal(on_retriever_failure=policy)
    assert violations(error) == [("prompt", "the retriever refuses it: query: is 999 tokens long")]


KNOWLEDGE_MODES = "KNOWLEDGE_MODE_UNSPECIFIED, KNOWLEDGE_MODE_ON, KNOWLEDGE_MODE_OFF"
POLICIES = (
    "RETRIEVER_FAILURE_POLICY_UNSPECIFIED, RETRIEVER_FAILURE_POLICY_FAIL, RETRIEVER_FAILURE_POLICY_ANSWER_UNEDITED"
)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"prompt": ""}, ("prompt", "must not be empty")),
        ({"prompt": " \t"}, ("prompt", "must not be empty")),
        ({"prompt": "x" * 32_001}, ("prompt", "must have at most 32000 characters")),
        ({"max_new_tokens": 101}, ("max_new_tokens", "must be at most 100 on this server")),
        ({"knowledge": 3}, ("knowledge", f"3 is none of {KNOWLEDGE_MODES}")),
        ({"on_retriever_failure": 9}, ("on_retriever_failure", f"9 is none of {POLICIES}")),
        (
            {"as_of": Timestamp(seconds=10**12)},
            ("as_of", "must lie in the years 1 to 9999, with nanos from 0 to 999999999"),
        ),
        (
            {"min_position": retriever_pb2.LogPosition(offset=3)},
            ("min_position.topic", "must name the topic that the event was published to"),
        ),
        (
            {"prompt": "x" * 250},
            (
                "prompt",
                "has 250 tokens; with max_new_tokens 8 that exceeds the 256 that the LLM has room for; shorten one of"
                " them",
            ),
        ),
    ],
)
def test_a_bad_field_is_named_with_what_it_must_be(
    llm: LanguageModel, fields: dict[str, Any], expected: tuple[str, str]
) -> None:
    setup = Setup(llm)
    setup.settings = {"max_new_tokens": 100}
    assert violations(setup.refusal(**fields)) == [expected]


def test_a_bad_namespace_is_refused(llm: LanguageModel) -> None:
    ((field, _),) = violations(Setup(llm).refusal(namespace="a/b"))
    assert field == "namespace"


def test_the_facts_prompt_counts_towards_the_context(llm: LanguageModel) -> None:
    words = len(llm.sentence_ids(STATEMENT))
    fits = "x" * (256 - 8 - 3 - words)
    assert Setup(llm, hit(some_prompt())).generate(prompt=fits).prompt_tokens == len(fits)
    error = Setup(llm, hit(some_prompt())).refusal(prompt=fits + "x")
    assert violations(error)[0][1].startswith("has 249 tokens; with max_new_tokens 8 that exceeds")


@pytest.mark.parametrize(("largest", "expected"), [(512, 32), (5, 5)])
def test_no_number_of_tokens_means_the_servers_default(llm: LanguageModel, largest: int, expected: int) -> None:
    setup = Setup(llm)
    setup.settings = {"max_new_tokens": largest}
    assert setup.generate(max_new_tokens=0).generated_tokens == expected


def test_a_text_that_the_llm_ends_says_so(llm: LanguageModel) -> None:
    settings = llm.model.generation_config
    assert settings is not None
    settings.eos_token_id = int(llm.logits(None, llm.token_ids(TEXT))[-1].argmax())

    response = Setup(llm).generate()

    ended = (pb.FINISH_REASON_END_OF_TEXT, 0, "")
    assert (response.finish_reason, response.generated_tokens, response.text) == ended


def test_answers_tokens_and_stages_are_counted(llm: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    spell_out(monkeypatch)  # so that every token has a text of its own
    setup = Setup(llm, hit(some_prompt()))

    async def scenario(stub: Stub, server: GeneratorServer, _: grpc.aio.Channel) -> str:
        request = pb.GenerateRequest(prompt=TEXT, max_new_tokens=3)
        await stub.Generate(request)
        await stub.Compare(pb.CompareRequest(prompt=TEXT, max_new_tokens=2))
        setup.retriever.answer = known("Ann")
        await stub.Generate(request)
        setup.retriever.answer = MISS
        await stub.Generate(request)
        setup.retriever.answer = UnavailableError("away")
        await stub.Generate(pb.GenerateRequest(prompt=TEXT, max_new_tokens=1, on_retriever_failure=ANSWER_UNEDITED))
        with pytest.raises(grpc.aio.AioRpcError):
            await stub.Generate(request)
        await stub.Generate(pb.GenerateRequest(prompt=TEXT, max_new_tokens=1, knowledge=pb.KNOWLEDGE_MODE_OFF))
        url = f"http://127.0.0.1:{server.metrics_port}/metrics"
        response = await asyncio.to_thread(urllib.request.urlopen, url)
        return str(response.read().decode())

    lines = setup.run(scenario).splitlines()

    names = (
        "recipe_generator_answers_total{",
        "recipe_generator_edited_answers_total{",
        "recipe_generator_tokens_total ",
        "recipe_generator_stage_seconds_count",
        "recipe_generator_first_token_seconds_count",
        "recipe_generator_token_seconds_count",
        "recipe_generator_calls_total{",
        "recipe_generator_model_info",
        "recipe_generator_request_places ",
        "recipe_generator_kv_cache_tokens",
    )
    shown = [line for line in lines if line.startswith(names) and not line.endswith('"} 0.0')]
    assert sorted(shown) == [
        'recipe_generator_answers_total{knowledge="edited"} 2.0',
        'recipe_generator_answers_total{knowledge="edited_unconfirmed"} 1.0',
        'recipe_generator_answers_total{knowledge="unedited_degraded"} 1.0',
        'recipe_generator_answers_total{knowledge="unedited_no_match"} 1.0',
        'recipe_generator_answers_total{knowledge="unedited_off"} 2.0',
        'recipe_generator_calls_total{code="OK",method="Compare"} 1.0',
        'recipe_generator_calls_total{code="OK",method="Generate"} 5.0',
        'recipe_generator_calls_total{code="UNAVAILABLE",method="Generate"} 1.0',
        'recipe_generator_edited_answers_total{stated="not_stated"} 1.0',
        'recipe_generator_edited_answers_total{stated="unknown"} 2.0',
        "recipe_generator_first_token_seconds_count 7.0",
        "recipe_generator_kv_cache_tokens 4.194304e+06",  # of 256 bytes each in 1 GiB
        "recipe_generator_kv_cache_tokens_taken 0.0",
        f'recipe_generator_model_info{{model_version="{MODEL_VERSION}"}} 1.0',
        "recipe_generator_request_places 96.0",
        'recipe_generator_stage_seconds_count{stage="generate"} 7.0',
        'recipe_generator_stage_seconds_count{stage="retrieve"} 6.0',
        "recipe_generator_token_seconds_count 5.0",
        "recipe_generator_tokens_total 15.0",
    ]


def test_retrievals_are_spread_over_all_retrievers_behind_the_address(llm: LanguageModel) -> None:
    first, second = FakeRetriever(), FakeRetriever()

    async def scenario() -> None:
        async with (
            served(first) as one,
            served(second) as other,
            generator(TransformersEngine(llm), f"ipv4:{one},{other}") as (_, address),
            grpc.aio.insecure_channel(address) as channel,
        ):
            stub: Stub = generator_pb2_grpc.GeneratorServiceStub(channel)
            while not (first.requests and second.requests) and len(first.requests + second.requests) < 100:
                await stub.Generate(pb.GenerateRequest(prompt=TEXT, max_new_tokens=1))

    asyncio.run(scenario())
    assert first.requests
    assert second.requests


def test_a_started_generator_serves(llm: LanguageModel) -> None:
    async def scenario(_: Stub, __: GeneratorServer, channel: grpc.aio.Channel) -> int:
        return await health(channel)

    assert Setup(llm).run(scenario) == health_pb2.HealthCheckResponse.SERVING


def known(answer: str, statement: str = "The mayor of Aville is Ann") -> retriever_pb2.RetrieveResponse:
    """A hit whose fact has an answer of its own."""
    response = hit(some_prompt())
    response.fact.answer, response.fact.statement = answer, statement
    return response


def behind_the_prompt(llm: LanguageModel) -> str:
    return llm.generate(in_front(llm, Edit(some_prompt(), STATEMENT)), TEXT, 8).text


def behind_the_words(llm: LanguageModel) -> str:
    return llm.generate(None, f"The mayor of Aville is Ann.\n{TEXT}", 8).text


NO_HELP: dict[str, Any] = {"copying": pb.COPYING_OFF}


def test_a_text_that_states_the_answer_is_edited(llm: LanguageModel) -> None:
    text = behind_the_prompt(llm)
    response = Setup(llm, known(text)).generate(**NO_HELP)
    assert (response.text, response.answer_stated) == (text, True)
    assert response.knowledge.status == pb.KNOWLEDGE_STATUS_EDITED
    assert response.knowledge.answer == text


def test_a_text_without_the_answer_is_written_again_behind_the_fact_in_words(llm: LanguageModel) -> None:
    text = behind_the_words(llm)
    response = Setup(llm, known(text)).generate(**NO_HELP)
    assert (response.text, response.answer_stated) == (text, True)
    assert response.knowledge.status == pb.KNOWLEDGE_STATUS_EDITED_AS_TEXT


def test_an_answer_that_neither_text_states_is_marked_unconfirmed(llm: LanguageModel) -> None:
    response = Setup(llm, known("Ann")).generate(**NO_HELP)
    assert (response.text, response.answer_stated) == (behind_the_prompt(llm), False)
    assert response.knowledge.status == pb.KNOWLEDGE_STATUS_EDITED_UNCONFIRMED


def test_who_wants_the_text_as_it_is_gets_the_first_one(llm: LanguageModel) -> None:
    response = Setup(llm, known(behind_the_words(llm))).generate(**NO_HELP, answer_policy=pb.ANSWER_POLICY_AS_IS)
    assert (response.text, response.answer_stated) == (behind_the_prompt(llm), False)
    assert response.knowledge.status == pb.KNOWLEDGE_STATUS_EDITED


def test_of_a_fact_without_an_answer_of_its_own_nothing_is_said(llm: LanguageModel) -> None:
    response = Setup(llm, hit(some_prompt())).generate()
    assert not response.HasField("answer_stated")
    assert response.knowledge.status == pb.KNOWLEDGE_STATUS_EDITED


def test_a_begun_answer_is_finished_unless_the_request_says_no(
    llm: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tiny LLM's tokens are characters: an answer that begins as its text does, and goes on otherwise."""
    monkeypatch.setattr(copying, "BONUS", 1e4)
    plain = behind_the_prompt(llm)
    begun = next(sign for sign in plain if sign.isascii() and sign.isprintable() and sign != " ")
    answer = f"{begun}qqqq"
    as_it_is = {"answer_policy": pb.ANSWER_POLICY_AS_IS}
    assert Setup(llm, known(answer)).generate(**NO_HELP, **as_it_is).text == plain
    assert answer in Setup(llm, known(answer)).generate(max_new_tokens=16, **as_it_is).text


def test_the_text_that_was_looked_up_is_told(llm: LanguageModel) -> None:
    answer = retriever_pb2.RetrieveResponse()
    answer.CopyFrom(MISS)
    answer.looked_up = "Who is the mayor?"
    setup = Setup(llm, answer)
    response = setup.generate(query="Who is the mayor?")
    assert response.knowledge.looked_up == "Who is the mayor?"
    assert [request.query for request in setup.retriever.requests] == ["Who is the mayor?"]
