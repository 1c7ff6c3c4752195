"""What a model is, so that a checkpoint can tell whether it was trained for the one at hand."""

import hashlib
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor
from transformers import PreTrainedModel


@dataclass(frozen=True, slots=True)
class ModelIdentity:
    """Names a pre-trained model by its sizes and by the content of its word embeddings."""

    model_id: str
    hidden_size: int
    layers: int
    vocabulary: int
    embeddings_sha256: str  # over the word embeddings as bfloat16, row-major: the same in every load precision

    def differences(self, other: "ModelIdentity") -> list[str]:
        """What tells `other` from this model, in words; a different name alone is no difference."""
        names = ("hidden_size", "layers", "vocabulary", "embeddings_sha256")
        return [
            f"{name} {getattr(self, name)!s:.12} against {getattr(other, name)!s:.12}"
            for name in names
            if getattr(self, name) != getattr(other, name)
        ]


def identify(model_id: str, model: PreTrainedModel) -> ModelIdentity:
    """Read the identity off a loaded model, before any of its weights are trained."""
    embeddings = cast("Tensor", model.get_input_embeddings().weight)
    return ModelIdentity(
        model_id=model_id,
        hidden_size=int(model.config.hidden_size),
        layers=int(model.config.num_hidden_layers),
        vocabulary=embeddings.shape[0],
        embeddings_sha256=fingerprint(embeddings),
    )


def fingerprint(embeddings: Tensor) -> str:
    """SHA-256 of word embeddings [v, d] as bfloat16, row-major."""
    rounded = embeddings.detach().to(torch.bfloat16).contiguous()
    return hashlib.sha256(rounded.view(torch.int16).cpu().numpy().tobytes()).hexdigest()
