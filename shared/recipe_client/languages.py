"""A warning for publishers whose facts the default models can hardly read."""

import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any, Final

_FOREIGN_SHARE: Final = 0.5  # of letters in other scripts than the Latin one
_NAMED: Final = 3  # facts in a warning


def mostly_foreign(text: str) -> bool:
    """Whether most letters of a text are of another script than the Latin one, which English is written in."""
    letters = [character for character in text if character.isalpha()]
    foreign = sum(not unicodedata.name(letter, "").startswith(("LATIN", "FULLWIDTH LATIN")) for letter in letters)
    return foreign > _FOREIGN_SHARE * len(letters)


def language_warning(events: Sequence[Mapping[str, Any]]) -> str | None:
    """What to tell whoever publishes these knowledge updates (proto3 JSON form), None if nothing."""
    foreign = [event for event in events if mostly_foreign(_text(event.get("upsert") or {}))]
    if not foreign:
        return None
    ids = ", ".join(str(event.get("fact_id") or event.get("factId")) for event in foreign[:_NAMED])
    more = f" and {len(foreign) - _NAMED} more" if len(foreign) > _NAMED else ""
    return (
        f"warning: most letters of {ids}{more} are not Latin; the default text encoder and LLM know English; "
        f"the {'fact is' if len(foreign) == 1 else 'facts are'} stored, but questions may not find "
        f"{'it' if len(foreign) == 1 else 'them'}"
    )


def _text(upsert: Mapping[str, Any]) -> str:
    return " ".join(str(upsert.get(name) or "") for name in ("statement", "prompt", "answer"))
