"""Commands for those who operate the knowledge base in a Qdrant server."""

from contextlib import closing
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from recipe_client.options import Json, print_json
from recipe_common.command_line import result_console
from recipe_common.errors import FieldViolation, InvalidArgumentError

if TYPE_CHECKING:
    from recipe_client.rebuild import Rebuilt
    from recipe_encoder.settings import EncoderSettings


def rebuild(
    back_to: Annotated[
        str, typer.Option(help="Build nothing; make this collection, one that was replaced, the live one again.")
    ] = "",
    as_json: Json = False,
) -> None:
    """Build the knowledge base anew from the log, beside the live one, and switch to it; also after a new checkpoint.

    Broker, topic, checkpoint and Qdrant server are those of the encoder's environment (RECIPE_ENCODER_...).
    """
    from recipe_encoder.settings import ENV_PREFIX, EncoderSettings  # noqa: PLC0415 (--help need not wait)

    settings = EncoderSettings()
    if settings.qdrant_url is None:
        only = "must name the Qdrant server; an embedded base is built from the log whenever it starts"
        raise InvalidArgumentError([FieldViolation(f"{ENV_PREFIX}QDRANT_URL", only)])
    if back_to:
        version = _go_back(settings.qdrant_url, settings, back_to)
        result_console().print(f"{back_to} is live, encoded by {version}: run encoder and retriever with that one")
        return
    rebuilt = _rebuild(settings)
    if as_json:
        print_json(asdict(rebuilt))
    else:
        result_console().print(
            f"{rebuilt.collection} is live: {rebuilt.facts} facts from {rebuilt.events} events in "
            f"{rebuilt.seconds:.0f} s, {rebuilt.refused} records refused; go back with --back-to {rebuilt.replaced}"
        )


def _rebuild(settings: "EncoderSettings") -> "Rebuilt":
    from recipe_client.rebuild import Rebuild  # noqa: PLC0415 (torch takes seconds; --help need not wait)
    from recipe_encoder.__main__ import open_server_store  # noqa: PLC0415
    from recipe_model.editor import RecipeEditor  # noqa: PLC0415

    editor = RecipeEditor.load(settings.checkpoint, settings.encoder, settings.llm, device=settings.device)
    with closing(open_server_store(settings, editor)) as store:
        return Rebuild(settings.kafka_bootstrap_servers, settings.topic, editor, store).run()


def _go_back(url: str, settings: "EncoderSettings", collection: str) -> str:
    from recipe_store.client_store import connect, go_back_to  # noqa: PLC0415 (--help need not wait)

    api_key = settings.qdrant_api_key
    key = None if api_key is None else api_key.get_secret_value()
    with closing(connect(url, api_key=key, grpc_port=settings.qdrant_grpc_port)) as client:
        return go_back_to(client, collection)
