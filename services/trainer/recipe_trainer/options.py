"""What a training run can be told. Everything here is recorded in the checkpoint it makes."""

from pydantic import BaseModel, ConfigDict, Field

from recipe_model.defaults import DEFAULT_ENCODER, DEFAULT_LLM


class TrainOptions(BaseModel):
    """Options of one run; the defaults are those of the first of the two runs that made the shipped checkpoint."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    llm: str = DEFAULT_LLM
    encoder: str = DEFAULT_ENCODER
    seed: int = 0
    steps: int = Field(default=1150, ge=1)
    llm_edits: int = Field(default=20, ge=1, description="edits a step that go through the LLM")
    locality_edits: int = Field(default=4, ge=0, description="how many of them with their unrelated question too")
    locality_weight: float = Field(default=1.0, ge=0, description="weight of leaving that question's answer alone")
    contrast_edits: int = Field(default=64, ge=2, description="edits a step in the contrastive losses")
    open_questions: int = Field(default=24, ge=0, description="open questions a step that must hit nothing")
    llm_from_step: int = Field(default=600, ge=0, description="steps before it leave the LLM out and are cheap")
    spelling_weight: float = Field(default=1.0, ge=0, description="weight of pseudo-tokens spelling the answer")
    start_words: str = Field(default=" The correct answer:", description="words that all prompts start from")
    queue: int = Field(default=8192, ge=1, description="recent keys kept as negatives")
    smallest_pool: int = Field(default=128, ge=1, description="fewest of them that a step contrasts against")
    removed_weight: float = Field(default=0.3, ge=0, description="weight of queries whose own key is removed")
    dropout: bool = Field(default=True, description="whether the encoder's dropout is on")
    typo_rate: float = Field(default=0.1, ge=0, le=1, description="share of retrieval queries with a slip")
    representation: int = Field(default=1024, ge=1, description="R, length of keys and queries")
    prompt_tokens: int = Field(default=8, ge=1, description="l, pseudo-tokens of a continuous prompt")
    sentinel_tokens: int = Field(default=10, ge=1, description="c, pseudo-tokens of the sentinel")
    heads_learning_rate: float = Field(default=2e-4, gt=0)
    prompt_learning_rate: float = Field(default=7e-4, gt=0)
    encoder_learning_rate: float = Field(default=5e-5, gt=0)
    weight_decay: float = Field(default=0.01, ge=0)
    warmup_steps: int = Field(default=100, ge=1)
    gradient_norm: float = Field(default=1.0, gt=0, description="largest norm of a step's gradient")
