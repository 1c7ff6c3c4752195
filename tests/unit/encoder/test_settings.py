"""The encoder's settings: defaults, environment, and the conflicts it refuses."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from recipe_encoder.settings import EncoderSettings

ONE_STORE = "set exactly one of RECIPE_ENCODER_STORE_PATH (embedded) and RECIPE_ENCODER_QDRANT_URL (server)"


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("STORE_PATH", "QDRANT_URL", "QDRANT_API_KEY", "TOPIC", "DEAD_LETTER_TOPIC"):
        monkeypatch.delenv(f"RECIPE_ENCODER_{name}", raising=False)


def test_the_dead_letter_topic_follows_the_topic_unless_it_is_given() -> None:
    assert EncoderSettings(store_path=Path("kb")).dead_letters == "recipe.knowledge-updates.v1.dlq"
    assert EncoderSettings(store_path=Path("kb"), topic="t").dead_letters == "t.dlq"
    assert EncoderSettings(store_path=Path("kb"), dead_letter_topic="other").dead_letters == "other"


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECIPE_ENCODER_QDRANT_URL", "http://qdrant:6333")
    monkeypatch.setenv("RECIPE_ENCODER_QDRANT_API_KEY", "secret")
    monkeypatch.setenv("RECIPE_ENCODER_ASSIGNMENT", "manual")
    settings = EncoderSettings()
    assert (settings.qdrant_url, settings.assignment) == ("http://qdrant:6333", "manual")
    assert "secret" not in repr(settings)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {},
            "set exactly one of RECIPE_ENCODER_STORE_PATH (embedded) and RECIPE_ENCODER_QDRANT_URL (server)",
        ),
        (
            {"store_path": "kb", "qdrant_url": "http://q:6333"},
            "set exactly one of RECIPE_ENCODER_STORE_PATH (embedded) and RECIPE_ENCODER_QDRANT_URL (server)",
        ),
        (
            {"store_path": "kb", "qdrant_api_key": "k"},
            "RECIPE_ENCODER_QDRANT_API_KEY needs RECIPE_ENCODER_QDRANT_URL; set both or none",
        ),
        ({"qdrant_url": "qdrant:6334"}, "String should match pattern '^https?://'"),
        (
            {"store_path": "kb", "topic": "t", "dead_letter_topic": "t"},
            "RECIPE_ENCODER_DEAD_LETTER_TOPIC must differ from RECIPE_ENCODER_TOPIC",
        ),
        (
            {"store_path": "kb", "retry_initial_seconds": 2, "retry_max_seconds": 1},
            "RECIPE_ENCODER_RETRY_INITIAL_SECONDS must not exceed RECIPE_ENCODER_RETRY_MAX_SECONDS",
        ),
        (
            {"store_path": "kb", "assignment": "manual", "group_instance_id": "encoder-0"},
            "RECIPE_ENCODER_GROUP_INSTANCE_ID needs RECIPE_ENCODER_ASSIGNMENT=group",
        ),
        ({"store_path": "kb", "group_instance_id": "encoder 0"}, "String should match pattern"),
        ({"store_path": "kb", "dead_letter_max_share": 1.1}, "less than or equal to 1"),
        ({"store_path": "kb", "batch_size": 0}, "greater than or equal to 1"),
        ({"store_path": "kb", "assignment": "both"}, "Input should be 'group' or 'manual'"),
    ],
)
def test_conflicts_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        EncoderSettings(**values)
    assert message in str(caught.value)
