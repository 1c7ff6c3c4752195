"""The trainable networks of RECIPE (arXiv 2405.03279, section 3), named and shaped as in the paper.

    f(t)    = pool(f_rm(t)) ++ s(t)     features, s the spelling (see spelling.py)             [3h + g]
                                        both of the question in t: see tokenized_texts.py
    r_k     = MLP_K(f(k))               knowledge representation, the key that is searched     [R]
    r~_q    = MLP_Q(f(q))               query representation                                   [R]
    p_k     = w_k + MLP_P(r_k)          continuous prompt in the LLM's embedding space         [l, d]
    r_Theta = MLP_K(pool(f_rm(Theta)) ++ 0)  knowledge sentinel, Theta = c trainable pseudo-tokens  [R]

Among n facts a query hits j = argmax_j r~_q . r_kj exactly when
r~_q . r_kj > r~_q . r_Theta + sqrt(R) (a + b ln+(n / 1000) + gamma ln sum_i exp(r~_q . (r_ki - r_kj) / sqrt(R))),
ln+ being 0 below 1. The last terms are not the paper's: the best of n wrong keys grows with n, and the sentinel with
it; a moves it for all questions alike; and a fact in a crowd of facts that are as similar must beat it by more than
one that stands alone, for which the sum is 1. It is over the nearest facts i (see recipe_store/crowd.py).
What is stored and searched are keys and queries along other axes (`stored_keys`), which leaves the margins as they are.
"""

import math
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

from recipe_model.spelling import Spelling
from recipe_model.tokenized_texts import TokenizedTexts

OWN_PART = 0.1  # of the words' scale: what a step of the optimiser moves MLP_P's part by, against the words
SPELLED_PART = 0.7  # of the pooled features' spread: what the spelling's are given to start with
SENTINEL_FACTS = 1_000  # the largest number of facts at which the threshold is r~_q . r_Theta itself
STARTING_GAIN = 0.7  # a question's similarity to its statement, divided by sqrt(R), then starts at about 15


@dataclass(frozen=True, slots=True)
class RecipeSizes:
    """Sizes that fix every tensor shape of a RecipeModel."""

    encoder_hidden: int  # h
    llm_hidden: int  # d
    representation: int = 1024  # R
    prompt_tokens: int = 16  # l
    sentinel_tokens: int = 10  # c
    spelling: int = 0  # g

    @property
    def features(self) -> int:
        return 3 * self.encoder_hidden + self.spelling


class RepresentationHead(nn.Module):
    """MLP_K and MLP_Q: x = W1 h + b1, r = x + ReLU(W2 x + b2). Features h [b, 3h + g] to representations [b, R].

    h is centred and scaled by constants first. W1 and b1 could do the same, but what all texts have in common is most
    of h, and each step of the optimiser would shift all representations along it.
    """

    center: Tensor
    spread: Tensor

    def __init__(self, features: int, representation: int) -> None:
        super().__init__()
        self.register_buffer("center", torch.zeros(features))
        self.register_buffer("spread", torch.ones(()))
        self.project = nn.Linear(features, representation)
        self.refine = nn.Linear(representation, representation)

    def forward(self, features: Tensor) -> Tensor:
        x = self.project((features - self.center) / self.spread)
        return x + torch.relu(self.refine(x))  # type: ignore[no-any-return]


class PromptHead(nn.Module):
    """MLP_P: y = n + ReLU(A n), p = w + p_0 + s B y, n the standardised r_k.

    Keys [b, R] and the words w [b, l, d] that the prompts start from, to continuous prompts [b, l, d].

    Beyond the paper, w are words of the fact in the LLM's own embedding space, r_k is standardised per component
    (running statistics at inference), p_0 is a learnt prompt common to all facts, and s is a fixed scale. The
    contrastive losses give all keys a large component in common; left in, it swells the prompts to a hundred times the
    scale of words, where the LLM's gradient vanishes.
    """

    standardise: nn.BatchNorm1d
    scale: Tensor

    def __init__(self, sizes: RecipeSizes) -> None:
        super().__init__()
        self.standardise = nn.BatchNorm1d(sizes.representation, affine=False)
        self.refine = nn.Linear(sizes.representation, sizes.representation, bias=False)
        self.project = nn.Linear(sizes.representation, sizes.prompt_tokens * sizes.llm_hidden, bias=False)
        self.common = nn.Parameter(torch.zeros(sizes.prompt_tokens, sizes.llm_hidden))
        self.register_buffer("scale", torch.ones(()))

    def forward(self, keys: Tensor, words: Tensor) -> Tensor:
        n = self.standardise(keys)
        y = n + torch.relu(self.refine(n))
        own: Tensor = self.scale * self.project(y)
        return words + self.common + own.reshape(-1, *self.common.shape)


def pool(hidden: Tensor, mask: Tensor) -> Tensor:
    """Concatenate max, min and mean over the unmasked tokens: hidden [b, t, h], mask [b, t] to [b, 3h]."""
    padding = ~mask.bool().unsqueeze(-1)
    infinity = torch.finfo(hidden.dtype).max
    highest = hidden.masked_fill(padding, -infinity).amax(dim=1)
    lowest = hidden.masked_fill(padding, infinity).amin(dim=1)
    mean = hidden.masked_fill(padding, 0).sum(dim=1) / mask.sum(dim=1, keepdim=True).to(hidden.dtype)
    return torch.cat([highest, lowest, mean], dim=-1)


def sentinel_rise(facts: int) -> float:
    """ln+(n / SENTINEL_FACTS), what b sqrt(R) is multiplied by among n facts."""
    return math.log(max(1.0, facts / SENTINEL_FACTS))


class RecipeModel(nn.Module):
    """All that RECIPE trains: the text encoder f_rm, its three heads and the sentinel's pseudo-tokens Theta.

    The sentinel's offset a, growth b and crowd gamma are given, not trained, and the axes are taken from keys. The
    encoder's word embeddings stay frozen: a checkpoint then holds only what training changed, and words that training
    never saw keep the place pre-training gave them.
    """

    sentinel_offset: Tensor
    sentinel_growth: Tensor
    sentinel_crowd: Tensor
    key_axes: Tensor

    def __init__(self, encoder: PreTrainedModel, sizes: RecipeSizes) -> None:
        super().__init__()
        self.sizes = sizes
        self.encoder = encoder
        self.encoder.get_input_embeddings().requires_grad_(False)
        self.spelling = Spelling(sizes.spelling) if sizes.spelling else None
        self.key_head = RepresentationHead(sizes.features, sizes.representation)
        self.query_head = RepresentationHead(sizes.features, sizes.representation)
        self.prompt_head = PromptHead(sizes)
        self.sentinel_tokens = nn.Parameter(self._random_words(sizes.sentinel_tokens))
        self.register_buffer("sentinel_offset", torch.zeros(()))  # a
        self.register_buffer("sentinel_growth", torch.zeros(()))  # b
        self.register_buffer("sentinel_crowd", torch.zeros(()))  # gamma
        self.register_buffer("key_axes", torch.eye(sizes.representation))

    def features(self, texts: TokenizedTexts) -> Tensor:
        """f(.): texts to features [b, 3h + g].

        A marked answer is read by the encoder, but is in neither the pooling nor the spelling: no question holds it.
        """
        hidden = self.encoder(input_ids=texts.input_ids, attention_mask=texts.attention_mask).last_hidden_state
        pooled = pool(hidden.float(), texts.question_mask)
        return pooled if self.spelling is None else torch.cat([pooled, self.spelling(texts.questions)], dim=-1)

    def keys(self, features: Tensor) -> Tensor:
        """r_k: features [b, 3h + g] of knowledge statements to keys [b, R]."""
        return self.key_head(features)  # type: ignore[no-any-return]

    def queries(self, features: Tensor) -> Tensor:
        """r~_q: features [b, 3h + g] of questions to query representations [b, R]."""
        return self.query_head(features)  # type: ignore[no-any-return]

    def prompts(self, keys: Tensor, words: Tensor) -> Tensor:
        """p_k: keys [b, R] and the words [b, l, d] their prompts start from, to continuous prompts [b, l, d]."""
        return self.prompt_head(keys, words)  # type: ignore[no-any-return]

    def sentinel(self) -> Tensor:
        """r_Theta [R], from the pseudo-tokens through encoder and MLP_K."""
        tokens = self.sentinel_tokens.unsqueeze(0)  # [1, c, h]
        mask = torch.ones(tokens.shape[:2], dtype=torch.long, device=tokens.device)
        hidden = self.encoder(inputs_embeds=tokens, attention_mask=mask).last_hidden_state
        pooled = pool(hidden.float(), mask)
        return self.keys(functional.pad(pooled, (0, self.sizes.spelling))).squeeze(0)

    def stored_keys(self, keys: Tensor) -> Tensor:
        """What is stored of keys r_k [b, R], and compared of the sentinel: without the mean key, along `key_axes`."""
        return (keys - self.key_center) @ self.key_axes

    def searching_queries(self, queries: Tensor) -> Tensor:
        """Query representations r~_q [b, R] along `key_axes`: the inner products with what is stored of keys."""
        return queries @ self.key_axes

    @property
    def key_center(self) -> Tensor:
        """The mean key [R], which all keys, and the sentinel, are close to against their length.

        To take it from both leaves every decision as it is, and what is stored is a tenth as long.
        """
        return self.prompt_head.standardise.get_buffer("running_mean")

    @property
    def threshold_offset(self) -> float:
        """a sqrt(R), which the threshold holds beside r~_q . r_Theta."""
        return float(self.sentinel_offset) * float(self.sizes.representation**0.5)

    @property
    def threshold_growth(self) -> float:
        """b sqrt(R), by which the threshold rises for each `sentinel_rise`."""
        return float(self.sentinel_growth) * float(self.sizes.representation**0.5)

    @property
    def threshold_crowd(self) -> float:
        """gamma, by which the threshold of a fact rises in a crowd."""
        return float(self.sentinel_crowd)

    def settle_keys(self, keys: Tensor) -> None:
        """Take the statistics of MLP_P and the axes over typical keys r_k [n, R].

        The axes are the principal ones of the keys, columns of `key_axes`, that of the largest variance first. As they
        are orthonormal, no inner product changes, and the first numbers of a stored key tell most of it.
        """
        with torch.no_grad():
            mean = keys.mean(dim=0)
            statistics = self.prompt_head.standardise
            statistics.get_buffer("running_mean").copy_(mean)
            statistics.get_buffer("running_var").copy_(keys.var(dim=0))
            deviations = (keys - mean).double()
            _, axes = torch.linalg.eigh(deviations.T @ deviations)  # ascending
            self.key_axes.copy_(axes.flip(1))

    def start_heads(self, typical_features: Tensor) -> None:
        """Start both representation heads as one orthogonal projection of centred, scaled features [b, 3h + g].

        A question then finds its statement by what pre-training knows of their likeness, before any training; two
        random heads know nothing of each other, and learning that again costs the encoder what it knew.
        """
        head = self.key_head
        with torch.no_grad():
            if self.spelling is not None:
                typical_features = self._balanced(self.spelling, typical_features)
            head.center.copy_(typical_features.mean(dim=0))
            head.spread.copy_((typical_features - head.center).square().mean().sqrt())
            nn.init.orthogonal_(head.project.weight, gain=STARTING_GAIN)
            head.project.bias.zero_()
            head.refine.weight.mul_(0.1)  # near the identity, and not so near that no gradient flows
            self.query_head.load_state_dict(head.state_dict())

    def start_prompts(self, words_rms: float) -> None:
        """Start the prompts at the words they are made from; what MLP_P learns to add is measured in words' scale.

        `words_rms` is the root mean square of the LLM's word embeddings.
        """
        with torch.no_grad():
            self.prompt_head.scale.fill_(OWN_PART * words_rms)
            self.prompt_head.project.weight.zero_()

    def _balanced(self, spelling: Spelling, features: Tensor) -> Tensor:
        """Scale the spelling to SPELLED_PART of the pooled features' spread; returns the features [b, 3h + g] so."""
        pooled, spelled = features[:, : -spelling.size], features[:, -spelling.size :]
        spreads = [part.sub(part.mean(dim=0)).square().mean().sqrt() for part in (pooled, spelled)]
        factor = SPELLED_PART * spreads[0] / spreads[1]
        spelling.scale.mul_(factor)
        return torch.cat([pooled, factor * spelled], dim=-1)

    def _random_words(self, count: int) -> Tensor:
        words = cast("Tensor", self.encoder.get_input_embeddings().weight)
        rows = torch.randint(len(words), (count,))
        return words[rows].detach().float().clone()
