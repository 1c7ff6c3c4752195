"""Settings of the generator, from the environment."""

from pathlib import Path
from typing import Final, Literal, Self

from pydantic import Field, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from recipe_model.defaults import DEFAULT_DEVICE, Precision

ENV_PREFIX: Final = "RECIPE_GENERATOR_"


class GeneratorSettings(BaseSettings):
    """Every variable starts with RECIPE_GENERATOR_."""

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, extra="forbid", frozen=True, hide_input_in_errors=True)

    host: str = Field(default="127.0.0.1", description="address of the gRPC server")
    port: int = Field(default=50052, ge=0, le=65535, description="port of the gRPC server; 0 takes a free one")
    metrics_host: str = Field(default="127.0.0.1", description="address of /metrics")
    metrics_port: int = Field(default=9103, ge=0, le=65535, description="port of /metrics; 0 takes a free one")
    retriever: str = Field(default="127.0.0.1:50051", description="gRPC address of the retriever")
    retriever_timeout_seconds: float = Field(default=2.0, gt=0, description="time that a retrieval may take")
    checkpoint: Path | None = Field(default=None, description="RECIPE checkpoint; the shipped one if unset")
    llm: str | None = Field(
        default=None, description="where the checkpoint's LLM lies; as the checkpoint says if unset"
    )
    engine: Literal["transformers", "vllm"] = Field(
        default="transformers", description="what runs the LLM; vllm must be installed"
    )
    kv_cache_gib: float = Field(default=1.0, gt=0, description="memory for the keys and values of all texts at hand")
    device: str = Field(
        default=DEFAULT_DEVICE,
        description="transformers: where PyTorch runs the LLM, as it names devices: cpu, or cuda for a GPU",
    )
    precision: Precision = Field(default="auto", description="weights: auto is bfloat16 where it is native")
    max_new_tokens: int = Field(default=512, ge=1, description="largest max_new_tokens of a request")
    max_rows: int = Field(default=32, ge=1, description="texts that are written at once")
    max_waiting: int = Field(default=64, ge=0, description="requests beyond max_rows that may wait; a Compare is two")
    request_seconds: float = Field(default=60.0, gt=0, description="longest time for a request, whatever its deadline")
    drain_seconds: float = Field(
        default=60.0, ge=0, description="time that running requests get to end at a stop; request_seconds loses none"
    )

    @model_validator(mode="after")
    def _check_places(self) -> Self:
        if self.max_rows + self.max_waiting < 2:  # noqa: PLR2004 (the texts of a Compare)
            raise ValueError(
                f"{ENV_PREFIX}MAX_ROWS and {ENV_PREFIX}MAX_WAITING must be at least 2 together: a Compare is two"
            )
        return self
