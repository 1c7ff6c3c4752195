"""The exported text encoder says what PyTorch's says."""

import logging

import pytest
import torch
from transformers import PreTrainedModel

from recipe_model import onnx_encoder
from recipe_model.onnx_encoder import OnnxEncoder, on_onnx_runtime
from tiny_models import make_bert, make_roberta


@pytest.mark.parametrize("encoder", [make_bert(), make_roberta()], ids=["bert", "roberta"])
def test_hidden_states_are_those_of_pytorch_whatever_the_shape(encoder: PreTrainedModel) -> None:
    fast = on_onnx_runtime(encoder)
    assert isinstance(fast, OnnxEncoder)
    for texts, tokens in ((1, 2), (5, 40), (2, 128)):
        ids = torch.randint(3, 200, (texts, tokens))
        mask = (torch.arange(tokens) < torch.randint(1, tokens + 1, (texts, 1))).long()
        with torch.inference_mode():
            expected = encoder(input_ids=ids, attention_mask=mask).last_hidden_state[mask.bool()]
        found = fast(ids, mask).last_hidden_state
        assert found is not None
        torch.testing.assert_close(found[mask.bool()], expected, rtol=1e-4, atol=1e-5)


def test_a_graph_that_computes_something_else_is_not_used(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    encoder = make_bert()
    other = make_bert(seed=1)
    export = onnx_encoder._export
    monkeypatch.setattr(onnx_encoder, "_export", lambda _, graph: export(other, graph))
    with caplog.at_level(logging.WARNING):
        assert on_onnx_runtime(encoder) is encoder
    assert "the text encoder stays on PyTorch" in caplog.text
    assert "numbers that differ by" in caplog.text


def test_an_encoder_that_cannot_be_exported_stays_as_it_is(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("no such operator")

    monkeypatch.setattr(onnx_encoder, "_export", fail)
    encoder = make_bert()
    assert on_onnx_runtime(encoder) is encoder
    assert "no such operator" in caplog.text


def test_a_graph_that_the_runtime_cannot_read_is_not_used(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(onnx_encoder, "_export", lambda _, graph: graph.write_bytes(b"no graph"))
    encoder = make_bert()
    assert on_onnx_runtime(encoder) is encoder
    assert "ONNX Runtime" in caplog.text
