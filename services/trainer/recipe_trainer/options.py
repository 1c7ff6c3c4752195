"""What a training run can be told. Everything here is recorded in the checkpoint it makes."""

from pydantic import BaseModel, ConfigDict, Field

from recipe_model.defaults import DEFAULT_ENCODER, DEFAULT_LLM
from recipe_trainer.batches import Mixture


class TrainOptions(BaseModel):
    """Options of one run; the defaults are for a run from the start."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    llm: str = DEFAULT_LLM
    encoder: str = DEFAULT_ENCODER
    seed: int = 0
    steps: int = Field(default=800, ge=1)
    llm_edits: int = Field(default=32, ge=2, description="edits a step that go through the LLM")
    locality_edits: int = Field(default=2, ge=0, description="how many of them with their unrelated question too")
    locality_weight: float = Field(default=0.05, ge=0, description="weight of leaving that question's answer alone")
    contrast_edits: int = Field(default=80, ge=2, description="edits a step in the contrastive losses")
    other_relations: int = Field(default=24, ge=0, description="how many of them ask of their subject something else")
    siblings: int = Field(default=24, ge=0, description="how many ask of another subject, by one word or digit")
    families: float = Field(
        default=0.12, ge=0, lt=1, description="share of draws out of families of facts made by rule"
    )
    ordinary_texts: int = Field(default=32, ge=0, description="open questions and other text that must hit nothing")
    named_subjects: float = Field(default=0.2, ge=0, le=1, description="share of sentences that name an edit's subject")
    versions: int = Field(default=2, ge=0, description="edits a step whose version in another wording is told apart")
    swapped_answers: float = Field(default=0.4, ge=0, le=1, description="share that get an answer from elsewhere")
    other_forms: float = Field(
        default=0.2, ge=0, le=1, description="share of paraphrases turned into (or from) questions"
    )
    aliases: float = Field(
        default=0.15, ge=0, le=1, description="share of paraphrases with another name of the subject"
    )
    unmarked: float = Field(default=0.3, ge=0, le=1, description="share of statements whose answer is not marked")
    llm_every: int = Field(default=2, ge=1, description="steps per one that goes through the LLM; the others are cheap")
    queue: int = Field(default=10_000, ge=1, description="recent keys kept as negatives")
    smallest_pool: int = Field(default=256, ge=1, description="fewest of them that a step contrasts against")
    removed_weight: float = Field(default=0.3, ge=0, description="weight of queries whose own key is removed")
    dropout: bool = Field(default=False, description="whether the encoder's dropout is on")
    typo_rate: float = Field(default=0.4, ge=0, le=1, description="share of retrieval queries with a slip")
    representation: int = Field(default=1024, ge=1, description="R, length of keys and queries")
    prompt_tokens: int = Field(default=16, ge=1, description="l, pseudo-tokens of a continuous prompt")
    sentinel_tokens: int = Field(default=10, ge=1, description="c, pseudo-tokens of the sentinel")
    sentinel_offset: float = Field(default=0.0, description="a, what the sentinel is raised by for all questions alike")
    sentinel_growth: float = Field(default=0.65, ge=0, description="b, the sentinel's rise with facts beyond 1,000")
    sentinel_crowd: float = Field(default=2.0, ge=0, description="gamma, what a crowd of facts raises it by")
    spelling: int = Field(default=1024, ge=0, description="g, size of the spelling's features; 0 for none")
    heads_learning_rate: float = Field(default=2e-4, gt=0)
    prompt_learning_rate: float = Field(default=7e-4, gt=0, description="of what MLP_P adds for each fact")
    common_learning_rate: float = Field(default=8e-3, gt=0, description="of p_0, which all prompts share")
    encoder_learning_rate: float = Field(default=5e-5, gt=0)
    encoder_pull: float = Field(
        default=8.0, ge=0, description="pull of the encoder's weights to the pre-trained ones, times its rate"
    )
    spelling_learning_rate: float = Field(default=5e-3, gt=0, description="of the n-grams' weights")
    weight_decay: float = Field(default=0.01, ge=0)
    warmup_steps: int = Field(default=100, ge=1)
    gradient_norm: float = Field(default=1.0, gt=0, description="largest norm of a step's gradient")

    @property
    def mixture(self) -> Mixture:
        """How a step's batch is drawn."""
        return Mixture(
            edits=self.contrast_edits,
            other_relations=self.other_relations,
            siblings=self.siblings,
            ordinary_texts=self.ordinary_texts,
            named_subjects=self.named_subjects,
            versions=self.versions,
            swapped_answers=self.swapped_answers,
            unmarked=self.unmarked,
            other_forms=self.other_forms,
            aliases=self.aliases,
        )
