"""Training of the second step: the verifier learns to tell what asks for a fact from what only looks alike.

A step takes some facts, each with one question that asks for it and two that do not; both also meet facts that the
first step finds near them, and ordinary texts meet the nearest fact. The loss is the binary cross-entropy of the margin
s(q, k) - s(q, Theta), so that the sentinel Theta is learnt as the threshold of each question. The encoder is frozen:
all states are computed once.
"""

import random
import time
from bisect import bisect
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional

from recipe_model.networks import RecipeModel
from recipe_model.pretrained import TextEncoder
from recipe_trainer.corpus import Case, Corpus, own_question
from recipe_trainer.options import TrainOptions
from recipe_trainer.runs import Report, rate, restore_state, save_state
from recipe_trainer.state_bank import fill_bank

PART: Final = "verifier"
REPORT_EVERY: Final = 100
SAVE_EVERY: Final = 500
NEIGHBOURS: Final = 12  # facts near a question, out of which rivals are drawn
_WARMUP: Final = 200
_CHUNKS: Final = 4  # of a step's pairs, each padded by itself
_SOURCES: Final = {"relations": 3.0, "edits": 0.7, "counterfact": 0.7, "disfl_qa": 0.7}
_WORDED_BY_PEOPLE: Final = frozenset(
    ("ambigqa", "qa2d", "webquestions", "lcquad1", "lcquad2", "qald", "hallueditbench", "squad_para", "quora")
)


@dataclass(frozen=True, slots=True)
class Pairs:
    """Questions and facts by their rows in the bank [n], whether the fact answers, and how much each pair counts."""

    questions: Tensor
    facts: Tensor
    answers: Tensor
    weights: Tensor


def verifier_tensors(model: RecipeModel) -> dict[str, Tensor]:
    """What this part trains, by its name in the verifier."""
    return dict(model.verifier.named_parameters())


def train_verifier(
    model: RecipeModel, encoder: TextEncoder, options: TrainOptions, corpus: Corpus, folder: Path
) -> None:
    """Train `model.verifier` in place; goes on from the folder's state if there is one."""
    folder.mkdir(parents=True, exist_ok=True)
    VerifierTrainer(model, encoder, options, corpus, folder).run()


class VerifierTrainer:
    """The loop, its optimiser and its state."""

    def __init__(
        self, model: RecipeModel, encoder: TextEncoder, options: TrainOptions, corpus: Corpus, folder: Path
    ) -> None:
        self._network = model.verifier
        self._options = options
        self._tensors = verifier_tensors(model)
        self._optimizer = torch.optim.AdamW(
            self._network.parameters(), lr=0.0, weight_decay=options.weight_decay, betas=(0.9, 0.98)
        )
        self._file = folder / f"{PART}.safetensors"
        self._step = restore_state(self._file, self._tensors, self._optimizer)
        self._report = Report(folder, PART, options.steps_verifier)
        self._report.forget_after(self._step)
        if self._step < options.steps_verifier:
            self._draws = PairDraws(corpus, encoder, options)

    def run(self) -> None:
        """Train to the last step."""
        self._network.train()
        since, total, right, steps = time.monotonic(), 0.0, 0.0, 0
        while self._step < self._options.steps_verifier:
            loss, correct = self._train_step()
            total, right, steps = total + loss, right + correct, steps + 1
            last = self._step == self._options.steps_verifier
            if last or self._step % SAVE_EVERY == 0:
                save_state(self._file, self._step, self._tensors, self._optimizer)
            if last or self._step % REPORT_EVERY == 0:
                figures = {"loss": total / steps, "right": right / steps}
                self._report.add(self._step, figures, (time.monotonic() - since) / steps, {})
                since, total, right, steps = time.monotonic(), 0.0, 0.0, 0
        self._network.eval()

    def _train_step(self) -> tuple[float, float]:
        """One optimiser step; returns its loss and the share of pairs on the right side of the sentinel."""
        share = rate(self._step, self._options.steps_verifier, _WARMUP)
        for group in self._optimizer.param_groups:
            group["lr"] = self._options.verifier_learning_rate * share
        pairs = self._draws.draw(self._step)
        margins = self._margins(pairs)
        each = functional.binary_cross_entropy_with_logits(margins, pairs.answers, reduction="none")
        loss = (each * pairs.weights).sum() / pairs.weights.sum()
        self._optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self._network.parameters(), self._options.gradient_norm)
        self._optimizer.step()
        self._step += 1
        correct = ((margins > 0) == (pairs.answers > 0)).float().mean()
        return float(loss.detach()), float(correct)

    def _margins(self, pairs: Pairs) -> Tensor:
        """s(q, k) - s(q, Theta) [n] in float32; the network computes in bfloat16, pairs of like lengths together."""
        bank = self._draws.bank
        order = (2 * bank.lengths(pairs.questions) + bank.lengths(pairs.facts)).argsort()
        questions, place = torch.unique(pairs.questions, return_inverse=True)
        by_length = bank.lengths(questions).argsort()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            scores = torch.cat(
                [self._scores(pairs.questions[rows], pairs.facts[rows]) for rows in order.chunk(_CHUNKS)]
            )
            sentinel = torch.cat(
                [self._network.sentinel_scores(*bank.questions(questions[rows])) for rows in by_length.chunk(2)]
            )
        return scores.float()[order.argsort()] - sentinel.float()[by_length.argsort()][place]

    def _scores(self, questions: Tensor, facts: Tensor) -> Tensor:
        bank = self._draws.bank
        return self._network(*bank.questions(questions), *bank.facts(facts))  # type: ignore[no-any-return]


class PairDraws:
    """The pairs of each step, out of the seed and the step alone."""

    def __init__(self, corpus: Corpus, encoder: TextEncoder, options: TrainOptions) -> None:
        self._options = options
        self._cases = corpus.cases
        rows: dict[str, int] = {}
        self._facts = [[rows.setdefault(text, len(rows)) for text in case.texts] for case in corpus.cases]
        self._asks = [[rows.setdefault(text, len(rows)) for text in case.asks] for case in corpus.cases]
        self._near = [[rows.setdefault(text, len(rows)) for text in case.near] for case in corpus.cases]
        self._own = [rows.setdefault(own_question(case), len(rows)) for case in corpus.cases]
        self._texts = [rows.setdefault(text, len(rows)) for text in corpus.texts]
        self.bank = fill_bank(encoder, list(rows))
        self._neighbours = self._mine()
        self._answered = [
            {*asks, own, *facts} for asks, own, facts in zip(self._asks, self._own, self._facts, strict=True)
        ]
        self._shares = list(accumulate(_share(case) for case in corpus.cases))

    def draw(self, step: int) -> Pairs:
        """The pairs of a step."""
        random_ = random.Random(f"{self._options.seed}/{step}")  # noqa: S311 (no secret)
        pairs: list[tuple[int, int, float, float]] = []
        for _ in range(self._options.facts_verifier):
            case = min(bisect(self._shares, random_.random() * self._shares[-1]), len(self._cases) - 1)
            pairs += self._of_case(random_, case)
        for _ in range(self._options.facts_verifier // 4):
            row = random_.choice(self._texts)
            nearest = self._neighbours[row][0]
            if row not in self._answered[nearest]:
                pairs.append((row, self._stored(random_, nearest), 0.0, 0.7))
        questions, facts, answers, weights = zip(*pairs, strict=True)
        return Pairs(torch.tensor(questions), torch.tensor(facts), torch.tensor(answers), torch.tensor(weights))

    def _of_case(self, random_: random.Random, case: int) -> list[tuple[int, int, float, float]]:
        """Question, fact, whether it answers, and weight: one that asks, two that do not, and their rivals."""
        stored, pairs = self._stored(random_, case), []
        if self._asks[case]:
            ask = random_.choice(self._asks[case])
            pairs.append((ask, stored, 1.0, 1.0))
            pairs += [(ask, rival, 0.0, 0.7) for rival in self._rivals(random_, ask, case, 2)]
        near = random_.sample(self._near[case], min(2, len(self._near[case])))
        pairs += [(question, stored, 0.0, 1.0) for question in near]
        pairs += [(near[-1], rival, 0.0, 0.5) for rival in (self._rivals(random_, near[-1], case, 1) if near else ())]
        return pairs

    def _stored(self, random_: random.Random, case: int) -> int:
        """How a fact is stored: mostly with its answer, at times with other names or as a bare statement."""
        first, *others = self._facts[case]
        return random_.choice([first, *others]) if random_.random() < 0.25 else first  # noqa: PLR2004

    def _rivals(self, random_: random.Random, question: int, case: int, count: int) -> list[int]:
        """Facts near a question that do not answer it, as far as the data tell."""
        near = self._neighbours[question]
        order = random_.sample(near, len(near))
        return [self._stored(random_, other) for other in order if not self._may_answer(question, case, other)][:count]

    def _may_answer(self, question: int, case: int, other: int) -> bool:
        mine, theirs = self._cases[case], self._cases[other]
        same_subject = bool(mine.subject) and mine.subject.casefold() == theirs.subject.casefold()
        same_answer = bool(mine.answer) and mine.answer.casefold() == theirs.answer.casefold()
        return (
            other == case
            or same_subject
            or question in self._answered[other]
            or self._own[other] == self._own[case]
            or (same_answer and mine.source != "relations")
        )

    def _mine(self) -> dict[int, list[int]]:
        """The NEIGHBOURS nearest facts of all questions and texts, by the vectors of step one."""
        facts = self.bank.vectors[self._own].bfloat16().T.contiguous()
        rows = sorted({row for each in (*self._asks, *self._near, self._texts) for row in each})
        count = min(NEIGHBOURS, len(self._cases))
        near: dict[int, list[int]] = {}
        for start in range(0, len(rows), 2048):
            part = rows[start : start + 2048]
            best = (self.bank.vectors[part].bfloat16() @ facts).topk(count).indices.tolist()
            near |= dict(zip(part, best, strict=True))
        return near


def _share(case: Case) -> float:
    """How often a case is drawn, against others."""
    return _SOURCES.get(case.source, 1.5 if case.source in _WORDED_BY_PEOPLE else 1.0)
