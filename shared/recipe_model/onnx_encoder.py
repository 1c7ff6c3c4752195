"""The text encoder's transformer on ONNX Runtime: PyTorch's float32 numbers in half of the time on a CPU."""

import logging
import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

if TYPE_CHECKING:
    import onnxruntime

logger = logging.getLogger(__name__)

OPSET: Final = 17
# Of the largest hidden value: float32 rounds at 1e-7, and six to twelve layers of other orders of summing add up.
TOLERANCE: Final = 1e-4
_INPUTS: Final = ("input_ids", "attention_mask")
_OUTPUT: Final = "last_hidden_state"


def on_onnx_runtime(encoder: PreTrainedModel) -> nn.Module:
    """The encoder's transformer as a module with the same call and result, for inference on the CPU.

    An encoder that cannot be exported, or whose graph computes something else, stays as it is, and the log says so.
    """
    try:
        with tempfile.TemporaryDirectory(prefix="recipe-encoder-") as folder:
            graph = Path(folder) / "encoder.onnx"
            _export(encoder, graph)
            fast = OnnxEncoder(graph)
        _require_same(encoder, fast)
    except (OSError, RuntimeError, ValueError) as error:  # no room for the graph, no way to export it, another result
        logger.warning("the text encoder stays on PyTorch, where queries take twice as long: %s", error)
        return encoder
    return fast


class OnnxEncoder(nn.Module):
    """An exported encoder: token ids and mask [b, t] to hidden states [b, t, h], float32. Threads may share it."""

    def __init__(self, graph: Path) -> None:
        super().__init__()
        self._session = _session(graph)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> BaseModelOutput:
        """As the encoder it was exported from."""
        given = dict(zip(_INPUTS, (input_ids.numpy(), attention_mask.numpy()), strict=True))
        (hidden,) = self._session.run([_OUTPUT], given)
        return BaseModelOutput(last_hidden_state=torch.from_numpy(hidden))  # type: ignore[arg-type]


class _HiddenStates(nn.Module):
    """What is exported."""

    def __init__(self, encoder: PreTrainedModel) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state  # type: ignore[no-any-return]


def _session(graph: Path) -> "onnxruntime.InferenceSession":
    import onnxruntime  # noqa: PLC0415 (only services that encode texts have it)

    options = onnxruntime.SessionOptions()
    # Threads that spin while they wait take the processor from the store and from each other.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])


def _export(encoder: PreTrainedModel, graph: Path) -> None:
    axes = {name: {0: "texts", 1: "tokens"} for name in (*_INPUTS, _OUTPUT)}
    with warnings.catch_warnings(), torch.inference_mode():
        # Of tracing: shapes that become constants would be noticed by `_require_same`.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            _HiddenStates(encoder).eval(),
            _sample(texts=2, tokens=7),
            graph,
            input_names=list(_INPUTS),
            output_names=[_OUTPUT],
            dynamic_axes=axes,
            opset_version=OPSET,
            dynamo=False,
        )


def _require_same(encoder: PreTrainedModel, fast: OnnxEncoder) -> None:
    """Raise ValueError unless both agree on batches of another shape than the one that was traced."""
    for texts, tokens in ((1, 4), (3, 17)):
        ids, mask = _sample(texts, tokens)
        with torch.inference_mode():
            expected = encoder(input_ids=ids, attention_mask=mask).last_hidden_state
        found = fast(ids, mask).last_hidden_state
        if found is None or found.shape != expected.shape:
            raise ValueError("the exported graph gives another shape")
        difference = float((found - expected)[mask.bool()].abs().max())
        if not difference <= TOLERANCE * float(expected.abs().max()):
            raise ValueError(f"the exported graph gives hidden states that differ by {difference:.2g}")


def _sample(texts: int, tokens: int) -> tuple[Tensor, Tensor]:
    """Some token ids and a mask, each text but the first shorter by one more token."""
    ids = torch.arange(texts * tokens).reshape(texts, tokens) % 50 + 3
    lengths = tokens - torch.arange(texts) % tokens
    return ids, (torch.arange(tokens) < lengths[:, None]).long()
