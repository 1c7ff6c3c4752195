"""What the second step of a decision reads of a text."""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

ROLE_QUESTION: Final = 0
ROLE_ANSWER: Final = 1
ROLE_ALIAS: Final = 2


@dataclass(frozen=True, slots=True)
class TokenStates:
    """What the second step reads of a text: its tokens without those that begin and end it.

    A text that has no others keeps those, so there is at least one.
    """

    ids: NDArray[np.int32]  # [t] ids of the encoder's tokenizer
    roles: NDArray[np.uint8]  # [t] ROLE_*
    states: NDArray[np.float16]  # [t, h]
