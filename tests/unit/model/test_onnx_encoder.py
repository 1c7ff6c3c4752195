"""The exported text encoder says what PyTorch's says."""

import logging
import subprocess
import sys

import pytest
import torch
from torch.nn.functional import cosine_similarity
from transformers import PreTrainedModel

from recipe_model import onnx_encoder
from recipe_model.onnx_encoder import OnnxEncoder, on_onnx_runtime
from tiny_models import make_bert, make_roberta

ENCODERS = pytest.mark.parametrize("encoder", [make_bert(), make_roberta()], ids=["bert", "roberta"])


@ENCODERS
def test_hidden_states_point_where_pytorchs_do_whatever_the_shape(encoder: PreTrainedModel) -> None:
    fast = on_onnx_runtime(encoder)
    assert isinstance(fast, OnnxEncoder)
    for texts, tokens in ((1, 2), (5, 40), (2, 128)):
        ids = torch.randint(3, 200, (texts, tokens))
        mask = (torch.arange(tokens) < torch.randint(1, tokens + 1, (texts, 1))).long()
        with torch.inference_mode():
            expected = encoder(input_ids=ids, attention_mask=mask).last_hidden_state[mask.bool()]
        found = fast(ids, mask).last_hidden_state
        assert found is not None
        assert cosine_similarity(found[mask.bool()], expected, dim=-1).min() > 0.98


@ENCODERS
def test_a_texts_states_do_not_depend_on_what_is_encoded_beside_it(encoder: PreTrainedModel) -> None:
    fast = on_onnx_runtime(encoder)
    ids, mask = torch.randint(3, 200, (6, 12)), torch.ones(6, 12, dtype=torch.long)
    together = fast(ids, mask).last_hidden_state
    for row in range(6):
        alone = fast(ids[row : row + 1], mask[:1]).last_hidden_state
        torch.testing.assert_close(alone[0], together[row], rtol=1e-5, atol=1e-5)


def test_rounding_leaves_the_logging_of_the_process_alone() -> None:
    code = (
        "import logging, sys; sys.path[:0] = ['tests']\n"
        "from tiny_models import make_bert\n"
        "from recipe_model.onnx_encoder import OnnxEncoder, on_onnx_runtime\n"
        "assert isinstance(on_onnx_runtime(make_bert()), OnnxEncoder)\n"
        "assert not logging.getLogger().handlers\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert "quantiz" not in done.stderr


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
    assert "has a cosine of" in caplog.text


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
