"""Settings of the retriever, from the environment."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import Field, SecretStr, WrapValidator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from recipe_common.knowledge_update import Namespace
from recipe_model.defaults import DEFAULT_DEVICE

ENV_PREFIX: Final = "RECIPE_RETRIEVER_"
MAX_QUERIES: Final = 64  # of one batch


def _from_json(value: object, check: Callable[[object], Any]) -> Any:  # noqa: ANN401 (what the field is made of)
    try:
        return check(json.loads(value) if isinstance(value, str) else value)
    except ValueError:
        raise ValueError(
            'must be a JSON object of namespaces, each with a confidence from 0 to 1, such as {"billing": 0.9}'
        ) from None


Confidence = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Confidences = Annotated[dict[Namespace, Confidence], NoDecode, WrapValidator(_from_json)]


class RetrieverSettings(BaseSettings):
    """Every variable starts with RECIPE_RETRIEVER_."""

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, extra="forbid", frozen=True, hide_input_in_errors=True)

    host: str = Field(default="127.0.0.1", description="address of the gRPC server")
    port: int = Field(default=50051, ge=0, le=65535, description="port of the gRPC server; 0 takes a free one")
    metrics_host: str = Field(default="127.0.0.1", description="address of /metrics")
    metrics_port: int = Field(default=9102, ge=0, le=65535, description="port of /metrics; 0 takes a free one")
    qdrant_url: str = Field(default="http://127.0.0.1:6333", pattern="^https?://", description="the Qdrant server")
    qdrant_grpc_port: int = Field(default=6334, ge=1, le=65535, description="its gRPC port")
    qdrant_api_key: SecretStr | None = Field(default=None, description="API key of the Qdrant server")
    checkpoint: Path | None = Field(default=None, description="RECIPE checkpoint; the shipped one if unset")
    encoder: str | None = Field(
        default=None, description="where the checkpoint's text encoder lies; as the checkpoint says if unset"
    )
    device: str = Field(
        default=DEFAULT_DEVICE,
        description="where PyTorch runs the text encoder, as it names devices: cpu, or cuda for a GPU",
    )
    min_confidence: Confidence | None = Field(
        default=None,
        description="least confidence, 0 to 1, with which a fact applies; the checkpoint's if unset",
    )
    namespace_min_confidence: Confidences = Field(
        default={},
        description='the same for single namespaces, as JSON: {"billing": 0.9}',
    )
    workers: int = Field(default=2, ge=1, description="threads that search and verify; one more encodes")
    max_inside: int = Field(
        default=256,
        ge=MAX_QUERIES,
        description="requests that may be inside; each query of a batch is one",
    )
    prompt_cache_mb: int = Field(default=64, ge=0, description="MiB of prompts kept of the facts that were hit lately")
    drain_seconds: float = Field(default=5.0, ge=0, description="time that running calls get to end at a stop")
