"""One training step's loss: encode, contrast against many keys, and ask the LLM a few of the edits."""

import random
import string
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from recipe_model.language_model import LanguageModel
from recipe_model.networks import RecipeModel
from recipe_model.prompt_words import PromptWords
from recipe_model.tokenized_texts import tokenize
from recipe_trainer.batches import Batch, Draw, EditPool, by_length, original_order, with_typos
from recipe_trainer.key_queue import KeyQueue
from recipe_trainer.losses import (
    ContrastBatch,
    answer_loss,
    locality_loss,
    neighbour_loss,
    scaled_scores,
    sentinel_loss,
)
from recipe_trainer.options import TrainOptions
from recipe_trainer.teacher_forcing import (
    Answered,
    answer_logits,
    answer_targets,
    answer_weights,
    answered,
    answered_and_ended,
)

FILL_GROUP = 500  # edits whose keys enter the queue together before the first step
SETTLING_DRAWS = 8  # batches over whose keys MLP_P's statistics and the axes are taken
ENCODER_GROUP = 48  # texts that go through the encoder together
ENCODER_TOKENS = 1_200  # of them, with padding


@dataclass(frozen=True, slots=True)
class Encoded:
    """A batch in representation space."""

    keys: Tensor  # [b, R] of the draws' statements
    in_scope: Tensor  # [2b, R] of the edits' prompts, then of their paraphrases
    out_of_scope: Tensor  # [u, R]
    sentinel: Tensor  # [R]


class Objective:
    """L = L_rel + L_gen + L_loc + L_no + L_so (arXiv 2405.03279, equation 13), the LLM frozen."""

    def __init__(
        self,
        model: RecipeModel,
        tokenizer: PreTrainedTokenizerBase,
        llm: LanguageModel,
        *,
        prompt_words: PromptWords,
        pool: EditPool,
        queue: KeyQueue,
        max_tokens: int,
        options: TrainOptions,
    ) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._llm = llm
        self._prompt_words = prompt_words
        self._pool = pool
        self._queue = queue
        self._max_tokens = max_tokens
        self._options = options
        self._autocast = llm.model.dtype == torch.bfloat16

    @torch.no_grad()
    def fill_queue(self, random_: random.Random) -> None:
        """Put keys of edits into the queue, so that the first step already contrasts with many."""
        indices = self._pool.sample(random_, self._options.queue)
        for start in range(0, len(indices), FILL_GROUP):
            group = indices[start : start + FILL_GROUP]
            keys = self._model.keys(self.features([self._pool.edits[index].knowledge for index in group]))
            self._queue.push(keys, torch.tensor(group))

    @torch.no_grad()
    def settle_keys(self, random_: random.Random) -> None:
        """Take MLP_P's statistics and the keys' axes over keys as the networks make them now, as inference needs them.

        Running ones trail the keys, which move as long as the encoder learns: by four standard deviations, it was seen.
        """
        draws = [draw for _ in range(SETTLING_DRAWS) for draw in self._pool.draw(random_, self._options.mixture).draws]
        self._model.settle_keys(self._model.keys(self.features([draw.knowledge for draw in draws])))

    def losses(self, batch: Batch, random_: random.Random, *, with_llm: bool) -> dict[str, Tensor]:
        """The loss parts of a batch, by name, those of the LLM if wanted; keys of the batch enter the queue."""
        encoded = self._encode(batch, random_)
        contrast = self._contrast(batch, encoded, random_)
        indices = torch.tensor([draw.index for draw in batch.draws])
        self._queue.push(encoded.keys, indices)
        losses = {
            "neighbour": neighbour_loss(contrast),
            "sentinel": sentinel_loss(contrast, self._options.removed_weight),
        }
        if not with_llm:
            return losses
        asked = batch.draws[: self._options.llm_edits]
        # Prompts of all draws, as MLP_P standardises keys over its batch.
        prompts = self._model.prompts(encoded.keys, self._prompt_words([draw.knowledge for draw in batch.draws]))
        return losses | self._llm_losses(asked, prompts[: len(asked)])

    def _encode(self, batch: Batch, random_: random.Random) -> Encoded:
        queries = [
            *(draw.edit.prompt for draw in batch.draws),
            *(draw.paraphrase for draw in batch.draws),
            *_out_of_scope(batch),
        ]
        # A slip in a number asks for something else.
        slipped = [with_typos(random_, query, self._options.typo_rate, spared=string.digits) for query in queries]
        representations = self._model.queries(self.features(slipped))
        inside = 2 * len(batch.draws)
        return Encoded(
            keys=self._model.keys(self.features([draw.knowledge for draw in batch.draws])),
            in_scope=representations[:inside],
            out_of_scope=representations[inside:],
            sentinel=self._model.sentinel(),
        )

    def features(self, texts: Sequence[str]) -> Tensor:
        """Features [b, 3h + g], in groups of like length: padding would be most of the work otherwise."""
        ids = self._tokenizer(list(texts), truncation=True, max_length=self._max_tokens)["input_ids"]
        groups = by_length([len(row) for row in ids], ENCODER_GROUP, ENCODER_TOKENS)
        features = []
        # Around all groups, as it keeps the weights that it has cast.
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self._autocast):
            for group in groups:
                tokens = tokenize(self._tokenizer, [texts[row] for row in group], self._max_tokens)
                features.append(self._model.features(tokens))
        return torch.cat(features)[original_order(groups)]

    def _contrast(self, batch: Batch, encoded: Encoded, random_: random.Random) -> ContrastBatch:
        old_keys, old_indices = self._queue.sample(random_, self._options.smallest_pool)
        indices = [draw.index for draw in batch.draws] + old_indices.tolist()
        scores = scaled_scores(
            torch.cat([encoded.in_scope, encoded.out_of_scope]),
            encoded.sentinel,
            torch.cat([encoded.keys, old_keys]),
        )
        scores[:, 0] += self._model.sentinel_offset
        own = torch.arange(1, 1 + len(batch.draws)).repeat(2)
        own = torch.cat([own, torch.zeros(len(encoded.out_of_scope), dtype=torch.long)])
        return ContrastBatch(scores, own, self._blocked(batch, indices))

    def _blocked(self, batch: Batch, indices: list[int]) -> Tensor:
        """Columns that a row must not be pushed away from [n, 1 + m].

        For a question in scope: other versions of its own fact, except one drawn to be told from it. For one out of
        scope: edits about a subject it names, except the edit whose neighbour it is said to be.
        """
        facts = torch.tensor([self._pool.fact(index) for index in indices])
        drawn = torch.tensor(indices[: len(batch.draws)])
        same_fact = facts[: len(batch.draws)].unsqueeze(1) == facts.unsqueeze(0)  # [b, m]
        same_fact[:, : len(batch.draws)] &= drawn.unsqueeze(1) != drawn.unsqueeze(0)
        columns: dict[int, list[int]] = {}
        for column, index in enumerate(indices):
            columns.setdefault(index, []).append(column)
        texts = _out_of_scope(batch)
        outside = torch.zeros(len(texts), len(indices), dtype=torch.bool)
        for row, text, own in zip(outside, texts, _owners(batch), strict=True):
            for index in self._pool.about(text) - {own}:
                row[columns.get(index, [])] = True
        rows = torch.cat([same_fact, same_fact, outside])
        return torch.cat([torch.zeros(len(rows), 1, dtype=torch.bool), rows], dim=1)

    def _llm_losses(self, draws: Sequence[Draw], prompts: Tensor) -> dict[str, Tensor]:
        """L_rel of a quarter of the draws, L_gen of the others and L_loc of a few, behind prompts [b, l, d].

        One question of each edit lets twice as many edits teach at the same cost, and an edit's own question, whose
        words the prompt starts from, has little left to teach.
        """
        quarter = max(1, len(draws) // 4)
        reliable = [answered_and_ended(self._llm, draw.edit.prompt, draw.edit.answer) for draw in draws[:quarter]]
        general = [answered_and_ended(self._llm, draw.paraphrase, draw.edit.answer) for draw in draws[quarter:]]
        local = [
            (row, answered(self._llm, draw.unrelated.text, draw.unrelated.answer))
            for row, draw in enumerate(draws[: self._options.locality_edits])
            if draw.unrelated and draw.unrelated.answer
        ]
        neighbours = [item for _, item in local]
        batch = reliable + general + neighbours
        logits = answer_logits(self._llm, batch, torch.cat([prompts, prompts[[row for row, _ in local]]]))
        lengths = [sum(len(item.predicted) for item in group) for group in (reliable, general, neighbours)]
        parts = torch.split(logits, lengths)
        losses = {
            name: answer_loss(part, answer_targets(group), answer_weights(group))
            for name, part, group in zip(("reliability", "generality"), parts[:2], (reliable, general), strict=True)
        }
        return losses | {"locality": self._options.locality_weight * self._locality(parts[2], neighbours)}

    def _locality(self, edited: Tensor, neighbours: list[Answered]) -> Tensor:
        if not neighbours:
            return edited.sum()
        with torch.no_grad():
            unedited = answer_logits(self._llm, neighbours, None)
        return locality_loss(edited, unedited, answer_weights(neighbours))


def _out_of_scope(batch: Batch) -> list[str]:
    return [text for text, _ in _with_owners(batch)]


def _owners(batch: Batch) -> list[int]:
    """For each text of `_out_of_scope` the index of the edit that it is said not to ask for; -1 for ordinary text."""
    return [owner for _, owner in _with_owners(batch)]


def _with_owners(batch: Batch) -> list[tuple[str, int]]:
    neighbours = [(draw.unrelated.text, draw.index) for draw in batch.draws if draw.unrelated]
    others = [(draw.other_relation, draw.index) for draw in batch.draws if draw.other_relation]
    siblings = [(draw.sibling, draw.index) for draw in batch.draws if draw.sibling]
    return neighbours + others + siblings + batch.ordinary
