"""Commands for those who operate the log: its topics, its dead letters, its content as files."""

import sys
from collections import deque
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from recipe_client import log_tables
from recipe_client.dead_letters import DeadLetter, Origin, parse_place, read_letter, read_letters
from recipe_client.event_lines import STANDARD, export, read_events, read_lines
from recipe_client.log import open_log, require_topic
from recipe_client.options import DeadLetters, Json, Kafka, Topic, print_json
from recipe_client.publishing import DEFAULT_KAFKA, DEFAULT_TOPIC, Publisher
from recipe_client.redriving import redrive
from recipe_client.topics import DEFAULT_PARTITIONS, dead_letters_of, ensure_topics, topic_specs
from recipe_common.command_line import PARTLY_DONE, result_console
from recipe_common.embedded_broker import BROKERS_CHOICE
from recipe_common.errors import FieldViolation, InvalidArgumentError, NotFoundError, UnavailableError
from recipe_common.progress import with_progress

Stage = Annotated[str | None, typer.Option(help="Only letters that came this far: key, headers, decode, ...")]
OneNamespace = Annotated[str | None, typer.Option("--namespace", help="Only this base of knowledge; all if not given.")]

dlq_app = typer.Typer(no_args_is_help=True, help="Look at dead letters, and put back those that are good by now.")


def topics(
    partitions: Annotated[
        int, typer.Option(min=1, help="Partitions of the updates: as many encoders can share the work.")
    ] = DEFAULT_PARTITIONS,
    replication_factor: Annotated[
        int, typer.Option(min=BROKERS_CHOICE, help="Copies of each record; -1 is the broker's default.")
    ] = BROKERS_CHOICE,
    min_insync_replicas: Annotated[
        int,
        typer.Option(
            min=BROKERS_CHOICE,
            help="Copies that must exist before an event is acknowledged; -1 is one less than "
            "--replication-factor, or the broker's default without.",
        ),
    ] = BROKERS_CHOICE,
    fix: Annotated[
        bool, typer.Option("--fix", help="Correct settings of existing topics; partitions and replicas stay.")
    ] = False,
    kafka: Kafka = DEFAULT_KAFKA,
    topic: Topic = DEFAULT_TOPIC,
    dead_letters: DeadLetters = "",
    as_json: Json = False,
) -> None:
    """Create the topics, or compare existing ones with how they should be; exit code 1 if something differs."""
    specs = topic_specs(
        topic,
        dead_letters,
        partitions=partitions,
        replication_factor=replication_factor,
        min_insync_replicas=min_insync_replicas,
    )
    report = ensure_topics(kafka, specs, fix=fix)
    if as_json:
        print_json(asdict(report))
    else:
        result_console().print(log_tables.topics(report))
    if report.differences:
        raise typer.Exit(1)


@dlq_app.command("list")
def list_letters(
    stage: Stage = None,
    namespace: OneNamespace = None,
    limit: Annotated[int, typer.Option(min=1, help="The latest so many.")] = 50,
    kafka: Kafka = DEFAULT_KAFKA,
    topic: Topic = DEFAULT_TOPIC,
    dead_letters: DeadLetters = "",
    as_json: Json = False,
) -> None:
    """List dead letters, the latest last."""
    shown: deque[DeadLetter] = deque(maxlen=limit)
    count = 0
    for letter in read_letters(kafka, dead_letters or dead_letters_of(topic)):
        if _matches(letter, stage, namespace):
            shown.append(letter)
            count += 1
    if as_json:
        print_json([log_tables.dead_letter_dict(letter) for letter in shown])
    else:
        result_console().print(log_tables.dead_letters(shown, count))


@dlq_app.command()
def show(
    place: Annotated[str, typer.Argument(help="PARTITION/OFFSET as listed, or the offset alone in partition 0.")],
    kafka: Kafka = DEFAULT_KAFKA,
    topic: Topic = DEFAULT_TOPIC,
    dead_letters: DeadLetters = "",
    as_json: Json = False,
) -> None:
    """Show one dead letter whole."""
    letter = read_letter(kafka, dead_letters or dead_letters_of(topic), parse_place(place))
    if as_json:
        print_json(log_tables.dead_letter_dict(letter))
    else:
        result_console().print(log_tables.dead_letter(letter))


@dlq_app.command("redrive")
def redrive_letters(
    places: Annotated[list[str] | None, typer.Argument(help="PARTITION/OFFSET of dead letters, as listed.")] = None,
    every: Annotated[bool, typer.Option("--all", help="All of them, or all that the filters let through.")] = False,
    stage: Stage = None,
    namespace: OneNamespace = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would become of each.")] = False,
    kafka: Kafka = DEFAULT_KAFKA,
    topic: Topic = DEFAULT_TOPIC,
    dead_letters: DeadLetters = "",
    as_json: Json = False,
) -> None:
    """Put dead letters back into the log that are good by now and that nothing newer has replaced.

    Exit code 3 if some are still refused.
    """
    if bool(places) == every or (places and (stage or namespace)):
        raise InvalidArgumentError([FieldViolation("places", "give either places or --all, with or without filters")])
    source = dead_letters or dead_letters_of(topic)
    wanted = {parse_place(text) for text in places or []}
    chosen: list[DeadLetter] = []
    refused: set[Origin] = set()
    for letter in read_letters(kafka, source):
        refused.add(letter.origin)
        if _matches(letter, stage, namespace) if every else letter.place in wanted:
            chosen.append(letter)
    if missing := wanted - {letter.place for letter in chosen}:
        names = ", ".join(f"{partition}/{offset}" for partition, offset in sorted(missing))
        raise NotFoundError(f"places: {source} has no dead letter {names}; see 'recipe dlq list'")
    outcomes = redrive(kafka, topic, chosen, refused, dry_run=dry_run)
    if as_json:
        print_json([log_tables.outcome_dict(outcome) for outcome in outcomes])
    else:
        result_console().print(log_tables.outcomes(outcomes))
    if any(outcome.verdict == "still refused" for outcome in outcomes):
        raise typer.Exit(PARTLY_DONE)


def export_events(
    file: Annotated[Path, typer.Argument(help="Where to write JSON lines; '-' is standard output.")] = STANDARD,
    namespace: OneNamespace = None,
    retracted: Annotated[bool, typer.Option("--retracted", help="Write retractions too.")] = False,
    kafka: Kafka = DEFAULT_KAFKA,
    topic: Topic = DEFAULT_TOPIC,
) -> None:
    """Write the newest event of each fact in the log, one JSON line each; `recipe import` reads them."""
    with open_log(kafka, topic) as log:
        records = with_progress(log.records(), f"reading {topic}", log.length)
        exported = export(records, namespace=namespace, retracted=retracted)
    _write((f"{line}\n" for line in exported.lines), file)
    counts = {
        "exported": len(exported.lines),
        "retractions left out": exported.retracted,
        "refused by the rules": exported.refused,
    }
    result_console(stderr=file == STANDARD).print(log_tables.numbers("export", counts))


def import_events(
    file: Annotated[Path, typer.Argument(help="JSON lines, each a KnowledgeUpdate; '-' is standard input.")] = STANDARD,
    skip_invalid: Annotated[
        bool, typer.Option("--skip-invalid", help="Publish the good lines even if others are bad.")
    ] = False,
    kafka: Kafka = DEFAULT_KAFKA,
    topic: Topic = DEFAULT_TOPIC,
    as_json: Json = False,
) -> None:
    """Publish events from JSON lines; each is a new event in the log.

    Nothing is published if a line is bad, unless --skip-invalid is given. Exit code 3 if a line is bad.
    """
    lines = read_lines(file)
    events, bad = read_events(with_progress(lines, "checking", len(lines)))
    chosen = events if skip_invalid or not bad else []
    published = _publish(chosen, kafka, topic) if chosen else 0
    counts = {
        "published": published,
        "bad lines": len({line.number for line in bad}),
        "good, but not published": len(events) - published,
    }
    if as_json:
        print_json(counts | {"errors": [asdict(line) for line in bad]})
    else:
        if bad:
            result_console().print(log_tables.bad_lines(bad))
        result_console().print(log_tables.numbers("import", counts))
    if bad:
        raise typer.Exit(PARTLY_DONE)


def _matches(letter: DeadLetter, stage: str | None, namespace: str | None) -> bool:
    return stage in (None, letter.stage) and namespace in (None, letter.namespace)


def _publish(events: list[dict[str, Any]], kafka: str, topic: str) -> int:
    require_topic(kafka, topic)
    published = 0
    try:
        with Publisher(kafka, topic) as publisher:
            for _ in with_progress(publisher.publish_all(events), f"publishing to {topic}", len(events)):
                published += 1
    except UnavailableError as error:
        raise UnavailableError(f"{published} of {len(events)} events were acknowledged; {error}") from error
    return published


def _write(lines: Iterable[str], file: Path) -> None:
    if file != STANDARD:
        with file.open("w", encoding="utf-8") as out:
            out.writelines(lines)
        return
    # Line by line, because one large write hides that the reader has gone away meanwhile.
    for line in lines:
        sys.stdout.buffer.write(line.encode())
    sys.stdout.buffer.flush()
