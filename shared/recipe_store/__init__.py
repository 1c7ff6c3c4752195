"""The knowledge base: facts with their vectors, token states and prompts, and the only code that talks to Qdrant.

Open one with `recipe_store.edge_store.open_edge_store` (in process) or
`recipe_store.client_store.open_client_store` (a Qdrant server, or qdrant-client's local mode).
"""

from recipe_store.errors import CorruptPromptError, CorruptTokensError, StoreUnavailableError
from recipe_store.facts import DamagedMatch, Fact, FactWrite, LogPosition, Match
from recipe_store.store import KnowledgeStore

__all__ = [
    "CorruptPromptError",
    "CorruptTokensError",
    "DamagedMatch",
    "Fact",
    "FactWrite",
    "KnowledgeStore",
    "LogPosition",
    "Match",
    "StoreUnavailableError",
]
