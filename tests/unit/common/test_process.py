"""What keeps a service from starting is one line that names the setting and never shows a secret."""

import pytest
from kafka.errors import KafkaTimeoutError

from recipe_common import process
from recipe_common.errors import UnavailableError
from recipe_common.process import run_service
from recipe_encoder.settings import ENV_PREFIX, EncoderSettings


@pytest.fixture(autouse=True)
def no_logging(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "configure_logging", lambda _: None)


def test_a_run_without_errors_ends_with_0(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_service("encoder", ENV_PREFIX, lambda: None) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("variables", "line"),
    [
        (
            {"QDRANT_API_KEY": "topsecret", "STORE_PATH": "kb"},
            "RECIPE_ENCODER_QDRANT_API_KEY needs RECIPE_ENCODER_QDRANT_URL; set both or none",
        ),
        (
            {"BATCH_SIZE": "0", "STORE_PATH": "kb"},
            "RECIPE_ENCODER_BATCH_SIZE: Input should be greater than or equal to 1",
        ),
        (
            {"KAFKA_BOOTSTRAP_SERVERS": "foo:bar", "STORE_PATH": "kb"},
            "RECIPE_ENCODER_KAFKA_BOOTSTRAP_SERVERS: String should match pattern '^\\S+:\\d+(,\\S+:\\d+)*$'",
        ),
    ],
)
def test_a_wrong_setting_is_named_and_its_value_is_not_shown(
    variables: dict[str, str], line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(ENV_PREFIX + name, value)
    assert run_service("encoder", ENV_PREFIX, lambda: print(EncoderSettings())) == 1
    assert capsys.readouterr().err == f"recipe_encoder: {line}\n"


@pytest.mark.parametrize(
    ("error", "line"),
    [(UnavailableError("no\nbroker"), "no broker"), (KafkaTimeoutError(), "KafkaTimeoutError")],
)
def test_an_error_is_one_line(error: Exception, line: str, capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        raise error

    assert run_service("encoder", ENV_PREFIX, fail) == 1
    assert line in capsys.readouterr().err.splitlines()[0]
