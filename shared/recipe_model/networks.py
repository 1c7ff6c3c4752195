"""The networks of RECIPE (arXiv 2405.03279, section 3), named as in the paper, around a frozen text encoder f_rm.

    f(k)    = pool(f_rm(k))          features of a fact's question                          [3h]
    r_k     = MLP_K(f(k))            knowledge representation, from which the prompt comes  [R]
    p_k     = w_k + MLP_P(r_k)       continuous prompt in the LLM's embedding space         [l, d]
    v_k, v_q                         what is searched: the encoder's mean state of a question, of length 1, beside the
                                     signature of its numbers, of length 1 together         [h + NUMBERS]
    s(q, k)                          the verifier, over the token states of both texts      (see verifier_network.py)

A query q hits k_j, the best of the candidates that the vectors find, exactly when s(q, k_j) > s(q, Theta). The paper
has r~_q . r_k in the place of s, with an encoder trained for it; deploy/decisions/0041 says what that could not tell
apart. The encoder stays as pre-training left it.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

from recipe_model.number_signature import NUMBERS
from recipe_model.tokenized_texts import TokenizedTexts
from recipe_model.verifier_network import VerifierNetwork, VerifierSizes

OWN_PART = 0.1  # of the words' scale: what a step of the optimiser moves MLP_P's part by, against the words
STARTING_GAIN = 0.7


@dataclass(frozen=True, slots=True)
class RecipeSizes:
    """Sizes that fix every tensor shape of a RecipeModel."""

    encoder_hidden: int  # h
    llm_hidden: int  # d
    representation: int = 1024  # R
    prompt_tokens: int = 16  # l
    sentinel_tokens: int = 8  # c
    verifier_width: int = 128  # w
    verifier_layers: int = 2

    @property
    def features(self) -> int:
        return 3 * self.encoder_hidden

    @property
    def vector(self) -> int:
        """Of what is searched."""
        return self.encoder_hidden + NUMBERS

    @property
    def verifier(self) -> VerifierSizes:
        return VerifierSizes(
            self.encoder_hidden, self.verifier_width, self.verifier_layers, sentinel_tokens=self.sentinel_tokens
        )


class RepresentationHead(nn.Module):
    """MLP_K: x = W1 f + b1, r = x + ReLU(W2 x + b2). Features f [b, 3h] to representations [b, R].

    f is centred and scaled by constants first. W1 and b1 could do the same, but what all texts have in common is most
    of f, and each step of the optimiser would shift all representations along it.
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
    (running statistics at inference), p_0 is a learnt prompt common to all facts, and s is a fixed scale.
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


class RecipeModel(nn.Module):
    """The frozen text encoder, and all that RECIPE trains: MLP_K, MLP_P and the verifier with its sentinel.

    The confidence in a margin m is sigmoid(scale m + offset); scale and offset are calibrated after training.
    The least confidence of a hit, likelier than not, and the least similarity of a candidate are given.
    """

    confidence_scale: Tensor
    confidence_offset: Tensor
    min_confidence: Tensor
    min_similarity: Tensor

    def __init__(self, encoder: PreTrainedModel, sizes: RecipeSizes) -> None:
        super().__init__()
        self.sizes = sizes
        self.encoder = encoder.requires_grad_(False)
        self.key_head = RepresentationHead(sizes.features, sizes.representation)
        self.prompt_head = PromptHead(sizes)
        self.verifier = VerifierNetwork(sizes.verifier)
        self.register_buffer("confidence_scale", torch.ones(()))
        self.register_buffer("confidence_offset", torch.zeros(()))
        self.register_buffer("min_confidence", torch.tensor(0.5))
        self.register_buffer("min_similarity", torch.tensor(0.3))

    def states(self, texts: TokenizedTexts) -> Tensor:
        """f_rm(.): hidden states [b, t, h] in float32."""
        hidden = self.encoder(input_ids=texts.input_ids, attention_mask=texts.attention_mask).last_hidden_state
        return hidden.float()  # type: ignore[no-any-return]

    def keys(self, hidden: Tensor, question_mask: Tensor) -> Tensor:
        """r_k [b, R]: no answer or other name is in the pooling, though the encoder has read them."""
        return self.key_head(pool(hidden, question_mask))  # type: ignore[no-any-return]

    def prompts(self, keys: Tensor, words: Tensor) -> Tensor:
        """p_k: keys [b, R] and the words [b, l, d] their prompts start from, to continuous prompts [b, l, d]."""
        return self.prompt_head(keys, words)  # type: ignore[no-any-return]

    def settle_keys(self, keys: Tensor) -> None:
        """Take the statistics of MLP_P over typical keys r_k [n, R]."""
        with torch.no_grad():
            statistics = self.prompt_head.standardise
            statistics.get_buffer("running_mean").copy_(keys.mean(dim=0))
            statistics.get_buffer("running_var").copy_(keys.var(dim=0))

    def start_keys(self, typical_features: Tensor) -> None:
        """Start MLP_K as an orthogonal projection of centred, scaled features [b, 3h]."""
        head = self.key_head
        with torch.no_grad():
            head.center.copy_(typical_features.mean(dim=0))
            head.spread.copy_((typical_features - head.center).square().mean().sqrt())
            nn.init.orthogonal_(head.project.weight, gain=STARTING_GAIN)
            head.project.bias.zero_()
            head.refine.weight.mul_(0.1)  # near the identity, and not so near that no gradient flows

    def start_prompts(self, words_rms: float) -> None:
        """Start the prompts at the words they are made from; what MLP_P learns to add is measured in words' scale.

        `words_rms` is the root mean square of the LLM's word embeddings.
        """
        with torch.no_grad():
            self.prompt_head.scale.fill_(OWN_PART * words_rms)
            self.prompt_head.project.weight.zero_()


def question_means(hidden: Tensor, question_mask: Tensor) -> Tensor:
    """The mean state of each question, of length 1: hidden [b, t, h], mask [b, t] to [b, h]."""
    weights = question_mask.unsqueeze(-1).to(hidden.dtype)
    return functional.normalize((hidden * weights).sum(dim=1) / weights.sum(dim=1), dim=-1)
