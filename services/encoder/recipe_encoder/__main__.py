"""`python -m recipe_encoder`: consume until SIGINT or SIGTERM."""

import sys
from contextlib import closing
from pathlib import Path
from threading import Event
from typing import cast

from prometheus_client import CollectorRegistry

from recipe_common.lifecycle import stop_on_signals
from recipe_common.metrics_server import start_metrics_server
from recipe_common.process import run_service
from recipe_encoder.metrics import EncoderMetrics
from recipe_encoder.settings import ENV_PREFIX, EncoderSettings
from recipe_encoder.worker import Worker
from recipe_model.editor import RecipeEditor
from recipe_store import KnowledgeStore
from recipe_store.client_store import ClientStore, open_client_store
from recipe_store.edge_store import open_edge_store


def open_store(settings: EncoderSettings, editor: RecipeEditor) -> KnowledgeStore:
    """The store that the settings name, for the vectors of this model."""
    if settings.qdrant_url is not None:
        return open_server_store(settings, editor)
    # The settings make sure that there is the one or the other.
    path = cast("Path", settings.store_path)
    return open_edge_store(path, editor.model_version, editor.vector_size, editor.prompt_width)


def open_server_store(settings: EncoderSettings, editor: RecipeEditor) -> ClientStore:
    """The store in the Qdrant server that the settings name."""
    api_key = settings.qdrant_api_key
    return open_client_store(
        cast("str", settings.qdrant_url),
        editor.model_version,
        editor.vector_size,
        editor.prompt_width,
        api_key=None if api_key is None else api_key.get_secret_value(),
        grpc_port=settings.qdrant_grpc_port,
    )


def run(settings: EncoderSettings, stop: Event) -> None:
    """Load the model, warm it up, open the store, serve metrics and readiness, and consume until `stop` is set.

    Raises RecipeError or kafka.errors.KafkaError with the reason if it cannot start or go on.
    """
    registry = CollectorRegistry()
    metrics = EncoderMetrics(registry)
    editor = RecipeEditor.load(settings.checkpoint, settings.encoder, settings.llm, device=settings.device)
    editor.encode(["The first statement takes longer."])
    with closing(open_store(settings, editor)) as store:
        worker = Worker(settings, editor, store, metrics, stop=stop)
        server = start_metrics_server(
            registry,
            host=settings.metrics_host,
            port=settings.metrics_port,
            port_setting=f"{ENV_PREFIX}METRICS_PORT",
            not_ready=worker.not_ready,
        )
        try:
            worker.run()
        finally:
            server.stop()


def main() -> int:
    """Run the service; returns its exit code."""
    return run_service("encoder", ENV_PREFIX, lambda: run(EncoderSettings(), stop_on_signals()))


if __name__ == "__main__":
    sys.exit(main())
