"""What is decided about a question, in one place for retrieval, explanations, evaluation and training's selection.

KS(q) = p_kj if s(q, k_j) > s(q, Theta), else nothing (arXiv 2405.03279, section 3.2), in two steps: the store finds the
candidates k_j by their vectors, and the verifier reads question and fact together, s(q, k_j), as it reads the question
and the knowledge sentinel Theta. The margin between both is told as a calibrated probability, the confidence. The fact
of the highest confidence applies, unless that is below a threshold.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Generic, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from recipe_common.token_states import TokenStates
from recipe_model.encoded import EncodedQuery

CANDIDATES: Final = 4  # k of the first step; reading 8 found nothing more and took twice the time


class Candidate(Protocol):
    """A fact that the first step found."""

    @property
    def similarity(self) -> float:
        """The cosine of both vectors."""

    @property
    def tokens(self) -> TokenStates:
        """What the second step reads."""


C = TypeVar("C", bound=Candidate)


@dataclass(frozen=True, slots=True)
class Judged(Generic[C]):
    """A candidate, and what the second step makes of it."""

    candidate: C
    margin: float  # s(q, k) - s(q, Theta)
    confidence: float  # that it applies, 0 to 1


class Comparison(Protocol):
    """What a decider compares with: the verifier."""

    def margins(self, query: TokenStates, facts: Sequence[TokenStates]) -> npt.NDArray[np.float32]:
        """s(q, k_j) - s(q, Theta) [k]. Raises VerifierError."""


@dataclass(frozen=True, slots=True)
class Decider:
    """The decision, with a checkpoint's defaults; threads may share it."""

    verifier: Comparison
    scale: float = 1.0  # of margins, above 0
    offset: float = 0.0
    min_confidence: float = 0.5  # of the fact that applies
    min_similarity: float = -1.0  # of a candidate
    candidates: int = CANDIDATES

    def judge(self, query: EncodedQuery, candidates: Sequence[C]) -> list[Judged[C]]:
        """Read each candidate with the question; the best confidence first, of equals the more similar fact.

        Raises VerifierError.
        """
        if not candidates:
            return []
        margins = self.verifier.margins(query.tokens, [candidate.tokens for candidate in candidates])
        judged = [
            Judged(candidate, float(margin), self.confidence(float(margin)))
            for candidate, margin in zip(candidates, margins, strict=True)
        ]
        # By the margin, as confidences near 0 and 1 are the same to the last bit.
        return sorted(judged, key=lambda each: (each.margin, each.candidate.similarity), reverse=True)

    def hit(self, judged: Sequence[Judged[C]], min_confidence: float | None = None) -> Judged[C] | None:
        """The candidate that applies: the first, if it is confident enough. `min_confidence` replaces the default."""
        threshold = self.min_confidence if min_confidence is None else min_confidence
        return judged[0] if judged and judged[0].confidence >= threshold else None

    def confidence(self, margin: float) -> float:
        """The probability that a fact of this margin applies."""
        logit = self.scale * margin + self.offset
        # The exponent is never above 0, so that none overflows.
        grown = math.exp(-abs(logit))
        return 1 / (1 + grown) if logit >= 0 else grown / (1 + grown)
