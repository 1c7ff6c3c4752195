"""The frozen LLM, fed with [continuous prompt; word embeddings] (arXiv 2405.03279, section 3.3).

For rotary positions f_llm(p ++ emb(q)) is exactly `inputs_embeds = [p; emb(q)]`: positions are relative, so
the prefix shifts nothing. Without a prompt the LLM gets its token ids and is the unedited model to the last
bit.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import LogitsProcessor, LogitsProcessorList, PreTrainedModel, PreTrainedTokenizerBase

from recipe_model.copying import Copying
from recipe_model.defaults import DEFAULT_DEVICE, DEFAULT_LLM, Precision
from recipe_model.identity import ModelIdentity, identify
from recipe_model.llm_tokens import LlmTokens, end_ids
from recipe_model.pretrained import load_causal_lm


@dataclass(frozen=True, slots=True)
class Generation:
    """What the LLM wrote."""

    text: str
    prompt_tokens: int  # of the text, without the continuous prompt's l pseudo-tokens
    generated_tokens: int  # without an end-of-text token
    ended: bool  # True when the model itself ended the text


class LanguageModel(LlmTokens):
    """A frozen rotary-position causal LM with its tokenizer."""

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, identity: ModelIdentity) -> None:
        super().__init__(tokenizer, identity)
        self.model = model
        cast("Any", model).get_output_embeddings().register_forward_pre_hook(_dense)

    @classmethod
    def load(
        cls, model_id: str = DEFAULT_LLM, precision: Precision = "auto", *, device: str = DEFAULT_DEVICE
    ) -> "LanguageModel":
        """Load by id, on a device that PyTorch names; raises ModelUnavailableError naming the fix."""
        model, tokenizer = load_causal_lm(model_id, precision, device)
        return cls(model, tokenizer, identify(model_id, model))

    @property
    def max_tokens(self) -> int:
        """The longest sequence, in tokens, that the LLM was trained for."""
        return int(self.model.config.max_position_embeddings)

    @property
    def end_ids(self) -> list[int]:
        """The tokens that end a text; a model may have several."""
        return end_ids(cast("Any", self.model).generation_config)

    def ending_ids(self, answer: str) -> list[int]:
        """Token ids of what ends a text behind an answer: a full stop, unless it brings one, and the end of text."""
        return [*self._full_stop_ids(answer), self.end_ids[0]]

    def told(self, statement: str, prompt: Tensor) -> Tensor:
        """What stands in front of an edited text [l + n, d]: the fact's prompt p_k [l, d], and its n words."""
        words = self.embed(torch.tensor(self.sentence_ids(statement), device=self.model.device))
        return torch.cat([prompt.to(words), words])

    def embed(self, ids: Tensor) -> Tensor:
        """Word embeddings: ids [...] to [..., d]."""
        return self.model.get_input_embeddings()(ids)  # type: ignore[no-any-return]

    def words(self) -> Tensor:
        """The word embeddings [v, d], in float32."""
        weight: Tensor = cast("Any", self.model.get_input_embeddings()).weight
        return weight.detach().float()

    def whole_words(self) -> list[str]:
        """The vocabulary's tokens that are a whole word of at least three letters."""
        decoded = (str(self.tokenizer.decode([token])) for token in range(len(self.tokenizer)))
        return [text[1:] for text in decoded if text[:1] == " " and text[1:].isalpha() and len(text) > 3]  # noqa: PLR2004

    def logits(self, prompt: Tensor | None, ids: Sequence[int]) -> Tensor:
        """Next-token logits [t, v] for one sequence of t tokens behind an optional prompt [l, d]."""
        with torch.inference_mode():
            output = self.model(**self.inputs(prompt, ids)).logits[0]
        return output[-len(ids) :]  # type: ignore[no-any-return]

    def generate(self, prompt: Tensor | None, text: str, max_new_tokens: int) -> Generation:
        """Continue `text` greedily behind an optional continuous prompt [l, d], as transformers does it.

        What a generator must write too, to the last bit, with many requests at once.
        """
        ids = self.token_ids(text)
        with torch.inference_mode():
            output = self._continue(max_new_tokens, LogitsProcessorList(), **self.inputs(prompt, ids))[0].tolist()
        # With embeddings as input transformers returns the new tokens alone, with ids it repeats the input.
        new = output if prompt is not None else output[len(ids) :]
        ended = bool(new) and new[-1] in self.end_ids
        return Generation(self.text(new[:-1] if ended else new), len(ids), len(new) - ended, ended)

    def generate_batch(self, prompts: Sequence[Tensor | None], texts: Sequence[str], max_new_tokens: int) -> list[str]:
        """Continue many texts greedily at once, each behind its own optional prompt [l, d].

        For offline work: padding changes the order of additions, so a token can differ from `generate` where
        two are equally likely.
        """
        return self.generate_rows(prompts, [self.token_ids(text) for text in texts], max_new_tokens)

    def generate_rows(
        self,
        prompts: Sequence[Tensor | None],
        ids: Sequence[Sequence[int]],
        max_new_tokens: int,
        copying: Sequence[Copying] = (),
    ) -> list[str]:
        """As `generate_batch`, of texts' or conversations' token ids; with help for each text, if any is given."""
        rows = [self.inputs(prompt, each) for prompt, each in zip(prompts, ids, strict=True)]
        words = [row["inputs_embeds"] if "inputs_embeds" in row else self.embed(row["input_ids"]) for row in rows]
        longest = max(row.shape[1] for row in words)
        padding = [longest - row.shape[1] for row in words]
        embeddings = torch.cat([functional.pad(row, (0, 0, left, 0)) for row, left in zip(words, padding, strict=True)])
        mask = torch.tensor([[0] * left + [1] * (longest - left) for left in padding], device=embeddings.device)
        with torch.inference_mode():
            output = self._continue(
                max_new_tokens,
                LogitsProcessorList([_Help(copying)] if copying else []),
                inputs_embeds=embeddings,
                attention_mask=mask,
            )
        return list(self.tokenizer.batch_decode(output, skip_special_tokens=True))

    def inputs(self, prompt: Tensor | None, ids: Sequence[int]) -> dict[str, Tensor]:
        """What the model is called with for one sequence of t tokens behind an optional prompt [l, d]."""
        tokens = torch.tensor([list(ids)], device=self.model.device)  # [1, t]
        if prompt is None:
            return {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
        words = self.embed(tokens)
        prefix = prompt.to(words).unsqueeze(0)  # [1, l, d]
        embeddings = torch.cat([prefix, words], dim=1)
        mask = torch.ones(embeddings.shape[:2], dtype=torch.long, device=tokens.device)
        return {"inputs_embeds": embeddings, "attention_mask": mask}

    def _continue(self, max_new_tokens: int, help_: LogitsProcessorList, **inputs: Tensor) -> Tensor:
        # The declared type of the model knows of no `generate`.
        generate = cast("Any", self.model).generate
        return cast(
            "Tensor", generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False, logits_processor=help_)
        )


class _Help(LogitsProcessor):
    """Copying for each row of a batch that is continued from embeddings: its ids are the new tokens alone."""

    def __init__(self, copying: Sequence[Copying]) -> None:
        self._copying = copying

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        if input_ids.shape[1]:
            for each, token in zip(self._copying, input_ids[:, -1].tolist(), strict=True):
                each.follow(token)
        return torch.stack([each.help(row) for each, row in zip(self._copying, scores, strict=True)])


def _dense(_layer: nn.Module, arguments: tuple[Tensor]) -> tuple[Tensor]:
    """The last position's hidden state [1, 1, d] with the strides of such a tensor, not of the text it is cut out of.

    PyTorch would otherwise multiply by a copy of the whole output layer: longer than all other layers take.
    """
    (hidden,) = arguments
    return (hidden.clone(memory_format=torch.contiguous_format),)
