"""The decision as the paper has it (arXiv 2405.03279, section 3.2), to compare with: one vector, one inner product.

r_k = MLP_K(f(k)), r~_q = MLP_Q(f(q)); q hits j = argmax_i r~_q . r_ki exactly when r~_q . r_kj > r~_q . r_Theta. The
text encoder stays as it was pre-trained, so its features are computed once, and r_Theta is learnt as it is.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from recipe_common.progress import with_progress
from recipe_model.networks import RepresentationHead, pool
from recipe_model.pretrained import TextEncoder
from recipe_model.tokenized_texts import tokenize
from recipe_trainer.batches import by_length
from recipe_trainer.datasets import Edit

Features = Callable[[Sequence[str]], Tensor]  # texts to features [b, f] of the frozen encoder
_GROUP = 64  # texts that go through the encoder together
BATCH = 128  # edits a step, all of whose keys are told apart
_LEARNING_RATE = 1e-3
_STARTING_GAIN = 0.7  # a question's similarity to its fact, divided by sqrt(R), then starts at about 15
_REMOVED_WEIGHT = 0.3  # of questions whose own fact is taken away


class PaperForm(nn.Module):
    """MLP_K, MLP_Q and the sentinel r_Theta [R], over features [b, f]."""

    def __init__(self, features: Tensor, representation: int) -> None:
        super().__init__()
        self.key_head = RepresentationHead(features.shape[1], representation)
        with torch.no_grad():
            self.key_head.center.copy_(features.mean(dim=0))
            self.key_head.spread.copy_((features - self.key_head.center).square().mean().sqrt())
            nn.init.orthogonal_(self.key_head.project.weight, gain=_STARTING_GAIN)
            self.key_head.project.bias.zero_()
            self.key_head.refine.weight.mul_(0.1)
        self.query_head = RepresentationHead(features.shape[1], representation)
        self.query_head.load_state_dict(self.key_head.state_dict())
        self.sentinel = nn.Parameter(self.key_head(features).mean(dim=0).detach())

    def scores(self, queries: Tensor, keys: Tensor) -> Tensor:
        """Features [n, f] of questions and [m, f] of facts to r~_q . r / sqrt(R) [n, 1 + m], the sentinel's first."""
        columns = torch.cat([self.sentinel.unsqueeze(0), self.key_head(keys)])
        return self.query_head(queries) @ columns.T / float(columns.shape[1] ** 0.5)  # type: ignore[no-any-return]

    @torch.no_grad()
    def decide(self, queries: Tensor, keys: Tensor) -> Tensor:
        """For features [n, f] of questions the row of the fact that each hits among [m, f], -1 for none."""
        return self.scores(queries, keys).argmax(dim=1) - 1


@dataclass(frozen=True, slots=True)
class _Cached:
    """Features of edits, of one paraphrase each and of one unrelated question each."""

    keys: Tensor
    prompts: Tensor
    paraphrases: Tensor
    unrelated: Tensor


@torch.no_grad()
def frozen_features(encoder: TextEncoder, texts: Sequence[str]) -> Tensor:
    """Features [b, 3h] of texts, in groups of like length: padding would be most of the work otherwise."""
    found: dict[int, Tensor] = {}
    for rows in with_progress(by_length([len(text) for text in texts], _GROUP), "encoding texts"):
        tokens = tokenize(encoder.tokenizer, [texts[row] for row in rows], encoder.max_tokens)
        hidden = encoder.model(input_ids=tokens.input_ids, attention_mask=tokens.attention_mask).last_hidden_state
        found |= zip(rows, pool(hidden.float(), tokens.question_mask), strict=True)
    return torch.stack([found[row] for row in range(len(texts))])


def train_paper_form(
    edits: Sequence[Edit], features: Features, representation: int, steps: int, seed: int
) -> PaperForm:
    """Train both heads and the sentinel with L_no + L_so, for so many steps."""
    torch.manual_seed(seed)
    random_ = random.Random(seed)  # noqa: S311 (no secret)
    cached = _Cached(
        features([edit.knowledge for edit in edits]),
        features([edit.prompt for edit in edits]),
        features([random_.choice(edit.paraphrases) for edit in edits]),
        features([random_.choice(edit.unrelated).text for edit in edits]),
    )
    form = PaperForm(cached.keys, representation)
    optimizer = torch.optim.AdamW(form.parameters(), lr=_LEARNING_RATE)
    for _ in range(steps):
        rows = torch.tensor(random_.sample(range(len(edits)), min(BATCH, len(edits))))
        loss = _loss(form, cached, rows)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return form.eval()


def _loss(form: PaperForm, cached: _Cached, rows: Tensor) -> Tensor:
    """InfoNCE of questions to their own fact, of unrelated ones and of those without their fact to the sentinel."""
    queries = torch.cat([cached.prompts[rows], cached.paraphrases[rows], cached.unrelated[rows]])
    scores = form.scores(queries, cached.keys[rows])
    inside, outside = scores[: 2 * len(rows)], scores[2 * len(rows) :]
    own = torch.arange(1, 1 + len(rows)).repeat(2)
    removed = inside.masked_fill(functional.one_hot(own, inside.shape[1]).bool(), -torch.inf)
    nothing = torch.zeros_like(own)
    return (
        functional.cross_entropy(inside, own)
        + functional.cross_entropy(outside, nothing[: len(outside)])
        + _REMOVED_WEIGHT * functional.cross_entropy(removed, nothing)
    )
