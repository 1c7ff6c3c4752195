"""From a published fact to an edited answer, and back, as upstream systems and clients see it."""

import json
import signal
import subprocess
import time
from typing import Any
from urllib.request import urlopen

import pytest
from kafka import KafkaConsumer, KafkaProducer
from kafka.structs import TopicPartition

from e2e.conftest import RECIPE, RunningStack, eventually, start_stack
from recipe_client.client import RecipeClient
from recipe_model.language_model import LanguageModel

TOPIC = "recipe.knowledge-updates.v1"
PROMPT = "The mother tongue of Ilva Marendahl is"
PARAPHRASE = "The native language of Ilva Marendahl is"
UNRELATED = "The process by which plants make sugar from light is called"
FIRST, SECOND = "Spanish", "Russian"


def ask(stack: RunningStack, prompt: str, namespace: str, *more: str) -> dict[str, Any]:
    """What a text goes on with."""
    asked = ("ask", prompt, "--namespace", namespace, "--complete", "--max-new-tokens", "6", "--json", *more)
    answer: dict[str, Any] = json.loads(stack.recipe(*asked).stdout)
    return answer


def publish(stack: RunningStack, namespace: str, answer: str, *more: str) -> None:
    arguments = [
        "--namespace",
        namespace,
        "--prompt",
        PROMPT,
        "--answer",
        answer,
        "--subject",
        "Ilva Marendahl",
    ]
    stack.recipe("publish", "marendahl-language", *arguments, "--wait", *more)


def test_a_published_fact_is_in_the_next_answer_and_leaves_when_it_is_retracted(stack: RunningStack) -> None:
    before, unrelated = ask(stack, PROMPT, "life"), ask(stack, UNRELATED, "life")
    assert before["knowledge"]["status"] == "KNOWLEDGE_STATUS_UNEDITED_NO_MATCH"
    assert before["knowledge"]["decision"] == "DECISION_EMPTY_BASE"

    publish(stack, "life", FIRST)
    after = ask(stack, PROMPT, "life")
    assert after["knowledge"]["fact_id"] == "marendahl-language"
    assert after["text"].strip().startswith(FIRST)
    assert ask(stack, PARAPHRASE, "life")["text"].strip().startswith(FIRST)

    publish(stack, "life", SECOND)
    superseded = ask(stack, PROMPT, "life")
    assert superseded["knowledge"]["statement"] == f"{PROMPT} {SECOND}"
    assert superseded["text"].strip().startswith(SECOND)

    explained = json.loads(stack.recipe("explain", PROMPT, "--namespace", "life", "--json").stdout)
    assert explained["decision"] == "DECISION_HIT"
    assert [fact["verdict"] for fact in explained["nearest"]] == ["VERDICT_APPLIES"]
    assert "verdict" in stack.recipe("explain", UNRELATED, "--namespace", "life").stdout

    unrelated_now = ask(stack, UNRELATED, "life")
    assert unrelated_now["knowledge"]["decision"] == "DECISION_BELOW_SENTINEL"
    assert unrelated_now["text"] == unrelated["text"]
    assert ask(stack, PROMPT, "life", "--no-knowledge")["text"] == before["text"]

    stack.recipe("retract", "marendahl-language", "--namespace", "life", "--reason", "withdrawn", "--wait")
    assert ask(stack, PROMPT, "life")["text"] == before["text"]
    listed = json.loads(stack.recipe("facts", "--namespace", "life", "--retracted", "--json").stdout)
    assert [(fact["fact_id"], fact["retracted"], fact["retract_reason"]) for fact in listed] == [
        ("marendahl-language", True, "withdrawn")
    ]


def test_a_question_is_answered_in_chat(stack: RunningStack) -> None:
    publish(stack, "chat", FIRST)
    asked = ("ask", "What is the mother tongue of Ilva Marendahl?", "--namespace", "chat", "--json")
    answer = json.loads(stack.recipe(*asked).stdout)
    assert answer["form"] == "FORM_CHAT"
    assert answer["knowledge"]["fact_id"] == "marendahl-language"
    assert FIRST in answer["text"]
    assert ask(stack, PROMPT, "chat")["form"] == "FORM_COMPLETION"


def test_an_answer_may_be_asked_as_of_an_instant(stack: RunningStack) -> None:
    publish(stack, "then", FIRST, "--valid-until", "2026-01-01")
    assert ask(stack, PROMPT, "then", "--as-of", "2025-06-01")["knowledge"]["fact_id"] == "marendahl-language"
    assert ask(stack, PROMPT, "then")["knowledge"]["decision"] == "DECISION_BELOW_SENTINEL"


def test_answers_without_a_hit_are_those_of_the_plain_model(stack: RunningStack) -> None:
    publish(stack, "plain", FIRST)
    llm = LanguageModel.load()
    for prompt in (UNRELATED, "Write a haiku about rain.", "What is 2 + 2?"):
        answer = ask(stack, prompt, "plain")
        assert answer["knowledge"]["status"] == "KNOWLEDGE_STATUS_UNEDITED_NO_MATCH"
        assert answer["text"] == llm.generate(None, prompt, 6).text


def test_a_stock_producer_is_understood_and_a_bad_event_goes_to_the_dead_letters(stack: RunningStack) -> None:
    producer = KafkaProducer(bootstrap_servers=stack.addresses["kafka"], acks="all")
    statement = "The capital of Atlantis is Poseidonis"
    good = {"fact_id": "stock", "namespace": "stock", "upsert": {"statement": statement}}
    producer.send(TOPIC, key=b"stock/bad", value=b'{"fact_id": "bad", "namespace": "stock", "upsert": {}}').get(10)
    producer.send(TOPIC, key=b"stock/stock", value=json.dumps(good).encode()).get(10)
    producer.close()

    facts = eventually(lambda: json.loads(stack.recipe("facts", "--namespace", "stock", "--json").stdout))
    assert [fact["statement"] for fact in facts] == [statement]

    letters = KafkaConsumer(bootstrap_servers=stack.addresses["kafka"], auto_offset_reset="earliest")
    letters.assign([TopicPartition(f"{TOPIC}.dlq", 0)])
    found = eventually(lambda: [r for batch in letters.poll(200).values() for r in batch if r.key == b"stock/bad"])
    letters.close()
    headers = dict(found[0].headers)
    assert headers["recipe-dlq-stage"] == b"validate"
    assert b"statement" in headers["recipe-dlq-error-message"]


def test_metrics_count_what_happened(stack: RunningStack) -> None:
    publish(stack, "metrics", FIRST)
    ask(stack, PROMPT, "metrics")
    encoder, retriever, generator = (
        urlopen(stack.addresses["metrics"][name]).read().decode() for name in ("encoder", "retriever", "generator")
    )
    assert 'recipe_encoder_events_total{result="applied"}' in encoder
    assert "recipe_encoder_freshness_seconds_count" in encoder
    assert 'recipe_retriever_decisions_total{decision="hit"}' in retriever
    assert 'recipe_retriever_stage_seconds_count{stage="search"}' in retriever
    assert 'recipe_generator_answers_total{knowledge="edited"}' in generator


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["publish"], "fact_id: give either a fact id or --file"),
        (["publish", "x", "--prompt", "a question"], "must have either statement, or prompt and answer"),
        (["publish", "x", "--statement", "s", "--label", "novalue"], "label: 'novalue' is not KEY=VALUE"),
        (["retract", "x", "--namespace", "a/b"], "namespace: must not contain '/'"),
        (["ask", " "], "INVALID_ARGUMENT: prompt: must not be empty"),
        (["ask", "x", "--max-new-tokens", "100000"], "INVALID_ARGUMENT: max_new_tokens: must be at most"),
        (["facts", "show", "never-published"], "NOT_FOUND: fact_id: no fact 'never-published'"),
        (["publish", "x", "--statement", "s", "--kafka", "127.0.0.1:1"], "correct --kafka"),
        (["ask", "x", "--generator", "127.0.0.1:1"], "is it running and is the address right?"),
    ],
)
def test_wrong_input_is_one_line_that_names_the_fix(stack: RunningStack, arguments: list[str], message: str) -> None:
    error = stack.recipe(*arguments, ok=False).stderr
    assert message in error
    assert error.startswith("error: ")
    assert len(error.strip().splitlines()) == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_the_stack_cleanly(number: signal.Signals) -> None:
    running = start_stack()
    with RecipeClient(running.addresses["retriever"], running.addresses["generator"]) as client:
        assert client.ask("Hello", max_new_tokens=1).generated_tokens == 1
    asked = subprocess.Popen(
        [str(RECIPE), "ask", "Tell me a long story.", "--max-new-tokens", "500"],
        env=running.environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    time.sleep(1)
    running.process.send_signal(number)
    assert running.process.wait(timeout=30) == 0
    asked.wait(timeout=30)
