"""`python -m recipe_retriever`: serve until SIGINT or SIGTERM."""

import asyncio
import sys

from recipe_common.lifecycle import stop_event, unless_stopped
from recipe_common.process import run_service
from recipe_model.editor import QueryEncoder
from recipe_retriever.server import RetrieverServer
from recipe_retriever.settings import ENV_PREFIX, RetrieverSettings
from recipe_store.client_store import open_client_store


async def serve(settings: RetrieverSettings) -> None:
    """Load, serve, and drain when a stop signal comes."""
    stop = stop_event()
    editor = await unless_stopped(
        stop, lambda: QueryEncoder.load(settings.checkpoint, settings.encoder, device=settings.device)
    )
    if editor is None:
        return
    api_key = settings.qdrant_api_key
    store = open_client_store(
        settings.qdrant_url,
        editor.model_version,
        editor.vector_size,
        editor.prompt_width,
        api_key=None if api_key is None else api_key.get_secret_value(),
        grpc_port=settings.qdrant_grpc_port,
        must_be_live=True,
    )
    server = RetrieverServer(settings, editor, store)
    try:
        await server.start()
        await stop.wait()
    finally:
        await server.stop()
        store.close()


def main() -> int:
    """Run the service; returns its exit code."""
    return run_service("retriever", ENV_PREFIX, lambda: asyncio.run(serve(RetrieverSettings())))


if __name__ == "__main__":
    sys.exit(main())
