"""Token states of many texts, computed by the frozen encoder once: a step of training then costs the verifier only."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from recipe_model.networks import question_means
from recipe_model.pretrained import TextEncoder
from recipe_model.tokenized_texts import tokenize

_TOKENS_AT_ONCE = 6_000
_REPORT_EVERY = 50_000  # texts
LONGEST = 64  # tokens of a text that are read in training


@dataclass(frozen=True, slots=True)
class StateBank:
    """States of all tokens in a row, without padding, in half precision: 768 bytes a token for an encoder of 384."""

    states: Tensor  # [n, h] float16
    ids: Tensor  # [n] int32
    roles: Tensor  # [n] uint8
    starts: Tensor  # [texts + 1]
    vectors: Tensor  # [texts, h] float16, of length 1: the mean over the tokens of a text's question

    def lengths(self, rows: Tensor) -> Tensor:
        """Tokens of texts, with those that begin and end them."""
        return self.starts[rows + 1] - self.starts[rows]

    def questions(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """States [b, t, h] in float32, ids and mask [b, t] of texts, without the tokens that begin and end them."""
        tokens, mask = self._places(rows)
        return self.states[tokens].float(), self.ids[tokens].long(), mask

    def facts(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """States, ids, roles and mask of texts, likewise."""
        tokens, mask = self._places(rows)
        return self.states[tokens].float(), self.ids[tokens].long(), self.roles[tokens].long(), mask

    def _places(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Where the tokens of texts lie [b, t], and where there is one."""
        starts = self.starts[rows] + 1
        lengths = self.starts[rows + 1] - 1 - starts
        places = torch.arange(int(lengths.max())).unsqueeze(0)
        mask = places < lengths.unsqueeze(1)
        return torch.where(mask, starts.unsqueeze(1) + places, starts.unsqueeze(1)), mask


@torch.inference_mode()
def fill_bank(encoder: TextEncoder, texts: Sequence[str]) -> StateBank:
    """Encode texts, the shortest first; what exceeds LONGEST tokens is not read."""
    lengths = [min(len(ids), LONGEST) for ids in encoder.tokenizer(list(texts))["input_ids"]]
    starts = torch.tensor([0, *lengths]).cumsum(dim=0)
    hidden, total = encoder.identity.hidden_size, int(starts[-1])
    bank = StateBank(
        torch.empty(total, hidden, dtype=torch.float16),
        torch.empty(total, dtype=torch.int32),
        torch.empty(total, dtype=torch.uint8),
        starts,
        torch.empty(len(texts), hidden, dtype=torch.float16),
    )
    order = sorted(range(len(texts)), key=lengths.__getitem__)
    begun, done = time.monotonic(), 0
    while done < len(order):
        rows = order[done : done + max(1, _TOKENS_AT_ONCE // lengths[order[done]])]
        _encode_into(bank, encoder, rows, [texts[row] for row in rows])
        if (done + len(rows)) // _REPORT_EVERY != done // _REPORT_EVERY:
            print(f"encoded {done + len(rows)} of {len(order)} texts, {time.monotonic() - begun:.0f} s", flush=True)
        done += len(rows)
    return bank


def _encode_into(bank: StateBank, encoder: TextEncoder, rows: Sequence[int], texts: Sequence[str]) -> None:
    tokens = tokenize(encoder.tokenizer, texts, LONGEST)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = encoder.model(input_ids=tokens.input_ids, attention_mask=tokens.attention_mask)
    hidden = output.last_hidden_state.float()
    bank.vectors[list(rows)] = question_means(hidden, tokens.question_mask).half()
    there = tokens.attention_mask.bool()
    places = torch.cat([torch.arange(int(bank.starts[row]), int(bank.starts[row + 1])) for row in rows])
    bank.states[places] = hidden[there].half()
    bank.ids[places] = tokens.input_ids[there].int()
    bank.roles[places] = tokens.roles[there].to(torch.uint8)
