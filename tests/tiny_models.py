"""Text encoders and LLMs small enough to build in a test, in memory or as Hugging Face folders."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertModel,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaModel,
)

from recipe_common.token_states import ROLE_QUESTION, TokenStates
from recipe_model.checkpoint import CheckpointConfig, save_checkpoint
from recipe_model.decision import Decider
from recipe_model.editor import RecipeEditor
from recipe_model.identity import identify
from recipe_model.language_model import LanguageModel
from recipe_model.networks import RecipeModel, RecipeSizes
from recipe_model.pretrained import TextEncoder
from recipe_model.prompt_words import PromptWords

PAD, START, END = "<pad>", "<s>", "</s>"
ENCODER_HIDDEN = 16
ENCODER_POSITIONS = 130  # of which two are never used
LLM_HIDDEN = 32
LLM_POSITIONS = 256
SIZES = RecipeSizes(
    encoder_hidden=ENCODER_HIDDEN,
    llm_hidden=LLM_HIDDEN,
    representation=12,
    prompt_tokens=3,
    sentinel_tokens=2,
    verifier_width=8,
    verifier_layers=1,
)

# What a training run makes of these sizes: those of the verifier are no options.
RUN_SIZES = replace(SIZES, verifier_width=128, verifier_layers=2)

# Operations this small only lose by being shared out among threads.
torch.set_num_threads(1)


def byte_tokenizer(*, marked: bool) -> PreTrainedTokenizerFast:
    """One token per byte; `marked` puts a start and an end token around every text, as encoders want it."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: number for number, token in enumerate([PAD, START, END, *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    if marked:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{START} $A {END}", special_tokens=[(START, vocabulary[START]), (END, vocabulary[END])]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, bos_token=START, eos_token=END, model_max_length=10_000
    )


VOCABULARY = len(byte_tokenizer(marked=False))


def make_bert(seed: int = 0, positions: int = ENCODER_POSITIONS) -> PreTrainedModel:
    """A BERT of two layers with random weights and without a pooler."""
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=ENCODER_HIDDEN,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=positions,
        initializer_range=0.5,
        pad_token_id=0,
    )
    return BertModel(config, add_pooling_layer=False).eval()


def make_roberta(seed: int = 0) -> PreTrainedModel:
    """A RoBERTa of one layer with random weights and without a pooler."""
    torch.manual_seed(seed)
    config = RobertaConfig(
        vocab_size=VOCABULARY,
        hidden_size=ENCODER_HIDDEN,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=ENCODER_POSITIONS,
        initializer_range=0.5,
        pad_token_id=0,
    )
    return RobertaModel(config, add_pooling_layer=False).eval()


def make_llama(seed: int = 0) -> PreTrainedModel:
    """A Llama of two layers with random weights, wide apart so that its most likely tokens are unambiguous."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=LLM_HIDDEN,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=64,
        max_position_embeddings=LLM_POSITIONS,
        initializer_range=0.4,
        tie_word_embeddings=False,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    return LlamaForCausalLM(config).eval().requires_grad_(False)


def make_gpt2() -> PreTrainedModel:
    """A GPT-2 of one layer: learned positions, no rotation."""
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=VOCABULARY,
        n_embd=LLM_HIDDEN,
        n_layer=1,
        n_head=2,
        n_positions=64,
        bos_token_id=1,
        eos_token_id=2,
    )
    return GPT2LMHeadModel(config).eval()


def make_text_encoder(seed: int = 0) -> TextEncoder:
    """A BERT with its tokenizer."""
    model = make_bert(seed)
    return TextEncoder(model, byte_tokenizer(marked=True), identify("tiny-encoder", model))


def make_language_model(seed: int = 0) -> LanguageModel:
    """A Llama in float32 with its tokenizer; a fresh one, as tests may change its generation settings."""
    model = make_llama(seed)
    return LanguageModel(model, byte_tokenizer(marked=False), identify("tiny-llm", model))


def make_recipe_model(seed: int = 0, sizes: RecipeSizes = SIZES) -> RecipeModel:
    """Untrained networks on a BERT, in eval mode; whatever is stored is a candidate."""
    encoder = make_bert(seed)
    torch.manual_seed(seed + 1)
    model = RecipeModel(encoder, sizes).eval()
    model.min_similarity.fill_(-1.0)
    return model


def checkpoint_config(encoder_seed: int = 0, llm_seed: int = 0) -> CheckpointConfig:
    """What fits `make_text_encoder` and `make_language_model` of these seeds."""
    return CheckpointConfig(
        encoder=identify("tiny-encoder", make_bert(encoder_seed)),
        llm=identify("tiny-llm", make_llama(llm_seed)),
        sizes=SIZES,
        training={"steps": 1},
    )


def make_prompt_words(llm_seed: int = 0) -> PromptWords:
    """What the prompts of `make_recipe_model` start from."""
    llm = make_language_model(llm_seed)
    return PromptWords(llm.words(), llm.tokenizer, SIZES.prompt_tokens)


def save_tiny_checkpoint(path: Path, seed: int = 0, sizes: RecipeSizes = SIZES) -> str:
    """An untrained checkpoint for the tiny models of that seed; returns its model version."""
    return save_checkpoint(path, make_recipe_model(seed, sizes), replace(checkpoint_config(seed), sizes=sizes))


def save_encoder(folder: Path, seed: int = 0) -> str:
    """`make_text_encoder` as a folder that transformers loads; returns its path."""
    make_bert(seed).save_pretrained(folder)
    byte_tokenizer(marked=True).save_pretrained(folder)
    return str(folder)


def save_llm(folder: Path, seed: int = 0) -> str:
    """`make_language_model` as a folder that transformers loads; returns its path."""
    make_llama(seed).save_pretrained(folder)
    byte_tokenizer(marked=False).save_pretrained(folder)
    return str(folder)


@dataclass(frozen=True, slots=True)
class TinyFiles:
    """Where models lie that fit each other."""

    checkpoint: Path
    encoder: str
    llm: str


def save_tiny_models(folder: Path, seed: int = 0) -> TinyFiles:
    """An untrained checkpoint with its text encoder and LLM, for those who load by path."""
    save_tiny_checkpoint(folder / "recipe.safetensors", seed)
    return TinyFiles(
        folder / "recipe.safetensors", save_encoder(folder / "encoder", seed), save_llm(folder / "llm", seed)
    )


def make_editor(seed: int = 0, decider: Decider | None = None) -> RecipeEditor:
    """An untrained editor in memory; without a decider its own decides, which says nothing of sense."""
    model = make_recipe_model(seed).requires_grad_(False)
    editor = RecipeEditor(
        model, byte_tokenizer(marked=True), ENCODER_POSITIONS - 2, "recipe-test", make_prompt_words(seed)
    )
    if decider is not None:
        editor.decider = decider
    return editor


class SameWords:
    """Stands for a trained verifier: a fact says to a question as much as they have tokens in common.

    `Decider(SameWords())` is sure of a fact whose prompt is asked word for word, and of no other.
    """

    def margins(self, query: TokenStates, facts: Sequence[TokenStates]) -> NDArray[np.float32]:
        """5 for a fact whose question is this one, apart from spaces at its end, and below 0 for any other."""
        asked = set(query.ids.tolist())
        same = [query.ids.tolist() == fact.ids[fact.roles == ROLE_QUESTION].tolist() for fact in facts]
        shared = [len(asked & set(fact.ids.tolist())) / len(asked | set(fact.ids.tolist())) for fact in facts]
        margins = [5.0 if equal else 4.0 * share - 5.0 for equal, share in zip(same, shared, strict=True)]
        return np.array(margins, np.float32)
