"""Help for an edited text to state an answer that is known.

A small LLM copies names well and numbers badly: it begins "+49 30" and goes on by itself. So the token that continues
the answer is made likelier, as a pointer network does it (arXiv 1704.04368), but only behind tokens that begin it, or
behind the words that lead to it in its fact ("The hotline of Acme is"). And behind a question it often ends the text at
once: it begins with the answer then.
"""

from collections.abc import Sequence
from typing import Final

from torch import Tensor

BONUS: Final = 6.0  # added to a logit
LEAD: Final = 3  # tokens in front of the answer that are enough to tell what comes


class Copying:
    """Follows one text; knows an answer as token ids, in each form that it may have within a text, the likeliest first.

    `lead` are the tokens that stand in front of the first form in the answer's fact. Without forms nothing changes.
    """

    def __init__(
        self, forms: Sequence[Sequence[int]] = (), end_ids: Sequence[int] = (), lead: Sequence[int] = ()
    ) -> None:
        self._forms = [list(form) for form in forms]
        self._end_ids = list(end_ids)
        self._lead = list(lead[-LEAD:])
        self._written: list[int] = []  # as much as the longest form has, at most
        self._longest = max(map(len, (*self._forms, self._lead)), default=0)

    def follow(self, token: int) -> None:
        """The text goes on with this token."""
        if self._forms:
            self._written = [*self._written, token][-self._longest :]

    def help(self, logits: Tensor) -> Tensor:
        """The logits [v] of the next token, in favour of the answer; the same tensor if it has not begun."""
        if not self._forms:
            return logits
        if not self._written:
            return self._instead_of_nothing(logits)
        following = {form[begun] for form in self._forms if (begun := self._begun(form))}
        if len(self._lead) == LEAD and self._written[-LEAD:] == self._lead:
            following.add(self._forms[0][0])
        if not following:
            return logits
        helped = logits.clone()
        helped[sorted(following)] += BONUS
        return helped

    def _instead_of_nothing(self, logits: Tensor) -> Tensor:
        """What an empty text would end with is as likely to begin with the answer, and does not end."""
        helped, first = logits.clone(), self._forms[0][0]
        helped[first] = max(logits[first], logits[self._end_ids].max())
        helped[self._end_ids] = float("-inf")
        return helped

    def _begun(self, form: Sequence[int]) -> int:
        """How many tokens of a form of the answer the text ends with, short of all."""
        most = min(len(form) - 1, len(self._written))
        return next((count for count in range(most, 0, -1) if self._written[-count:] == form[:count]), 0)
