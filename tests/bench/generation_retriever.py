"""The retriever behind the generators that are compared: `python -m bench.generation_retriever FACTS`."""

import asyncio
import json
import sys
import tempfile
from contextlib import closing
from pathlib import Path

from bench.base_of_facts import encode, write
from recipe_model.editor import RecipeEditor
from recipe_retriever.server import RetrieverServer
from recipe_retriever.settings import RetrieverSettings
from recipe_store.edge_store import open_edge_store


async def serve(facts: int) -> None:
    """Serve until the input ends."""
    editor = RecipeEditor.load()
    with (
        tempfile.TemporaryDirectory(prefix="recipe-bench-") as folder,
        closing(open_edge_store(Path(folder), editor.model_version, editor.vector_size, editor.prompt_width)) as store,
    ):
        encoded = encode(editor, facts)
        write(store, encoded, encoded.vectors_of(facts))
        server = RetrieverServer(RetrieverSettings(port=0, metrics_port=0), editor, store)
        try:
            print(json.dumps({"port": await server.start()}), flush=True)
            await asyncio.to_thread(sys.stdin.read)
        finally:
            await server.stop()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1])))
