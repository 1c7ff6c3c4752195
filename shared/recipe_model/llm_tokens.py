"""Texts as an LLM's tokens, and back."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

from transformers import GenerationConfig, PreTrainedTokenizerBase

from recipe_common.errors import FailedPreconditionError
from recipe_model.identity import ModelIdentity


class LlmTokens:
    """What can be said of an LLM's texts without running it."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, identity: ModelIdentity) -> None:
        self.tokenizer = tokenizer
        self.identity = identity

    def token_ids(self, text: str) -> list[int]:
        """The text's token ids, with whatever the tokenizer puts in front of every text."""
        return list(self.tokenizer(text)["input_ids"])

    def chat_ids(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        """Token ids of a conversation, laid out by the LLM's chat template up to where its answer begins.

        Each message has a role and a content. Raises FailedPreconditionError for an LLM without a template.
        """
        if self.tokenizer.chat_template is None:
            raise FailedPreconditionError(
                f"{self.identity.model_id} has no chat template; send a text, or load an instruction-tuned LLM"
            )
        template = cast("Any", self.tokenizer).apply_chat_template
        return list(template(list(messages), add_generation_prompt=True, return_dict=False))

    def text(self, ids: Sequence[int]) -> str:
        """The text of generated tokens. Special tokens have none."""
        decoded = self.tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return str(decoded)


def end_ids(config: GenerationConfig) -> list[int]:
    """The tokens that end a text, by an LLM's generation settings."""
    ids = cast("Any", config).eos_token_id
    return list(ids) if isinstance(ids, list) else [ids]
