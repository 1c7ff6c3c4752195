"""What the text encoder makes of questions and facts."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recipe_common.token_states import TokenStates


@dataclass(frozen=True, slots=True)
class EncodedQuery:
    """A question as retrieval sees it."""

    vector: NDArray[np.float32]  # [h + NUMBERS], of length 1
    tokens: TokenStates
    text: str = ""  # what was read of it


@dataclass(frozen=True, slots=True)
class EncodedFact:
    """A fact as it is stored."""

    vector: NDArray[np.float32]  # [h + NUMBERS], of length 1; of its question, without answer and other names
    tokens: TokenStates
    prompt: NDArray[np.float16]  # p_k [l, d]
