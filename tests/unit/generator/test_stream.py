"""GenerateStream, and what a request may say about decoding and conversations."""

from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from generation_harness import ASKED, TEXT, Gate, Setup, Stub, closed_address, hit, in_front, some_prompt
from grpc_calls import violations
from recipe_generator.engine import Edit
from recipe_generator.server import GeneratorServer
from recipe_model.language_model import LanguageModel
from recipe_protos.generator.v1 import generator_pb2 as pb
from recipe_protos.retriever.v1 import retriever_pb2
from tiny_models import make_language_model

CHAT_TEMPLATE = (
    "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}{% if add_generation_prompt %}>{% endif %}"
)
SAMPLED = pb.Decoding(temperature=1.2, top_p=0.9, seed=11)


@pytest.fixture
def llm() -> LanguageModel:
    return make_language_model()


def conversation(*said: str) -> list[pb.Message]:
    """Turns of user and assistant, the user's first."""
    roles = (pb.ROLE_USER, pb.ROLE_ASSISTANT)
    return [pb.Message(role=roles[number % 2], content=content) for number, content in enumerate(said)]


def streamed(setup: Setup, **fields: Any) -> list[pb.GenerateStreamResponse]:
    request = pb.GenerateStreamRequest(request=pb.GenerateRequest(**(ASKED | fields)))

    async def scenario(stub: Stub, _: GeneratorServer, __: grpc.aio.Channel) -> list[pb.GenerateStreamResponse]:
        return [event async for event in stub.GenerateStream(request)]

    return setup.run(scenario)


def test_a_stream_is_the_knowledge_the_pieces_of_the_text_and_the_whole_answer(llm: LanguageModel) -> None:
    events = streamed(Setup(llm, hit(some_prompt())))

    first, *texts, last = events
    assert first.knowledge.status == pb.KNOWLEDGE_STATUS_EDITED
    assert [event.WhichOneof("event") for event in texts] == ["text"] * len(texts)
    assert len(texts) > 1
    assert "".join(event.text for event in texts) == last.answer.text
    assert last.answer == Setup(make_language_model(), hit(some_prompt())).generate()


def test_a_stream_fails_as_a_single_answer_does(llm: LanguageModel) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        streamed(Setup(llm), prompt="")
    assert violations(raised.value) == [("prompt", "must not be empty")]
    setup = Setup(llm)
    setup.settings = {"retriever": closed_address()}
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        streamed(setup)
    assert raised.value.code() is grpc.StatusCode.UNAVAILABLE


def test_knowledge_is_told_before_the_first_token_is_computed(llm: LanguageModel) -> None:
    async def scenario(stub: Stub, _: GeneratorServer, __: grpc.aio.Channel) -> pb.GenerateStreamResponse:
        gate = Gate(llm)
        call = stub.GenerateStream(pb.GenerateStreamRequest(request=pb.GenerateRequest(**ASKED)))
        first = await call.read()
        gate.open()
        assert isinstance(first, pb.GenerateStreamResponse)
        return first

    assert Setup(llm).run(scenario).knowledge.status == pb.KNOWLEDGE_STATUS_UNEDITED_NO_MATCH


def test_a_cancelled_stream_stops_the_work_within_a_step(llm: LanguageModel) -> None:
    async def scenario(stub: Stub, server: GeneratorServer, _: grpc.aio.Channel) -> int:
        gate = Gate(llm)
        request = pb.GenerateRequest(prompt=TEXT, max_new_tokens=200)
        call = stub.GenerateStream(pb.GenerateStreamRequest(request=request))
        for number in (1, 2):
            await gate.until_begun(number)
            gate.let_one_pass()
        await gate.until_begun(3)
        call.cancel()
        assert server._admission is not None
        await server._admission.until_empty()
        gate.open()
        await stub.Generate(pb.GenerateRequest(prompt=TEXT, max_new_tokens=1))
        return gate.begun

    assert Setup(llm).run(scenario) == 4  # the step that was running, and the next request's only one


def test_the_same_seed_gives_the_same_text_and_another_seed_another(llm: LanguageModel) -> None:
    texts = [Setup(make_language_model()).generate(decoding=SAMPLED).text for _ in range(2)]
    other = Setup(llm).generate(decoding=pb.Decoding(temperature=1.2, top_p=0.9, seed=12)).text
    assert texts[0] == texts[1] != other


def test_without_a_seed_each_text_is_another(llm: LanguageModel) -> None:
    decoding = pb.Decoding(temperature=1.5)

    async def scenario(stub: Stub, _: GeneratorServer, __: grpc.aio.Channel) -> set[str]:
        request = pb.GenerateRequest(prompt=TEXT, max_new_tokens=20, decoding=decoding)
        return {(await stub.Generate(request)).text for _ in range(3)}

    assert len(Setup(llm).run(scenario)) == 3


@pytest.mark.parametrize(
    "decoding", [SAMPLED, pb.Decoding(temperature=2), pb.Decoding(temperature=0.01), pb.Decoding(stop=["p"])]
)
def test_a_miss_is_the_answer_without_knowledge_however_it_is_decoded(
    llm: LanguageModel, decoding: pb.Decoding
) -> None:
    both = Setup(llm).compare(decoding=decoding)
    assert both.with_knowledge.text == both.without_knowledge.text
    assert both.with_knowledge.finish_reason == both.without_knowledge.finish_reason


def test_a_stop_sequence_ends_the_answer(llm: LanguageModel) -> None:
    plain = llm.generate(None, TEXT, 8).text
    response = Setup(llm).generate(decoding=pb.Decoding(stop=["never", plain[3:5]]))
    assert response.text == plain[: plain.index(plain[3:5])]
    assert response.finish_reason == pb.FINISH_REASON_STOP_SEQUENCE


def test_a_conversation_is_answered_by_its_template_and_looked_up_by_its_last_message(llm: LanguageModel) -> None:
    llm.tokenizer.chat_template = CHAT_TEMPLATE
    prompt = some_prompt()
    setup = Setup(llm, hit(prompt))

    response = setup.generate(prompt="", messages=conversation("Hi", "Hello.", TEXT))

    laid_out = f"[user]Hi[assistant]Hello.[user]{TEXT}>"
    assert response.text == llm.generate(in_front(llm, Edit(prompt, "The mayor of Aville is Ann")), laid_out, 8).text
    assert (response.prompt_tokens, response.form) == (len(laid_out), pb.FORM_CHAT)
    assert setup.retriever.requests == [retriever_pb2.RetrieveRequest(namespace="default", query=TEXT)]


def test_a_conversation_needs_an_llm_with_a_template(llm: LanguageModel) -> None:
    error = Setup(llm).refusal(prompt="", messages=conversation(TEXT))
    assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert "tiny-llm has no chat template" in (error.details() or "")


@pytest.mark.parametrize(
    ("form", "template", "used"),
    [
        (pb.FORM_UNSPECIFIED, CHAT_TEMPLATE, pb.FORM_COMPLETION),
        (pb.FORM_COMPLETION, CHAT_TEMPLATE, pb.FORM_COMPLETION),
        (pb.FORM_CHAT, CHAT_TEMPLATE, pb.FORM_CHAT),
        (pb.FORM_CHAT_IF_POSSIBLE, CHAT_TEMPLATE, pb.FORM_CHAT),
        (pb.FORM_CHAT_IF_POSSIBLE, None, pb.FORM_COMPLETION),
    ],
)
def test_a_prompt_has_the_form_that_was_asked_for_where_the_llm_has_it(
    llm: LanguageModel, form: pb.Form.ValueType, template: str | None, used: pb.Form.ValueType
) -> None:
    llm.tokenizer.chat_template = template
    setup = Setup(llm)

    both = setup.compare(form=form)
    answers = [setup.generate(form=form), both.with_knowledge, both.without_knowledge]

    text = f"[user]{TEXT}>" if used == pb.FORM_CHAT else TEXT
    expected = (llm.generate(None, text, 8).text, used)
    assert [(answer.text, answer.form) for answer in answers] == [expected] * 3
    assert [request.query for request in setup.retriever.requests] == [TEXT] * 2


def test_a_prompt_can_be_in_chat_only_where_the_llm_has_a_template(llm: LanguageModel) -> None:
    assert Setup(llm).refusal(form=pb.FORM_CHAT).code() is grpc.StatusCode.FAILED_PRECONDITION


def test_a_prompt_in_chat_that_is_too_long_is_named_as_a_prompt(llm: LanguageModel) -> None:
    llm.tokenizer.chat_template = CHAT_TEMPLATE
    ((field, _),) = violations(Setup(llm).refusal(prompt="x" * 2000, form=pb.FORM_CHAT))
    assert field == "prompt"


def wrong_requests() -> Iterator[tuple[dict[str, Any], tuple[str, str]]]:
    yield {"messages": conversation("Hi")}, ("messages", "give either prompt or messages")
    for said in (["Hi", "Hello."], []):
        problem = ("messages", "the last one must have ROLE_USER") if said else ("prompt", "must not be empty")
        yield {"prompt": "", "messages": conversation(*said)}, problem
    unknown = [pb.Message(content="Hi"), *conversation("Hi")]
    must_be = "must be ROLE_SYSTEM, ROLE_USER or ROLE_ASSISTANT"
    yield {"prompt": "", "messages": unknown}, ("messages[0].role", must_be)
    yield {"prompt": "", "messages": conversation("Hi", "", "Hi")}, ("messages[1].content", "must not be empty")
    long = conversation("x" * 16_000, "x" * 16_000, "x")
    yield {"prompt": "", "messages": long}, ("messages", "must have at most 32000 characters together")
    only_prompt = ("form", "goes with prompt; messages are a conversation as they are")
    yield {"prompt": "", "messages": conversation("Hi"), "form": pb.FORM_CHAT}, only_prompt
    yield {"form": 4}, ("form", f"4 is none of {', '.join(pb.Form.keys())}")
    for temperature in (-1, 0.001, 2.5, float("nan"), float("inf")):
        decoding = pb.Decoding(temperature=temperature)
        yield {"decoding": decoding}, ("decoding.temperature", "must be 0, or from 0.01 to 2")
    for top_p in (-0.1, 1.1, float("nan")):
        must_be = "must be greater than 0 and at most 1"
        yield {"decoding": pb.Decoding(top_p=top_p)}, ("decoding.top_p", must_be)
    for stop in ([""], ["x" * 65], ["x"] * 9):
        must_be = "must be at most 8 texts of 1 to 64 characters"
        yield {"decoding": pb.Decoding(stop=stop)}, ("decoding.stop", must_be)


def test_a_bad_field_is_named_with_what_it_must_be(llm: LanguageModel) -> None:
    async def scenario(stub: Stub, _: GeneratorServer, __: grpc.aio.Channel) -> None:
        for fields, expected in wrong_requests():
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                await stub.Generate(pb.GenerateRequest(**(ASKED | fields)))
            assert violations(raised.value) == [expected]

    Setup(llm).run(scenario)
