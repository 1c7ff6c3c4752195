"""Options that several commands share, and how results become JSON."""

import json
from datetime import UTC, datetime
from typing import Annotated, Final

import typer

TIME_FORMATS: Final = ["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M:%SZ"]

Kafka = Annotated[str, typer.Option(envvar="RECIPE_KAFKA", help="Bootstrap servers of the broker.")]
Topic = Annotated[str, typer.Option(envvar="RECIPE_TOPIC", help="Topic of the knowledge updates.")]
DeadLetters = Annotated[
    str, typer.Option(envvar="RECIPE_DEAD_LETTERS", help='Topic of the dead letters; --topic with ".dlq" if empty.')
]
Retriever = Annotated[str, typer.Option(envvar="RECIPE_RETRIEVER", help="Address of the retriever.")]
Generator = Annotated[str, typer.Option(envvar="RECIPE_GENERATOR", help="Address of the generator.")]
FactId = Annotated[str, typer.Argument(help="Id of the fact.")]
Namespace = Annotated[str, typer.Option(help="The base of knowledge to use.")]
Complete = Annotated[
    bool, typer.Option("--complete", help="Continue the text, even where the LLM has a chat template to answer by.")
]
Tokens = Annotated[int, typer.Option(min=0, max=2**31, help="Tokens to generate at most; 0 is the server's default.")]
AsOf = Annotated[
    datetime | None, typer.Option(formats=TIME_FORMATS, help="The instant to ask about, UTC; now if not given.")
]
MinConfidence = Annotated[
    float | None,
    typer.Option(min=0, max=1, help="Least confidence, 0 to 1, with which a fact applies; else the namespace's."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
Wait = Annotated[bool, typer.Option("--wait", help="Return only when answers know the change.")]
Timeout = Annotated[float, typer.Option(min=0, help="Seconds that --wait waits at most, for all events together.")]


def in_utc(moment: datetime | None) -> datetime | None:
    """A command line's time, which is UTC."""
    return None if moment is None else moment.replace(tzinfo=UTC)


def print_json(value: object) -> None:
    """Standard output for programs."""
    print(json.dumps(value, indent=1, ensure_ascii=False))
