"""`python -m recipe_generator`: serve until SIGINT or SIGTERM."""

import asyncio
import sys

from pydantic import ValidationError

from recipe_common.errors import RecipeError
from recipe_common.json_logging import configure_logging
from recipe_common.lifecycle import stop_event
from recipe_generator.server import GeneratorServer, load_engine
from recipe_generator.settings import GeneratorSettings


async def serve(settings: GeneratorSettings) -> None:
    """Load, serve, and drain when a stop signal comes."""
    stop = stop_event()
    server = GeneratorServer(settings, *load_engine(settings))
    try:
        await server.start()
        await stop.wait()
    finally:
        await server.stop()


def main() -> int:
    """Run the service; a configuration or start error is one line on stderr and exit code 1."""
    configure_logging("generator")
    try:
        asyncio.run(serve(GeneratorSettings()))
    except (RecipeError, ValidationError) as error:
        print(f"recipe_generator: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
