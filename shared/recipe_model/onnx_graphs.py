"""Networks on ONNX Runtime: PyTorch's numbers in half of the time on a CPU, or nearly them in a third."""

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

if TYPE_CHECKING:
    import onnxruntime
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

OPSET: Final = 17
# Of the largest value: float32 rounds at 1e-7, and six to twelve layers of other orders of summing add up.
TOLERANCE: Final = 1e-4
LEAST_COSINE: Final = 0.95  # of a rounded graph's results; 0.998 is usual, 0.99 of very small networks
BLOCK: Final = 128  # weights that share a scale; more or fewer were no faster

_IN_WHOLE_NUMBERS: Final = 4  # how ONNX Runtime calls multiplying by eight bits, not only keeping them

Axes = Mapping[int, str]  # names of the dimensions that vary


class OnnxGraph:
    """A network's graph with one output, named tensors in and a tensor out. Threads may share it."""

    def __init__(self, graph: Path, output: str, threads: int = 0) -> None:
        """`threads` is how many cores one call may use; 0 stands for all.

        Raises RuntimeError for a graph that ONNX Runtime cannot run.
        """
        with _as_runtime_error():
            self._session = _session(graph, threads)
        self._output = output

    def __call__(self, **given: Tensor) -> Tensor:
        """Run it. Raises RuntimeError."""
        with _as_runtime_error():
            (found,) = self._session.run([self._output], {name: value.numpy() for name, value in given.items()})
        return torch.from_numpy(found)


@contextmanager
def _as_runtime_error() -> Iterator[None]:
    try:
        yield
    except Exception as error:  # those of ONNX Runtime have no other base
        raise RuntimeError(f"ONNX Runtime: {error}") from error


def _session(graph: Path, threads: int) -> "onnxruntime.InferenceSession":
    import onnxruntime  # noqa: PLC0415 (only services that encode texts have it)

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    # Threads that spin while they wait take the processor from the store and from each other.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])


def export(
    network: nn.Module, sample: Mapping[str, Tensor], output: str, axes: Mapping[str, Axes], graph: Path
) -> None:
    """Write a network's graph, traced with a sample of its inputs in the order of its arguments.

    Raises OSError or RuntimeError where there is no room for it, or no way to export it.
    """
    with warnings.catch_warnings(), torch.inference_mode():
        # Of tracing: shapes that become constants are noticed by `require_same`.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network.eval(),
            tuple(sample.values()),
            graph,
            input_names=list(sample),
            output_names=[output],
            dynamic_axes={name: dict(each) for name, each in axes.items()},
            opset_version=OPSET,
            dynamo=False,
        )


def round_weights(graph: Path) -> None:
    """Round a graph's matrices to eight bits, each BLOCK of numbers by its own scale.

    What they are multiplied with is rounded likewise, row by row: the result of a row does not depend on the others.
    Raises RuntimeError where a matrix cannot be rounded.
    """
    import onnx  # noqa: PLC0415 (as above)

    with _as_runtime_error():
        quantizer = _quantizer()(
            onnx.load(graph), bits=8, block_size=BLOCK, is_symmetric=True, accuracy_level=_IN_WHOLE_NUMBERS
        )
        quantizer.process()
        onnx.save(quantizer.model.model, graph)


def _quantizer() -> "type[MatMulNBitsQuantizer]":
    """ONNX Runtime's, whose module would set up this process's logging when it is imported, and tell every step."""
    logging.getLogger("onnxruntime.quantization").setLevel(logging.WARNING)
    taken = logging.NullHandler()
    logging.getLogger().addHandler(taken)
    try:
        from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer  # noqa: PLC0415 (as above)
    finally:
        logging.getLogger().removeHandler(taken)
    return MatMulNBitsQuantizer  # type: ignore[no-any-return]


def require_alike(found: Tensor, expected: Tensor) -> None:
    """Raise ValueError unless each row [n, h] of a rounded graph's result points where the network's does."""
    if found.shape != expected.shape:
        raise ValueError("the exported graph gives another shape")
    worst = float(cosine_similarity(found, expected, dim=-1).min())
    if not worst >= LEAST_COSINE:
        raise ValueError(
            f"the exported graph gives vectors of which one has a cosine of {worst:.3f} with the network's"
        )


def require_same(found: Tensor, expected: Tensor) -> None:
    """Raise ValueError unless a graph's result is the network's."""
    if found.shape != expected.shape:
        raise ValueError("the exported graph gives another shape")
    difference = float((found - expected).abs().max())
    if not difference <= TOLERANCE * max(1.0, float(expected.abs().max())):
        raise ValueError(f"the exported graph gives numbers that differ by {difference:.2g}")
