"""A fact told in words, where its continuous prompt did not make the LLM say it."""

from dataclasses import replace

from recipe_common.knowledge_text import sentence
from recipe_generator.engine import Text, Turn


def told_first(statement: str, text: Text) -> Text:
    """The text with the statement in front, the conversation with it in its system message."""
    told = sentence(statement)
    if isinstance(text, str):
        return f"{told}\n{text}"
    first, *others = text
    if first.role == "system":
        return (replace(first, content=f"{first.content}\n{told}"), *others)
    return (Turn("system", told), *text)
