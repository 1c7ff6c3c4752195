"""Settings of the encoder, from the environment."""

from pathlib import Path
from typing import Final, Literal, Self

from pydantic import Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from recipe_model.defaults import DEFAULT_DEVICE

ENV_PREFIX: Final = "RECIPE_ENCODER_"

Assignment = Literal["group", "manual"]


class EncoderSettings(BaseSettings):
    """Every variable starts with RECIPE_ENCODER_. Conflicts are refused."""

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, extra="forbid", frozen=True, hide_input_in_errors=True)

    kafka_bootstrap_servers: str = Field(
        default="127.0.0.1:9092", pattern=r"^\S+:\d+(,\S+:\d+)*$", description="host:port, comma-separated"
    )
    topic: str = Field(default="recipe.knowledge-updates.v1", description="topic of the events")
    dead_letter_topic: str = Field(default="", description='dead letters; the topic with ".dlq" if empty')
    group_id: str = Field(
        default="recipe-encoder", min_length=1, description="owns the committed offsets, in both assignments"
    )
    assignment: Assignment = Field(
        default="group",
        description="group: share the partitions with the other encoders of the group; manual: take all of"
        " them, for an encoder that is the only one",
    )
    group_instance_id: str | None = Field(
        default=None,
        max_length=249,
        pattern=r"^[A-Za-z0-9._-]+$",
        description="makes this encoder a static member: a restart within the session timeout moves no partition;"
        " one id per encoder, for example the name of its pod",
    )
    session_timeout_seconds: float = Field(
        default=45.0, ge=1, description="time without a sign of life until the group gives the partitions to others"
    )
    max_poll_interval_seconds: float = Field(
        default=300.0,
        ge=1,
        description="time without a poll until this encoder leaves the group, and that the group waits for a member"
        " in a rebalance; a micro-batch may take longer",
    )
    stall_seconds: float = Field(
        default=120.0,
        gt=0,
        description="time that records of a partition may wait without one being finished, or the broker may not"
        " answer, until /ready says 503",
    )
    batch_size: int = Field(default=64, ge=1, le=1_000, description="records in a micro-batch at most")
    # Tansu uses all of this time even when a record arrives meanwhile, so there it bounds freshness.
    fetch_wait_ms: int = Field(
        default=50, ge=1, le=60_000, description="time the broker may hold back an answer without records"
    )
    topic_timeout_seconds: float = Field(default=30.0, gt=0, description="time for the topics to appear at the start")
    dead_letter_timeout_seconds: float = Field(
        default=30.0, gt=0, description="time for a dead letter to be accepted before the encoder stops"
    )
    dead_letter_max_in_a_row: int = Field(
        default=100, ge=1, description="consecutive dead letters that stop the encoder"
    )
    dead_letter_window: int = Field(default=1_000, ge=1, description="records that the share is taken of, the latest")
    dead_letter_max_share: float = Field(
        default=0.5, gt=0, le=1, description="share of dead letters in a full window that stops the encoder if exceeded"
    )
    retry_initial_seconds: float = Field(
        default=0.25, gt=0, description="first pause before a write to an unavailable store is repeated"
    )
    retry_max_seconds: float = Field(default=15.0, gt=0, description="longest such pause; each doubles the one before")

    store_path: Path | None = Field(default=None, description="directory of the embedded store")
    qdrant_url: str | None = Field(
        default=None, pattern="^https?://", description="the Qdrant server; exactly one store must be set"
    )
    qdrant_grpc_port: int = Field(default=6334, ge=1, le=65_535, description="its gRPC port")
    qdrant_api_key: SecretStr | None = Field(default=None, description="API key of the Qdrant server")

    checkpoint: Path | None = Field(default=None, description="RECIPE checkpoint; the shipped one if unset")
    encoder: str | None = Field(
        default=None, description="where the checkpoint's text encoder lies; as the checkpoint says if unset"
    )
    llm: str | None = Field(
        default=None,
        description="where the checkpoint's LLM lies, of which only the word embeddings are read; as the checkpoint"
        " says if unset",
    )
    device: str = Field(
        default=DEFAULT_DEVICE,
        description="where PyTorch runs the text encoder, as it names devices: cpu, or cuda for a GPU",
    )

    metrics_host: str = Field(default="127.0.0.1", description="address of /metrics and /ready")
    metrics_port: int = Field(default=9101, ge=0, le=65_535, description="their port; 0 takes a free one")

    @property
    def dead_letters(self) -> str:
        """The topic of the dead letters."""
        return self.dead_letter_topic or f"{self.topic}.dlq"

    @model_validator(mode="after")
    def _check_store(self) -> Self:
        if (self.store_path is None) == (self.qdrant_url is None):
            raise ValueError(
                f"set exactly one of {ENV_PREFIX}STORE_PATH (embedded) and {ENV_PREFIX}QDRANT_URL (server)"
            )
        if self.qdrant_api_key is not None and self.qdrant_url is None:
            raise ValueError(f"{ENV_PREFIX}QDRANT_API_KEY needs {ENV_PREFIX}QDRANT_URL; set both or none")
        return self

    @model_validator(mode="after")
    def _check_topics(self) -> Self:
        if self.dead_letters == self.topic:
            raise ValueError(
                f"{ENV_PREFIX}DEAD_LETTER_TOPIC must differ from {ENV_PREFIX}TOPIC; else it is read for ever"
            )
        return self

    @model_validator(mode="after")
    def _check_group(self) -> Self:
        if self.group_instance_id is not None and self.assignment == "manual":
            raise ValueError(f"{ENV_PREFIX}GROUP_INSTANCE_ID needs {ENV_PREFIX}ASSIGNMENT=group; a group has members")
        return self

    @model_validator(mode="after")
    def _check_retries(self) -> Self:
        if self.retry_initial_seconds > self.retry_max_seconds:
            raise ValueError(f"{ENV_PREFIX}RETRY_INITIAL_SECONDS must not exceed {ENV_PREFIX}RETRY_MAX_SECONDS")
        return self
