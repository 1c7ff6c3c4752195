"""The typed Python client and the `recipe` command."""

from recipe_client.client import RecipeClient
from recipe_client.publishing import PublishedEvent, Publisher

__all__ = ["PublishedEvent", "Publisher", "RecipeClient"]
