"""Settings out of the environment, and what is said of wrong ones."""

import pytest
from pydantic import ValidationError

from recipe_retriever.settings import RetrieverSettings

VARIABLE = "RECIPE_RETRIEVER_NAMESPACE_MIN_CONFIDENCE"


def test_no_threshold_is_set_but_in_the_checkpoint() -> None:
    settings = RetrieverSettings()
    assert (settings.min_confidence, settings.namespace_min_confidence) == (None, {})


def test_thresholds_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECIPE_RETRIEVER_MIN_CONFIDENCE", "0.75")
    monkeypatch.setenv(VARIABLE, '{"billing": 0.9, "": 1}')
    settings = RetrieverSettings()
    assert (settings.min_confidence, settings.namespace_min_confidence) == (0.75, {"billing": 0.9, "default": 1})


@pytest.mark.parametrize(
    "given", ["billing=0.9", "0.9", '{"billing": 90}', '{"billing": NaN}', '{"billing": null}', '{"a/b": 0.9}']
)
def test_wrong_thresholds_of_namespaces_are_refused_with_the_fix(monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    monkeypatch.setenv(VARIABLE, given)
    with pytest.raises(ValidationError) as raised:
        RetrieverSettings()
    (error,) = raised.value.errors()
    assert error["loc"] == ("namespace_min_confidence",)
    assert error["msg"].endswith(
        'must be a JSON object of namespaces, each with a confidence from 0 to 1, such as {"billing": 0.9}'
    )


@pytest.mark.parametrize("given", ["-0.1", "1.1", "nan", "high"])
def test_a_wrong_threshold_is_refused(monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    monkeypatch.setenv("RECIPE_RETRIEVER_MIN_CONFIDENCE", given)
    with pytest.raises(ValidationError, match="min_confidence"):
        RetrieverSettings()
