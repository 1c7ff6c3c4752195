import io
import json
import logging
import sys
from collections.abc import Iterator

import pytest

from recipe_common.json_logging import JsonFormatter, configure_logging


def record(message: str, *args: object, **extra: object) -> logging.LogRecord:
    made = logging.getLogger("recipe").makeRecord(
        "recipe", logging.WARNING, "file.py", 1, message, args, None, extra=extra
    )
    made.created = 1_767_310_200.25
    return made


def test_fields_of_a_record() -> None:
    line = JsonFormatter("encoder").format(record("stored %d facts in %s", 2, "Köln", partition=7))
    assert "Köln" in line
    assert json.loads(line) == {
        "time": "2026-01-01T23:30:00.250+00:00",
        "level": "WARNING",
        "service": "encoder",
        "logger": "recipe",
        "message": "stored 2 facts in Köln",
        "partition": 7,
    }


def test_traceback_stays_on_one_line() -> None:
    failed = record("failed")
    error = ValueError("first\nsecond")
    failed.exc_info = (ValueError, error, error.__traceback__)
    line = JsonFormatter("encoder").format(failed)
    assert "\n" not in line
    assert json.loads(line)["traceback"] == "ValueError: first\nsecond"


def test_value_that_json_does_not_know_is_written_as_text() -> None:
    assert json.loads(JsonFormatter("encoder").format(record("x", code={1})))["code"] == "{1}"


@pytest.fixture
def root_logger() -> Iterator[logging.Logger]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    root.handlers = []
    yield root
    root.handlers, root.level = handlers, level


def test_configured_logging_writes_to_stderr_from_the_level_up(
    root_logger: logging.Logger, monkeypatch: pytest.MonkeyPatch
) -> None:
    stderr = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stderr)
    root_logger.addHandler(logging.NullHandler())
    configure_logging("retriever", "WARNING")
    logging.getLogger("any.module").info("hidden")
    logging.getLogger("any.module").warning("shown")
    [line] = stderr.getvalue().splitlines()
    assert (json.loads(line)["service"], json.loads(line)["message"]) == ("retriever", "shown")
    assert len(root_logger.handlers) == 1
