"""How crowded the place of a query's best fact is, and by how much it must beat the threshold there.

Training's softmax over keys gives fact j the probability exp(s_j / sqrt(R)) / sum_i exp(s_i / sqrt(R)), s_i being inner
products of query and keys [R]. A question about one of many facts of a kind gives its own fact nearly all of it. One
about something that is not stored is about as near to many of them, and each of these gets a small part.
"""

import math
from collections.abc import Sequence
from typing import Final

from recipe_store.facts import Match

CROWD_FACTS: Final = 32  # the nearest ones, the best among them: more are not looked at
CROWD_WIDTH: Final = 3.0  # how much less similar than the best they are at most, in the unit of training: sqrt(R)


def crowd_rise(similarities: Sequence[float], crowd_weight: float, key_size: int) -> float:
    """What the threshold of the best fact rises by: -gamma sqrt(R) ln p, p its probability among the CROWD_FACTS best.

    `similarities` are given best first, and those more than CROWD_WIDTH sqrt(R) below the best count for nothing: the
    rise of a fact alone is 0. `crowd_weight` is gamma.
    """
    unit = math.sqrt(key_size)
    below = [(similarity - similarities[0]) / unit for similarity in similarities[:CROWD_FACTS]]
    return crowd_weight * unit * math.log(sum(math.exp(distance) for distance in below if distance >= -CROWD_WIDTH))


def rise_among(matches: Sequence[Match], crowd_weight: float, key_size: int) -> float:
    """`crowd_rise` for the best match, the first, among the others that are its rivals; 0 without any match.

    Of the CROWD_FACTS first, those that state what the best one states are no rivals, whoever published them.
    """
    if not matches:
        return 0.0
    best, *others = matches[:CROWD_FACTS]
    rivals = [match.similarity for match in others if match.fact.statement != best.fact.statement]
    return crowd_rise([best.similarity, *rivals], crowd_weight, key_size)
