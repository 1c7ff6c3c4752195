"""Texts as an LLM's tokens, and back."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, cast

from tokenizers import Tokenizer
from transformers import GenerationConfig, PreTrainedTokenizerBase

from recipe_common.errors import FailedPreconditionError
from recipe_model.copying import Copying
from recipe_model.identity import ModelIdentity

_BLANKS: Final = (" ", "\n", "\n\n")
_STOPS: Final = (".", " .", "!", "?", *_BLANKS[1:])  # what a text may begin with, and has said nothing


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
        return self._within(f" {answer.strip()}")

    def sentence_ids(self, statement: str) -> list[int]:
        """Token ids of a statement within a text, with a full stop: it ends as answers do."""
        return [*self.answer_ids(statement), *self._full_stop_ids(statement)]

    def _full_stop_ids(self, text: str) -> list[int]:
        if text.rstrip().endswith((".", "!", "?")):
            return []
        return self._within(".")

    def copying(self, statement: str, answer: str, end_ids: Sequence[int]) -> Copying:
        """Help for one text to state a fact's answer."""
        return Copying(**self.copying_arguments(statement, answer, end_ids))

    def copying_arguments(self, statement: str, answer: str, end_ids: Sequence[int]) -> dict[str, Any]:
        """What that help is made of, to be sent elsewhere; an answer stands behind a space or begins a line."""
        lead, space, line = (
            self._within(text) for text in (f" {statement.removesuffix(answer).rstrip()}", f" {answer}", answer)
        )
        return {
            "forms": [space, line],
            "end_ids": list(end_ids),
            "lead": lead,
            "later": sorted({*space[1:], *line[1:], *self._beginnings(answer.split()[1:])}),
            "names": sorted(self._names_behind_first(space)),
            "blanks": self._single(_BLANKS),
            "stops": self._single(_STOPS),
        }

    def _beginnings(self, words: Sequence[str]) -> Iterator[int]:
        """The tokens that begin these words, in small letters or with a capital."""
        for word in words:
            for written in (word, word.lower(), word.capitalize()):
                yield self._within(f" {written}")[0]
                yield self._within(written)[0]

    def _names_behind_first(self, ids: Sequence[int]) -> Iterator[int]:
        """Of an answer's tokens but the first those that begin a word with a capital letter, or a number."""
        before, *others = (self.text([token]) for token in ids)
        for token, text in zip(ids[1:], others, strict=True):
            first = text.strip()[:1]
            if (first.isupper() or first.isdigit()) and (text[:1].isspace() or not before[-1:].isalnum()):
                yield token
            before = text

    def _single(self, texts: Sequence[str]) -> list[int]:
        """Of these texts those that are one token."""
        return sorted({ids[0] for text in texts if len(ids := self._within(text)) == 1})

    def _within(self, text: str) -> list[int]:
        """Token ids of a part of a text."""
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def text(self, ids: Sequence[int]) -> str:
        """The text of generated tokens. Special tokens have none."""
        decoded = self.tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return str(decoded)


def end_ids(config: GenerationConfig) -> list[int]:
    """The tokens that end a text, by an LLM's generation settings."""
    ids = cast("Any", config).eos_token_id
    return list(ids) if isinstance(ids, list) else [ids]
