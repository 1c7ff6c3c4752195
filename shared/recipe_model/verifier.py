"""The second step of a decision at inference: how much more a fact says to a question than the knowledge sentinel."""

import logging
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from recipe_common.token_states import TokenStates
from recipe_model.onnx_graphs import OnnxGraph, export, require_same
from recipe_model.verifier_network import VerifierNetwork

logger = logging.getLogger(__name__)

Float32 = npt.NDArray[np.float32]
Margins = Callable[..., Tensor]  # named tensors, see _sample, to margins [k]

_OUTPUT: Final = "margins"
_QUESTION: Final = {1: "query_tokens"}
_FACTS: Final = {0: "facts", 1: "fact_tokens"}
_AXES: Final = {
    "q_states": _QUESTION,
    "q_ids": _QUESTION,
    "k_states": _FACTS,
    "k_ids": _FACTS,
    "k_roles": _FACTS,
    "k_mask": _FACTS,
    _OUTPUT: {0: "facts"},
}


class VerifierError(Exception):
    """The network failed, or its numbers are none: nothing can be said of a question's facts."""


class Verifier:
    """The verifier network, ready for questions; threads may share it."""

    def __init__(self, network: VerifierNetwork) -> None:
        """On the device where the network's parameters are."""
        self._device = network.sentinel.device
        self._margins: Margins = network.margins

    @classmethod
    def load(cls, network: VerifierNetwork) -> "Verifier":
        """On ONNX Runtime if the network is on the CPU and can be exported; if it cannot, the log says so."""
        verifier = cls(network)
        if network.sentinel.device.type == "cpu":
            verifier._margins = _on_onnx_runtime(network)
        return verifier

    def margins(self, query: TokenStates, facts: Sequence[TokenStates]) -> Float32:
        """s(q, k_j) - s(q, Theta) [k], unitless; above 0 a fact says more to the question than the sentinel does.

        Raises VerifierError.
        """
        if not facts:
            return np.zeros(0, np.float32)
        try:
            found = self._compared(query, facts).cpu().numpy()
        except (RuntimeError, ValueError, IndexError, MemoryError) as error:  # of either runtime; what does not fit
            raise VerifierError(f"the verifier cannot compare {len(facts)} facts: {error}") from error
        if not np.isfinite(found).all():
            raise VerifierError(f"the verifier gives numbers that are not finite: {found.tolist()}")
        return found

    @torch.inference_mode()
    def _compared(self, query: TokenStates, facts: Sequence[TokenStates]) -> Tensor:
        given = {**_question(query), **_facts(facts)}
        return self._margins(**{name: value.to(self._device) for name, value in given.items()})


def _question(query: TokenStates) -> dict[str, Tensor]:
    return {
        "q_states": torch.from_numpy(query.states.astype(np.float32)).unsqueeze(0),
        "q_ids": torch.from_numpy(query.ids.astype(np.int64)).unsqueeze(0),
    }


def _facts(facts: Sequence[TokenStates]) -> dict[str, Tensor]:
    """One batch, padded with zeros."""
    longest = max(len(fact.ids) for fact in facts)
    states = np.zeros((len(facts), longest, facts[0].states.shape[1]), np.float32)
    ids, roles = np.zeros((2, len(facts), longest), np.int64)
    mask = np.zeros((len(facts), longest), np.bool_)
    for row, fact in enumerate(facts):
        count = len(fact.ids)
        states[row, :count], ids[row, :count], roles[row, :count] = fact.states, fact.ids, fact.roles
        mask[row, :count] = True
    named = {"k_states": states, "k_ids": ids, "k_roles": roles, "k_mask": mask}
    return {name: torch.from_numpy(value) for name, value in named.items()}


def _on_onnx_runtime(network: VerifierNetwork) -> Margins:
    try:
        with tempfile.TemporaryDirectory(prefix="recipe-verifier-") as folder:
            graph = Path(folder) / "verifier.onnx"
            _export(network, graph)
            fast = OnnxGraph(graph, _OUTPUT, threads=1)  # so little that sharing it out costs more than it saves
        _require_same(network, fast)
    except (OSError, RuntimeError, ValueError) as error:  # no room for the graph, no way to export it, another result
        logger.warning("the verifier stays on PyTorch, where decisions take longer: %s", error)
        return network.margins
    return fast


class _Margins(nn.Module):
    """What is exported."""

    def __init__(self, network: VerifierNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(
        self, q_states: Tensor, q_ids: Tensor, k_states: Tensor, k_ids: Tensor, k_roles: Tensor, k_mask: Tensor
    ) -> Tensor:
        return self.network.margins(q_states, q_ids, k_states, k_ids, k_roles, k_mask)


def _export(network: VerifierNetwork, graph: Path) -> None:
    export(_Margins(network), _sample(network, facts=3, tokens=7), _OUTPUT, _AXES, graph)


def _require_same(network: VerifierNetwork, fast: OnnxGraph) -> None:
    """Raise ValueError unless both agree on batches of another shape than the one that was traced."""
    for facts, tokens in ((1, 4), (8, 19)):
        sample = _sample(network, facts, tokens)
        with torch.inference_mode():
            require_same(fast(**sample), network.margins(**sample))


def _sample(network: VerifierNetwork, facts: int, tokens: int) -> dict[str, Tensor]:
    """A question and some facts, each but the first shorter by one more token, of all roles."""
    draw = torch.Generator().manual_seed(facts)
    hidden = network.sentinel.shape[1]
    ids = torch.arange(facts * tokens).reshape(facts, tokens) % 11
    lengths = tokens - torch.arange(facts) % (tokens - 1)
    return {
        "q_states": torch.randn(1, tokens + 2, hidden, generator=draw),
        "q_ids": torch.arange(tokens + 2).unsqueeze(0),
        "k_states": torch.randn(facts, tokens, hidden, generator=draw),
        "k_ids": ids,
        "k_roles": (torch.arange(tokens) * 3 // tokens).expand(facts, tokens).contiguous(),
        "k_mask": torch.arange(tokens) < lengths[:, None],
    }
