"""`python -m recipe_generator`: serve until SIGINT or SIGTERM."""

import asyncio
import sys

from recipe_common.lifecycle import stop_event, unless_stopped
from recipe_common.process import run_service
from recipe_generator.server import GeneratorServer, load_engine
from recipe_generator.settings import ENV_PREFIX, GeneratorSettings


async def serve(settings: GeneratorSettings) -> None:
    """Load, serve, and drain when a stop signal comes."""
    stop = stop_event()
    loaded = await unless_stopped(stop, lambda: load_engine(settings))
    if loaded is None:
        return
    server = GeneratorServer(settings, *loaded)
    try:
        await server.start()
        await stop.wait()
    finally:
        await server.stop()


def main() -> int:
    """Run the service; returns its exit code."""
    return run_service("generator", ENV_PREFIX, lambda: asyncio.run(serve(GeneratorSettings())))


if __name__ == "__main__":
    sys.exit(main())
