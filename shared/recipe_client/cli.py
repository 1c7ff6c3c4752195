"""The `recipe` command: run the stack, publish facts, ask questions, train and evaluate."""

import asyncio
import json
import sys
import time
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message

from recipe_client import tables
from recipe_client.base_commands import rebuild
from recipe_client.canary import canary
from recipe_client.client import DEFAULT_GENERATOR, DEFAULT_RETRIEVER, AskOptions, RecipeClient
from recipe_client.event_lines import read_events, read_lines
from recipe_client.languages import language_warning
from recipe_client.log_commands import dlq_app, export_events, import_events, topics
from recipe_client.options import (
    TIME_FORMATS,
    AsOf,
    Complete,
    FactId,
    Generator,
    Json,
    Kafka,
    MinConfidence,
    Namespace,
    Retriever,
    Timeout,
    Tokens,
    Topic,
    Wait,
    in_utc,
    print_json,
)
from recipe_client.publishing import DEFAULT_KAFKA, DEFAULT_TOPIC, PublishedEvent, Publisher
from recipe_client.publishing import complete as complete_event
from recipe_common.command_line import result_console, run_command
from recipe_common.errors import FieldViolation, InvalidArgumentError, RecipeError
from recipe_common.tracing import configure_tracing
from recipe_protos.generator.v1 import generator_pb2
from recipe_protos.retriever.v1 import retriever_pb2
from recipe_trainer.commands import ablate, eval_app, train

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Live knowledge updates for large language models: publish a fact, and every answer knows it.",
)
app.command()(train)
app.command()(ablate)
app.add_typer(eval_app, name="eval")
app.command()(topics)
app.add_typer(dlq_app, name="dlq")
app.command("export")(export_events)
app.command("import")(import_events)
app.command()(canary)
facts_app = typer.Typer(invoke_without_command=True)
app.add_typer(facts_app, name="facts")
app.command()(rebuild)


@app.command()
def up(
    kafka: Annotated[
        str | None, typer.Option(help="Bootstrap servers of a Kafka broker, in place of the one in memory.")
    ] = None,
    kafka_port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port of the broker in memory; 0 takes a free one.")
    ] = 9092,
    retriever_port: Annotated[
        int, typer.Option(min=0, max=65535, help="gRPC port of the retriever; 0 takes a free one.")
    ] = 50051,
    generator_port: Annotated[
        int, typer.Option(min=0, max=65535, help="gRPC port of the generator; 0 takes a free one.")
    ] = 50052,
    metrics_port: Annotated[
        int,
        typer.Option(
            min=0,
            max=65533,
            help="First of three ports for /metrics: encoder, retriever, generator; 0 takes free ones.",
        ),
    ] = 9101,
    checkpoint: Annotated[Path | None, typer.Option(help="RECIPE checkpoint; the shipped one if not given.")] = None,
    as_json: Json = False,
) -> None:
    """Run the whole product in this process, on 127.0.0.1, until Ctrl-C."""
    from recipe_client import embedded  # noqa: PLC0415 (torch takes seconds; --help need not wait)

    ports = (0, 0, 0) if metrics_port == 0 else (metrics_port, metrics_port + 1, metrics_port + 2)
    options = embedded.EmbeddedOptions(kafka, kafka_port, retriever_port, generator_port, ports, checkpoint)

    def ready(addresses: embedded.Addresses) -> None:
        if as_json:
            print(json.dumps(tables.address_dict(addresses)), flush=True)
        else:
            result_console().print(tables.addresses(addresses))

    asyncio.run(embedded.run_until_stopped(options, _progress, ready))


@app.command()
def publish(
    fact_id: Annotated[str | None, typer.Argument(help="Id of the fact; a later event of the id replaces it.")] = None,
    prompt: Annotated[str, typer.Option(help="Question or beginning of a sentence that --answer completes.")] = "",
    answer: Annotated[str, typer.Option(help="The new answer to --prompt.")] = "",
    statement: Annotated[str, typer.Option(help="The fact as a sentence, in place of --prompt and --answer.")] = "",
    subject: Annotated[str, typer.Option(help="What the fact is about.")] = "",
    alias: Annotated[list[str] | None, typer.Option(help="Another name of the subject. Repeatable.")] = None,
    label: Annotated[list[str] | None, typer.Option(help="KEY=VALUE kept with the fact. Repeatable.")] = None,
    valid_from: Annotated[datetime | None, typer.Option(formats=TIME_FORMATS, help="First instant, UTC.")] = None,
    valid_until: Annotated[
        datetime | None,
        typer.Option(formats=TIME_FORMATS, help="First instant it no longer holds, UTC."),
    ] = None,
    revision: Annotated[int, typer.Option(min=0, help="Version of the fact; 0 lets the log's order decide.")] = 0,
    file: Annotated[
        Path | None,
        typer.Option(help="JSON lines, each a KnowledgeUpdate; nothing is sent if one line is wrong."),
    ] = None,
    namespace: Namespace = "default",
    wait: Wait = False,
    timeout: Timeout = 30.0,
    kafka: Kafka = DEFAULT_KAFKA,
    topic: Topic = DEFAULT_TOPIC,
    retriever: Retriever = DEFAULT_RETRIEVER,
    as_json: Json = False,
) -> None:
    """Publish one fact, or a file of events."""
    if (file is None) == (fact_id is None):
        raise InvalidArgumentError([FieldViolation("fact_id", "give either a fact id or --file")])
    upsert = {
        "statement": statement,
        "prompt": prompt,
        "answer": answer,
        "subject": subject,
        "aliases": alias or [],
        "labels": _labels(label or []),
        "valid_from": tables.rfc3339(valid_from),
        "valid_until": tables.rfc3339(valid_until),
    }
    if file is not None:
        if any(upsert.values()) or revision or namespace != "default":
            raise InvalidArgumentError([FieldViolation("file", "holds whole events; give nothing but the file")])
        events = _read_events(file)
    else:
        events = [complete_event({"namespace": namespace, "fact_id": fact_id, "revision": revision, "upsert": upsert})]
    _publish(events, kafka, topic, retriever, timeout if wait else None, as_json)


@app.command()
def retract(
    fact_id: FactId,
    reason: Annotated[str, typer.Option(help="Why it no longer holds.")] = "",
    revision: Annotated[int, typer.Option(min=0, help="Version of the fact; 0 lets the log's order decide.")] = 0,
    namespace: Namespace = "default",
    wait: Wait = False,
    timeout: Timeout = 30.0,
    kafka: Kafka = DEFAULT_KAFKA,
    topic: Topic = DEFAULT_TOPIC,
    retriever: Retriever = DEFAULT_RETRIEVER,
    as_json: Json = False,
) -> None:
    """Withdraw a fact: answers no longer use it."""
    event = {"namespace": namespace, "fact_id": fact_id, "revision": revision, "retract": {"reason": reason}}
    _publish([complete_event(event)], kafka, topic, retriever, timeout if wait else None, as_json)


@app.command()
def ask(
    prompt: Annotated[str, typer.Argument(help="Question or text to continue.")],
    knowledge: Annotated[bool, typer.Option(help="Whether stored knowledge may be used.")] = True,
    answer_unedited: Annotated[
        bool, typer.Option(help="Answer without knowledge, marked degraded, when the retriever is down.")
    ] = False,
    complete: Complete = False,
    stream: Annotated[bool, typer.Option("--stream", help="Print the answer while it is written.")] = False,
    max_new_tokens: Tokens = 0,
    temperature: Annotated[
        float, typer.Option(min=0, max=2, help="How freely to draw words; 0 takes the likeliest.")
    ] = 0.0,
    top_p: Annotated[
        float, typer.Option(min=0, max=1, help="Draw among the likeliest words of this probability.")
    ] = 1.0,
    seed: Annotated[int | None, typer.Option(min=0, max=2**64 - 1, help="Draw the same words each time.")] = None,
    stop: Annotated[list[str] | None, typer.Option(help="End in front of this text. Repeatable.")] = None,
    after: Annotated[
        str, typer.Option(help="TOPIC/PARTITION/OFFSET, as publish prints it: answer only once that event is known.")
    ] = "",
    as_of: AsOf = None,
    min_confidence: MinConfidence = None,
    confirm: Annotated[
        bool, typer.Option(help="Answer again, with the fact as text, where the text does not state its answer.")
    ] = True,
    copying: Annotated[bool, typer.Option(help="Help an edited text to finish an answer that it has begun.")] = True,
    query: Annotated[str, typer.Option(help="What to look knowledge up for, in place of the prompt.")] = "",
    namespace: Namespace = "default",
    generator: Generator = DEFAULT_GENERATOR,
    as_json: Json = False,
) -> None:
    """Ask the LLM, and see which knowledge went into the answer."""
    if stream and as_json:
        raise InvalidArgumentError([FieldViolation("stream", "give either --stream or --json")])
    options: AskOptions = {
        "namespace": namespace,
        "knowledge": knowledge,
        "answer_unedited": answer_unedited,
        "max_new_tokens": max_new_tokens,
        "complete": complete,
        "as_of": in_utc(as_of),
        "min_confidence": min_confidence,
        "confirm": confirm,
        "copying": copying,
        "query": query,
        "after": _position(after) if after else None,
        "decoding": generator_pb2.Decoding(temperature=temperature, top_p=top_p, seed=seed, stop=stop),
    }
    with RecipeClient(generator=generator) as client:
        answer = _print_stream(client, prompt, options) if stream else client.ask(prompt, **options)
    if as_json:
        print_json(_message(answer))
    else:
        result_console().print(tables.answer(prompt, answer))


@app.command()
def compare(
    prompt: Annotated[str, typer.Argument(help="Question or text to continue.")],
    complete: Complete = False,
    max_new_tokens: Tokens = 0,
    namespace: Namespace = "default",
    generator: Generator = DEFAULT_GENERATOR,
    as_json: Json = False,
) -> None:
    """Ask the LLM twice, with and without knowledge."""
    with RecipeClient(generator=generator) as client:
        both = client.compare(prompt, namespace=namespace, max_new_tokens=max_new_tokens, complete=complete)
    if as_json:
        print_json(_message(both))
    else:
        result_console().print(tables.comparison(prompt, both))


@app.command()
def explain(
    question: Annotated[str, typer.Argument(help="Question or text to continue, without any answer.")],
    limit: Annotated[int, typer.Option(min=1, max=100, help="How many of the nearest facts to show.")] = 5,
    as_of: AsOf = None,
    min_confidence: MinConfidence = None,
    namespace: Namespace = "default",
    retriever: Retriever = DEFAULT_RETRIEVER,
    as_json: Json = False,
) -> None:
    """Show which fact a question hits, or why it hits none."""
    moment = in_utc(as_of)
    with RecipeClient(retriever=retriever) as client:
        found = client.explain(question, namespace=namespace, as_of=moment, limit=limit, min_confidence=min_confidence)
    if as_json:
        print_json(_message(found))
    else:
        result_console().print(tables.explanation(question, found))


@facts_app.callback()
def facts(
    context: typer.Context,
    retracted: Annotated[bool, typer.Option(help="List retracted facts too.")] = False,
    namespace: Namespace = "default",
    retriever: Retriever = DEFAULT_RETRIEVER,
    as_json: Json = False,
) -> None:
    """List what is stored, or look at one fact."""
    if context.invoked_subcommand is not None:
        return
    with RecipeClient(retriever=retriever) as client:
        found = list(client.facts(namespace=namespace, include_retracted=retracted))
    if as_json:
        print_json([_message(fact) for fact in found])
    else:
        result_console().print(tables.facts(found, namespace))


@facts_app.command()
def show(
    fact_id: FactId, namespace: Namespace = "default", retriever: Retriever = DEFAULT_RETRIEVER, as_json: Json = False
) -> None:
    """Show one fact, retracted or not."""
    with RecipeClient(retriever=retriever) as client:
        found = client.fact(fact_id, namespace=namespace)
    if as_json:
        print_json(_message(found))
    else:
        result_console().print(tables.facts([found], namespace))


@facts_app.command()
def history(
    fact_id: FactId, namespace: Namespace = "default", retriever: Retriever = DEFAULT_RETRIEVER, as_json: Json = False
) -> None:
    """Show every known revision of a fact, where it comes from, and its place in the log."""
    with RecipeClient(retriever=retriever) as client:
        revisions = client.history(fact_id, namespace=namespace)
    if as_json:
        print_json([_message(fact) for fact in revisions])
    else:
        result_console().print(tables.history(revisions))


@app.command()
def demo(
    json_out: Annotated[Path | None, typer.Option("--json", help="Also write all results to this file.")] = None,
    checkpoint: Annotated[Path | None, typer.Option(help="RECIPE checkpoint; the shipped one if not given.")] = None,
) -> None:
    """Start everything, publish the sample facts, and show each question before and after."""
    from recipe_client.demo import run_demo  # noqa: PLC0415 (torch takes seconds; --help need not wait)

    if json_out is not None:
        json_out.parent.mkdir(parents=True, exist_ok=True)  # now, not when everything has been asked
    result = asyncio.run(run_demo(checkpoint, _progress))
    result_console().print(tables.demo(result))
    if json_out is not None:
        json_out.write_text(json.dumps(tables.demo_dict(result), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    if problems := result.pipeline_problems:
        raise RecipeError("the pipeline failed: " + "; ".join(problems))


def main() -> None:
    """Run the command; whatever goes wrong is one line on stderr that names the fix."""
    run_command(_run)


def _run() -> None:
    configure_tracing("canary" if sys.argv[1:2] == ["canary"] else "client")
    app()


def _publish(
    events: list[dict[str, Any]], kafka: str, topic: str, retriever: str, wait: float | None, as_json: bool
) -> None:
    if warning := language_warning(events):
        _progress(warning)
    with Publisher(kafka, topic) as publisher:
        published = list(publisher.publish_all(events))
    if wait is not None:
        deadline = time.monotonic() + wait
        with RecipeClient(retriever=retriever) as client:
            for event in published:
                client.wait_until_applied(event, max(0.0, deadline - time.monotonic()))
    if as_json:
        print_json([tables.published_dict(event, applied=wait is not None) for event in published])
    else:
        result_console().print(_published_line(published, applied=wait is not None))


def _print_stream(client: RecipeClient, prompt: str, options: AskOptions) -> generator_pb2.GenerateResponse:
    """Print the text as it comes, and return the whole answer, which comes last."""
    answer = generator_pb2.GenerateResponse()
    for event in client.ask_stream(prompt, **options):
        print(event.text, end="", flush=True)
        answer = event.answer
    print()
    return answer


def _published_line(published: list[PublishedEvent], applied: bool) -> str:
    last = published[-1]
    what = f"{last.namespace}/{last.fact_id}" if len(published) == 1 else f"{len(published)} events"
    where = f"{last.topic}/{last.partition}/{last.offset}"
    return f"published {what} at {where}" + (", and answers follow it now" if applied else "")


def _read_events(file: Path) -> list[dict[str, Any]]:
    events, bad = read_events(read_lines(file))
    if bad:
        raise InvalidArgumentError(
            [FieldViolation(f"{file}:{line.number}: {line.field}", line.description) for line in bad]
        )
    return events


def _position(text: str) -> retriever_pb2.LogPosition:
    topic, partition, offset = [*text.split("/"), "", ""][:3]
    if not (topic and partition.isdecimal() and offset.isdecimal() and text.count("/") == 2):  # noqa: PLR2004
        raise InvalidArgumentError([FieldViolation("after", f"{text!r} is not TOPIC/PARTITION/OFFSET")])
    return retriever_pb2.LogPosition(topic=topic, partition=int(partition), offset=int(offset))


def _labels(items: list[str]) -> dict[str, str]:
    pairs = [item.partition("=") for item in items]
    if wrong := [key for key, separator, _ in pairs if not separator or not key]:
        raise InvalidArgumentError([FieldViolation("label", f"{wrong[0]!r} is not KEY=VALUE")])
    return {key: value for key, _, value in pairs}


def _message(message: Message) -> dict[str, Any]:
    """All fields, those with their default value too: a program should not have to know which may be missing."""
    return MessageToDict(message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)


def _progress(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
