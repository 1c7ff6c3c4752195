"""Teacher forcing behind a continuous prompt: the LLM's logits at the answer's tokens, and only there."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import Module
from torch.nn.utils.rnn import pad_sequence

from recipe_model.language_model import LanguageModel
from recipe_trainer.batches import by_length

LLM_GROUP = 4  # sequences of like length that go through the LLM together: of more, a third would be padding
ENDING_WEIGHT = 0.3


@dataclass(frozen=True, slots=True)
class Answered:
    """A question followed by its answer, as token ids."""

    question: list[int]
    answer: list[int]
    ending: tuple[int, ...] = ()  # what training wants behind the answer

    @property
    def predicted(self) -> list[int]:
        return [*self.answer, *self.ending]

    @property
    def ids(self) -> list[int]:
        return self.question + self.predicted


def answered(llm: LanguageModel, question: str, answer: str) -> Answered:
    """Tokenise a question and the answer that continues it."""
    return Answered(llm.token_ids(question), llm.answer_ids(answer))


def answered_and_ended(llm: LanguageModel, question: str, answer: str) -> Answered:
    """The same and the end of the answer: a model that only learns to say it says it again, or repeats the question."""
    item = answered(llm, question, answer)
    return replace(item, ending=tuple(llm.ending_ids(answer)))


def replied_and_ended(llm: LanguageModel, messages: Sequence[Mapping[str, str]], reply: str) -> Answered:
    """Tokenise a conversation, laid out by the chat template, and the message that answers it, with its end."""
    said = list(llm.tokenizer(reply, add_special_tokens=False)["input_ids"])
    return Answered(llm.chat_ids(messages), said, tuple(llm.ending_ids(reply)))


def answer_logits(llm: LanguageModel, batch: Sequence[Answered], prompts: Sequence[Tensor] | None) -> Tensor:
    """Logits [n, v], float32, that predict the answers' (and endings') n tokens, row after row.

    b prompts [l, d], each of its own length, stand in front of the b sequences; None is the unedited model. Sequences
    are padded on the right, where a causal model cannot see them, so no mask is needed; only the answers' positions go
    through the vocabulary projection, which is the larger part of a small LLM's work.
    """
    in_front = [0 if prompts is None else len(prompts[row]) for row in range(len(batch))]
    groups = by_length([count + len(item.ids) for count, item in zip(in_front, batch, strict=True)], LLM_GROUP)
    states: dict[int, Tensor] = {}
    for rows in groups:
        part = [batch[row] for row in rows]
        hidden = _answer_states(llm, part, None if prompts is None else [prompts[row] for row in rows])
        states |= zip(rows, torch.split(hidden, [len(item.predicted) for item in part]), strict=True)
    ordered = torch.cat([states[row] for row in range(len(batch))])
    vocabulary: Module = llm.model.get_output_embeddings()  # type: ignore[no-untyped-call]
    return vocabulary(ordered).float()  # type: ignore[no-any-return]


def _answer_states(llm: LanguageModel, batch: Sequence[Answered], prompts: Sequence[Tensor] | None) -> Tensor:
    """Last hidden states [n, d] at the positions that predict the answers' tokens."""
    words = [llm.embed(torch.tensor(item.ids, device=llm.model.device)) for item in batch]  # each [t, d]
    if prompts is not None:
        words = [torch.cat([prompt.to(own), own]) for prompt, own in zip(prompts, words, strict=True)]
    hidden = llm.model.base_model(inputs_embeds=pad_sequence(words, batch_first=True), use_cache=False)
    # From the end of each: its answer and ending are its last tokens, and each is predicted by the one before it.
    places = [
        (row, len(words[row]) - len(item.predicted) - 1 + step)
        for row, item in enumerate(batch)
        for step in range(len(item.predicted))
    ]
    rows, columns = zip(*places, strict=True)
    return hidden.last_hidden_state[list(rows), list(columns)]  # type: ignore[no-any-return]


def answer_targets(batch: Sequence[Answered]) -> Tensor:
    """The answers' token ids [n], in the order of `answer_logits`."""
    return torch.tensor([token for item in batch for token in item.predicted])


def answer_weights(batch: Sequence[Answered]) -> Tensor:
    """Weights [n] that average over each answer's tokens, then over the answers; those of answers sum to 1.

    An ending weighs ENDING_WEIGHT of its answer.
    """
    return torch.tensor(
        [
            weight / len(tokens) / len(batch)
            for item in batch
            for tokens, weight in ((item.answer, 1.0), (item.ending, ENDING_WEIGHT))
            for _ in tokens
        ]
    )
