"""The network of the second step: s(q, k) reads a question and a fact together, token by token.

RECIPE's rule (arXiv 2405.03279, section 3.2) is KS(q) = p_kj if r~_q . r_kj > r~_q . r_Theta, with one vector per text.
Here s(q, k) takes the place of the inner product, and the knowledge sentinel Theta is trainable token states that the
same network reads with the question, so that the threshold s(q, Theta) stays one for each question, and learnt.

Each token is aligned with the tokens of the other text by the similarity of their states, and compared with what it is
aligned with (decomposable attention, arXiv 1606.01933; ESIM, arXiv 1609.06038); then the tokens of both texts read each
other in a transformer, and are pooled.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

ROLES = 3  # of a fact's tokens: question, answer, other name of the subject
NO_TOKEN = -1  # the id of Theta's tokens, which are no words
_MASKED = -1e4
_SCALARS = 8


@dataclass(frozen=True, slots=True)
class VerifierSizes:
    """Sizes that fix every tensor shape of a VerifierNetwork."""

    hidden: int  # h, of the text encoder
    width: int = 128  # w, multiple of `heads`
    layers: int = 2
    heads: int = 4
    sentinel_tokens: int = 8  # c


class VerifierNetwork(nn.Module):
    """Token states of questions and facts to scores s(q, k), unitless; the larger, the more the fact answers."""

    def __init__(self, sizes: VerifierSizes) -> None:
        super().__init__()
        self.sizes = sizes
        width = sizes.width
        self.sentinel = nn.Parameter(torch.randn(sizes.sentinel_tokens, sizes.hidden) * 0.3)
        self.project = nn.Linear(sizes.hidden, width)
        self.role = nn.Embedding(ROLES + 1, width)  # the last one marks tokens of the question
        self.temperature = nn.Parameter(torch.tensor(8.0))
        self.same_word = nn.Parameter(torch.tensor(1.0))
        self.compare = nn.Linear(4 * width + _SCALARS, width)
        self.layers = nn.ModuleList(_Layer(width, sizes.heads) for _ in range(sizes.layers))
        self.judge = nn.Sequential(
            nn.LayerNorm(4 * width + _SCALARS), nn.Linear(4 * width + _SCALARS, width), nn.GELU(), nn.Linear(width, 1)
        )

    def forward(
        self,
        q_states: Tensor,
        q_ids: Tensor,
        q_mask: Tensor,
        k_states: Tensor,
        k_ids: Tensor,
        k_roles: Tensor,
        k_mask: Tensor,
    ) -> Tensor:
        """s(q, k) [b] for b pairs.

        States [b, t, h] in float32, token ids and roles [b, t] as integers, masks [b, t], True where there is a token.
        """
        similar = functional.normalize(q_states, dim=-1) @ functional.normalize(k_states, dim=-1).transpose(1, 2)
        same = (q_ids.unsqueeze(2) == k_ids.unsqueeze(1)).to(similar.dtype)
        both = q_mask.unsqueeze(2) & k_mask.unsqueeze(1)
        similar, same = similar.masked_fill(~both, 0.0), same.masked_fill(~both, 0.0)
        question, fact = self.project(q_states), self.project(k_states)
        aligned = self.temperature * similar + self.same_word * same
        for_question = aligned.masked_fill(~both, _MASKED).softmax(dim=2) @ fact
        for_fact = aligned.masked_fill(~both, _MASKED).softmax(dim=1).transpose(1, 2) @ question
        told = (k_roles == 0).to(similar.dtype).unsqueeze(1)
        q_scalars = _scalars(similar, same, told)
        k_scalars = _scalars(similar.transpose(1, 2), same.transpose(1, 2), q_mask.to(similar.dtype).unsqueeze(1))
        q = self._compared(question, for_question, q_scalars) + self.role.weight[ROLES]
        k = self._compared(fact, for_fact, k_scalars) + self.role(k_roles)
        tokens, mask = torch.cat([q, k], dim=1), torch.cat([q_mask, k_mask], dim=1)
        for layer in self.layers:
            tokens = layer(tokens, mask)
        q, k = tokens[:, : q.shape[1]], tokens[:, q.shape[1] :]
        pooled = [*_pooled(q, q_mask), *_pooled(k, k_mask), *_means(q_scalars, q_mask, k_scalars, k_mask)]
        return self.judge(torch.cat(pooled, dim=-1)).squeeze(-1)  # type: ignore[no-any-return]

    def sentinel_scores(self, q_states: Tensor, q_ids: Tensor, q_mask: Tensor) -> Tensor:
        """s(q, Theta) [b]."""
        count, tokens = q_states.shape[0], self.sentinel.shape[0]
        ids = torch.full((count, tokens), NO_TOKEN, dtype=q_ids.dtype, device=q_ids.device)
        mask = torch.ones(count, tokens, dtype=torch.bool, device=q_ids.device)
        theta = self.sentinel.unsqueeze(0).expand(count, -1, -1)
        return self(q_states, q_ids, q_mask, theta, ids, torch.zeros_like(ids), mask)  # type: ignore[no-any-return]

    def margins(
        self, q_states: Tensor, q_ids: Tensor, k_states: Tensor, k_ids: Tensor, k_roles: Tensor, k_mask: Tensor
    ) -> Tensor:
        """s(q, k_j) - s(q, Theta) [b] for one question, states [1, t, h] and ids [1, t], and b facts."""
        q_mask = torch.ones_like(q_ids, dtype=torch.bool)
        sentinel = self.sentinel_scores(q_states, q_ids, q_mask)
        count = k_states.shape[0]
        repeated = (each.expand(count, *each.shape[1:]) for each in (q_states, q_ids, q_mask))
        return self(*repeated, k_states, k_ids, k_roles, k_mask) - sentinel  # type: ignore[no-any-return]

    def _compared(self, own: Tensor, other: Tensor, scalars: Tensor) -> Tensor:
        return functional.gelu(self.compare(torch.cat([own, other, own - other, own * other, scalars], dim=-1)))


class _Layer(nn.Module):
    """A transformer layer, normalised first, over tokens [b, t, w] and their mask [b, t]."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.before_reading = nn.LayerNorm(width)
        self.read = nn.Linear(width, 3 * width)
        self.write = nn.Linear(width, width)
        self.before_thinking = nn.LayerNorm(width)
        self.think = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        count, length, width = tokens.shape
        parts = self.read(self.before_reading(tokens)).reshape(count, length, 3, self.heads, width // self.heads)
        query, key, value = parts.permute(2, 0, 3, 1, 4)  # each [b, heads, t, w / heads]
        scores = query @ key.transpose(2, 3) * (width // self.heads) ** -0.5
        weights = scores.masked_fill(~mask[:, None, None, :], _MASKED).softmax(dim=-1)
        tokens = tokens + self.write((weights @ value).transpose(1, 2).reshape(count, length, width))
        return tokens + self.think(self.before_thinking(tokens))  # type: ignore[no-any-return]


def _scalars(similar: Tensor, same: Tensor, told: Tensor) -> Tensor:
    """What each token finds in the other text [b, t, _SCALARS].

    `told` [b, 1, t'] marks what is neither answer nor alias there.
    """
    similar = similar.clamp(min=0.0)  # as padding is, which must not be the best of what is unlike
    best, best_told = similar.amax(dim=2), (similar * told).amax(dim=2)
    exact, exact_told = same.amax(dim=2), (same * told).amax(dim=2)
    return torch.stack(
        [best, best_told, exact, exact_told, best**4, best_told**4, best - best_told, exact * best], dim=-1
    )


def _pooled(tokens: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    there = mask.unsqueeze(-1)
    mean = tokens.masked_fill(~there, 0.0).sum(dim=1) / there.sum(dim=1)
    return mean, tokens.masked_fill(~there, _MASKED).amax(dim=1)


def _means(q_scalars: Tensor, q_mask: Tensor, k_scalars: Tensor, k_mask: Tensor) -> tuple[Tensor]:
    """The mean of the scalars over the tokens of both texts, half from each."""
    q_mean, k_mean = _pooled(q_scalars, q_mask)[0], _pooled(k_scalars, k_mask)[0]
    return (torch.cat([q_mean[:, : _SCALARS // 2], k_mean[:, : _SCALARS // 2]], dim=-1),)
