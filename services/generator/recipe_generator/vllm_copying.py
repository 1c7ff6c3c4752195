"""Help for edited texts to state their answer (decision 42), inside vLLM's processes: each imports this by its name."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from torch import Tensor
from vllm import SamplingParams
from vllm.v1.sample.logits_processor import AdapterLogitsProcessor, RequestLogitsProcessor

from recipe_model.copying import Copying

PROCESSOR: Final = f"{__name__}:CopyingLogitsProcessor"  # as vLLM is told of it
_ARGUMENT: Final = "recipe_copying"


def copying_argument(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """`extra_args` for the sampling of one text, from the arguments of its Copying."""
    return {_ARGUMENT: dict(arguments)}


class CopyingLogitsProcessor(AdapterLogitsProcessor):  # type: ignore[misc]  # vLLM is not where types are checked
    """Gives each text that brought arguments its own Copying."""

    def is_argmax_invariant(self) -> bool:
        """It may change which token is the likeliest."""
        return False

    def new_req_logits_processor(self, params: SamplingParams) -> RequestLogitsProcessor | None:
        """For one text; None leaves it alone."""
        arguments = (params.extra_args or {}).get(_ARGUMENT)
        return None if arguments is None else _Following(Copying(**arguments))


class _Following:
    """Called with all tokens of a text so far, for the logits [v] of the next one."""

    def __init__(self, copying: Copying) -> None:
        self._copying = copying
        self._followed = 0

    def __call__(self, output_ids: Sequence[int], logits: Tensor) -> Tensor:
        for token in output_ids[self._followed :]:
            self._copying.follow(token)
        self._followed = len(output_ids)
        return self._copying.help(logits)
