"""RECIPE checkpoints: one safetensors file that says what it is and what it fits, and is refused elsewhere.

The header carries the configuration as JSON (models, sizes, how it was trained) and the model version: a hash
of configuration and tensors, so two checkpoints share a version exactly when they are the same model.
"""

import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from recipe_model.errors import CheckpointError
from recipe_model.identity import ModelIdentity, fingerprint
from recipe_model.networks import RecipeModel, RecipeSizes
from recipe_model.pretrained import TextEncoder, WordEmbeddings

FORMAT = "recipe-checkpoint/7"
DEFAULT_CHECKPOINT = (
    Path(__file__).parent / "checkpoints" / "smollm2-135m-instruct--all-minilm-l6-v2" / "recipe.safetensors"
)


@dataclass(frozen=True, slots=True)
class CheckpointConfig:
    """What a checkpoint was trained for."""

    encoder: ModelIdentity
    llm: ModelIdentity
    sizes: RecipeSizes
    training: Mapping[str, Any] = field(default_factory=dict)  # options and data of the run that made it

    def to_json(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> "CheckpointConfig":
        raw = json.loads(text)
        return cls(
            encoder=ModelIdentity(**raw["encoder"]),
            llm=ModelIdentity(**raw["llm"]),
            sizes=RecipeSizes(**raw["sizes"]),
            training=raw["training"],
        )


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A verified checkpoint, not yet joined to its models."""

    path: Path
    config: CheckpointConfig
    model_version: str
    tensors: Mapping[str, Tensor]

    def require_llm(self, identity: ModelIdentity) -> None:
        """Raise CheckpointError, with the reason, unless it was trained for this LLM."""
        _require(self, "LLM", self.config.llm, identity)

    def require_words(self, words: WordEmbeddings) -> None:
        """Raise CheckpointError, with the reason, unless the words are those of its LLM."""
        if fingerprint(words.table) != self.config.llm.embeddings_sha256:
            raise CheckpointError(
                f"checkpoint: {self.path.name} ({self.model_version}) was trained for the LLM "
                f"{self.config.llm.model_id}; the word embeddings that were read are of another"
            )

    def require_encoder(self, identity: ModelIdentity) -> None:
        """Raise CheckpointError, with the reason, unless it was trained for this text encoder."""
        _require(self, "text encoder", self.config.encoder, identity)


def save_checkpoint(path: Path, model: RecipeModel, config: CheckpointConfig) -> str:
    """Write the trained tensors, matrices in half precision, atomically; returns the model version."""
    tensors = {name: _stored(value) for name, value in trained_tensors(model).items()}
    text = config.to_json()
    version = _version(text, tensors)
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_suffix(".partial")
    # Not `save_file`: that makes the file readable for its owner alone, and services run as other users.
    scratch.write_bytes(save(tensors, {"format": FORMAT, "config": text, "model_version": version}))
    scratch.replace(path)
    return version


def read_checkpoint(path: Path | None = None) -> Checkpoint:
    """Read and verify a checkpoint (default: the shipped one). Raises CheckpointError with the reason."""
    path = path or DEFAULT_CHECKPOINT
    if not path.is_file():
        raise CheckpointError(f"checkpoint: there is no file {path}; train one with 'recipe train' or correct the path")
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"checkpoint: {path} is not a readable safetensors file: {error}") from error
    if header.get("format") != FORMAT:
        raise CheckpointError(
            f"checkpoint: {path} has format {header.get('format')!r}, this release reads {FORMAT!r}; "
            "train it again with 'recipe train'"
        )
    config, claimed = header.get("config", ""), header.get("model_version")
    if (version := _version(config, tensors)) != claimed:
        raise CheckpointError(
            f"checkpoint: {path} names itself {claimed} but its content is {version}: "
            "it is damaged or was changed; fetch it again"
        )
    return Checkpoint(path, CheckpointConfig.from_json(config), version, tensors)


def build_model(checkpoint: Checkpoint, encoder: TextEncoder) -> RecipeModel:
    """Join a checkpoint to its freshly loaded text encoder; the result is in float32 and eval mode."""
    checkpoint.require_encoder(encoder.identity)
    model = RecipeModel(encoder.model, checkpoint.config.sizes)
    load_tensors(model, checkpoint)
    return model.eval().requires_grad_(False)


def load_tensors(model: RecipeModel, checkpoint: Checkpoint, names: Collection[str] | None = None) -> None:
    """Copy a checkpoint's tensors, or those of these names, into a model, in float32.

    Raises CheckpointError if its tensors are not the model's.
    """
    expected = {name: tuple(value.shape) for name, value in _named(trained_tensors(model), names).items()}
    tensors = _named(checkpoint.tensors, names)
    found = {name: tuple(value.shape) for name, value in tensors.items()}
    if expected != found:
        wrong = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
        raise CheckpointError(f"checkpoint: {checkpoint.path} has missing, unknown or misshapen tensors: {wrong[:5]}")
    model.load_state_dict({name: value.float() for name, value in tensors.items()}, strict=False)


def trained_tensors(model: RecipeModel) -> dict[str, Tensor]:
    """What training sets or changes: all but the encoder, which stays as pre-training left it."""
    return {
        name: value
        for name, value in model.state_dict(keep_vars=True).items()
        # Nor the count of batches that the statistics were taken over.
        if not name.startswith("encoder.") and value.is_floating_point()
    }


def _named(tensors: Mapping[str, Tensor], names: Collection[str] | None) -> Mapping[str, Tensor]:
    return tensors if names is None else {name: value for name, value in tensors.items() if name in names}


def _stored(value: Tensor) -> Tensor:
    """Matrices in half precision; the few vectors keep theirs, as variances can exceed its range."""
    value = value.detach().contiguous()
    return value.to(torch.float16) if value.ndim > 1 else value.clone()


def _require(checkpoint: Checkpoint, kind: str, wanted: ModelIdentity, given: ModelIdentity) -> None:
    if differences := wanted.differences(given):
        raise CheckpointError(
            f"checkpoint: {checkpoint.path.name} ({checkpoint.model_version}) was trained for the {kind} "
            f"{wanted.model_id}, not for {given.model_id}: {'; '.join(differences)}"
        )


def _version(config: str, tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256(config.encode())
    for name in sorted(tensors):
        value = tensors[name].contiguous()
        digest.update(f"{name}:{value.dtype}:{tuple(value.shape)}".encode())
        digest.update(value.numpy().tobytes())
    return f"recipe-{digest.hexdigest()[:12]}"
