"""Options that several commands share, and how results become JSON."""

import json
from typing import Annotated

import typer

Kafka = Annotated[str, typer.Option(envvar="RECIPE_KAFKA", help="Bootstrap servers of the broker.")]
Topic = Annotated[str, typer.Option(envvar="RECIPE_TOPIC", help="Topic of the knowledge updates.")]
DeadLetters = Annotated[
    str, typer.Option(envvar="RECIPE_DEAD_LETTERS", help='Topic of the dead letters; --topic with ".dlq" if empty.')
]
Retriever = Annotated[str, typer.Option(envvar="RECIPE_RETRIEVER", help="Address of the retriever.")]
Generator = Annotated[str, typer.Option(envvar="RECIPE_GENERATOR", help="Address of the generator.")]
FactId = Annotated[str, typer.Argument(help="Id of the fact.")]
Namespace = Annotated[str, typer.Option(help="The base of knowledge to use.")]
Tokens = Annotated[int, typer.Option(min=0, max=2**31, help="Tokens to generate at most; 0 is the server's default.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
Wait = Annotated[bool, typer.Option("--wait", help="Return only when answers know the change.")]
Timeout = Annotated[float, typer.Option(min=0, help="Seconds that --wait waits at most, for all events together.")]


def print_json(value: object) -> None:
    """Standard output for programs."""
    print(json.dumps(value, indent=1, ensure_ascii=False))
