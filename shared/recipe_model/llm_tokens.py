"""Texts as an LLM's tokens, and back."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

from tokenizers import Tokenizer
from transformers import GenerationConfig, PreTrainedTokenizerBase

from recipe_common.errors import FailedPreconditionError
from recipe_model.copying import Copying
from recipe_model.identity import ModelIdentity


class LlmTokens:
    """What can be said of an LLM's texts without running it."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, identity: ModelIdentity) -> None:
        self.tokenizer = tokenizer
        self.identity = identity

    @property
    def chats(self) -> bool:
        """Whether it has a chat template."""
        return self.tokenizer.chat_template is not None

    @property
    def backend(self) -> Tokenizer:
        """The tokenizer below transformers', which can decode token by token."""
        return cast("Any", self.tokenizer).backend_tokenizer  # type: ignore[no-any-return]

    def token_ids(self, text: str) -> list[int]:
        """The text's token ids, with whatever the tokenizer puts in front of every text."""
        return list(self.tokenizer(text)["input_ids"])

    def chat_ids(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        """Token ids of a conversation, laid out by the LLM's chat template up to where its answer begins.

        Each message has a role and a content. Raises FailedPreconditionError for an LLM without a template.
        """
        if not self.chats:
            raise FailedPreconditionError(
                f"{self.identity.model_id} has no chat template; send a text, or load an instruction-tuned LLM"
            )
        template = cast("Any", self.tokenizer).apply_chat_template
        return list(template(list(messages), add_generation_prompt=True, return_dict=False))

    def answer_ids(self, answer: str) -> list[int]:
        """Token ids of an answer that continues a question: with a leading space, nothing in front."""
        return list(self.tokenizer(f" {answer.strip()}", add_special_tokens=False)["input_ids"])

    def sentence_ids(self, statement: str) -> list[int]:
        """Token ids of a statement within a text, with a full stop: it ends as answers do."""
        return [*self.answer_ids(statement), *self._full_stop_ids(statement)]

    def _full_stop_ids(self, text: str) -> list[int]:
        if text.rstrip().endswith((".", "!", "?")):
            return []
        return list(self.tokenizer(".", add_special_tokens=False)["input_ids"])

    def copying(self, statement: str, answer: str, end_ids: Sequence[int]) -> Copying:
        """Help for one text to state a fact's answer."""
        return Copying(**self.copying_arguments(statement, answer, end_ids))

    def copying_arguments(self, statement: str, answer: str, end_ids: Sequence[int]) -> dict[str, Any]:
        """What that help is made of, to be sent elsewhere; an answer stands behind a space or begins a line."""
        lead, space, line = (
            list(self.tokenizer(text, add_special_tokens=False)["input_ids"])
            for text in (f" {statement.removesuffix(answer).rstrip()}", f" {answer}", answer)
        )
        return {"forms": [space, line], "end_ids": list(end_ids), "lead": lead}

    def text(self, ids: Sequence[int]) -> str:
        """The text of generated tokens. Special tokens have none."""
        decoded = self.tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return str(decoded)


def end_ids(config: GenerationConfig) -> list[int]:
    """The tokens that end a text, by an LLM's generation settings."""
    ids = cast("Any", config).eos_token_id
    return list(ids) if isinstance(ids, list) else [ids]
