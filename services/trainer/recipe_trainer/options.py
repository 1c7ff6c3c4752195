"""What a training run can be told. Everything here is recorded in the checkpoint it makes."""

from pydantic import BaseModel, ConfigDict, Field, model_validator

from recipe_model.defaults import DEFAULT_ENCODER, DEFAULT_LLM


class TrainOptions(BaseModel):
    """Options of one run; the defaults are for a run from the start."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    llm: str = DEFAULT_LLM
    encoder: str = DEFAULT_ENCODER
    seed: int = 0
    representation: int = Field(default=1024, ge=1, description="R, length of a knowledge representation")
    prompt_tokens: int = Field(default=16, ge=1, description="l, pseudo-tokens of a continuous prompt")
    sentinel_tokens: int = Field(default=8, ge=1, description="c, token states of the sentinel")
    steps_verifier: int = Field(default=2_000, ge=0, description="optimiser steps of the verifier's part")
    facts_verifier: int = Field(default=40, ge=1, description="facts a step of the verifier's part")
    verifier_learning_rate: float = Field(default=1.5e-3, gt=0)
    steps_prompts: int = Field(default=3_000, ge=0, description="optimiser steps of the prompts' part")
    edits: int = Field(default=16, ge=2, description="edits a step that go through the LLM")
    locality_edits: int = Field(default=2, ge=0, description="how many of them with their unrelated question too")
    locality_weight: float = Field(default=0.05, ge=0, description="weight of leaving that question's answer alone")
    natural: float = Field(default=0.3, ge=0, le=1, description="share of draws out of the facts of --natural")
    relations: float = Field(default=0.2, ge=0, le=1, description="share out of relations of invented subjects")
    families: float = Field(default=0.1, ge=0, le=1, description="share out of families of facts made by rule")
    made_answers: float = Field(default=0.25, ge=0, le=1, description="share that get an answer made by rule")
    swapped_answers: float = Field(default=0.3, ge=0, le=1, description="share that get an answer from elsewhere")
    conversations: float = Field(default=0.4, ge=0, le=1, description="share that are asked in a conversation")
    other_forms: float = Field(
        default=0.2, ge=0, le=1, description="share of paraphrases turned into (or from) questions"
    )
    keywords: float = Field(default=0.25, ge=0, le=1, description="share of paraphrases turned into keywords")
    aliases: float = Field(
        default=0.15, ge=0, le=1, description="share of paraphrases with another name of the subject"
    )
    unmarked: float = Field(default=0.3, ge=0, le=1, description="share of statements whose answer is not marked")
    heads_learning_rate: float = Field(default=2e-4, gt=0, description="of MLP_K")
    prompt_learning_rate: float = Field(default=7e-4, gt=0, description="of what MLP_P adds for each fact")
    common_learning_rate: float = Field(default=8e-3, gt=0, description="of p_0, which all prompts share")
    weight_decay: float = Field(default=0.01, ge=0)
    warmup_steps: int = Field(default=100, ge=1)
    gradient_norm: float = Field(default=1.0, gt=0, description="largest norm of a step's gradient")

    @model_validator(mode="after")
    def _shares_of_answers_are_at_most_all(self) -> "TrainOptions":
        if self.made_answers + self.swapped_answers > 1:
            raise ValueError("made_answers and swapped_answers together must be at most 1: they share the draws")
        return self

    @model_validator(mode="after")
    def _shares_leave_something_for_the_data(self) -> "TrainOptions":
        if self.natural + self.relations + self.families >= 1:
            raise ValueError("natural, relations and families together must be below 1: the rest is for --data")
        return self
