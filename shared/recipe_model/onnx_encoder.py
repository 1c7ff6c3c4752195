"""The text encoder's transformer on ONNX Runtime, its weights rounded to eight bits (decision 44)."""

import logging
import tempfile
from pathlib import Path
from typing import Final

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from recipe_model.onnx_graphs import OnnxGraph, export, require_alike, round_weights

logger = logging.getLogger(__name__)

_OUTPUT: Final = "last_hidden_state"
_AXES: Final = {0: "texts", 1: "tokens"}


def on_onnx_runtime(encoder: PreTrainedModel) -> nn.Module:
    """The encoder's transformer as a module with the same call and result, for inference on the CPU.

    An encoder that cannot be exported, or whose graph computes something else, stays as it is, and the log says so.
    """
    try:
        with tempfile.TemporaryDirectory(prefix="recipe-encoder-") as folder:
            graph = Path(folder) / "encoder.onnx"
            _export(encoder, graph)
            round_weights(graph)
            fast = OnnxEncoder(graph)
        _require_alike(encoder, fast)
    except (OSError, RuntimeError, ValueError) as error:  # no room for the graph, no way to export it, another result
        logger.warning("the text encoder stays on PyTorch, where queries take three times as long: %s", error)
        return encoder
    return fast


class OnnxEncoder(nn.Module):
    """An exported encoder: token ids and mask [b, t] to hidden states [b, t, h], float32. Threads may share it."""

    def __init__(self, graph: Path) -> None:
        super().__init__()
        self._graph = OnnxGraph(graph, _OUTPUT)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> BaseModelOutput:
        """As the encoder it was exported from."""
        hidden = self._graph(input_ids=input_ids, attention_mask=attention_mask)
        return BaseModelOutput(last_hidden_state=hidden)  # type: ignore[arg-type]


class _HiddenStates(nn.Module):
    """What is exported."""

    def __init__(self, encoder: PreTrainedModel) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state  # type: ignore[no-any-return]


def _export(encoder: PreTrainedModel, graph: Path) -> None:
    sample = _sample(texts=2, tokens=7)
    export(_HiddenStates(encoder), sample, _OUTPUT, dict.fromkeys((*sample, _OUTPUT), _AXES), graph)


def _require_alike(encoder: PreTrainedModel, fast: OnnxEncoder) -> None:
    """Raise ValueError unless both agree on batches of another shape than the one that was traced."""
    for texts, tokens in ((1, 4), (3, 17)):
        sample = _sample(texts, tokens)
        with torch.inference_mode():
            expected = encoder(**sample).last_hidden_state
        found = fast(**sample).last_hidden_state
        there = sample["attention_mask"].bool()
        require_alike(found[there], expected[there])


def _sample(texts: int, tokens: int) -> dict[str, Tensor]:
    """Some token ids and a mask, each text but the first shorter by one more token."""
    ids = torch.arange(texts * tokens).reshape(texts, tokens) % 50 + 3
    lengths = tokens - torch.arange(texts) % tokens
    return {"input_ids": ids, "attention_mask": (torch.arange(tokens) < lengths[:, None]).long()}
