"""Help for an edited text to state an answer that is known.

A small LLM copies names well and numbers badly: it begins "+49 30" and goes on by itself. So the token that continues
the answer is made likelier, as a pointer network does it (arXiv 1704.04368), but only behind tokens that begin it, or
behind the words that lead to it in its fact ("The hotline of Acme is"). It also begins an answer in its middle ("is 30
5550" or "Boateng" of three names), which then begins at its beginning; and behind a question it often ends the text at
once: that one begins with the answer, too. A text that has stated the answer is left alone.
"""

from collections.abc import Sequence
from typing import Final

from torch import Tensor

BONUS: Final = 6.0  # added to a logit
LEAD: Final = 3  # tokens in front of the answer that are enough to tell what comes


class Copying:
    """Follows one text; knows an answer as token ids, in each form that it may have within a text, the likeliest first.

    `lead` are the tokens in front of the first form in the answer's fact. Of the answer but its beginning, `later` are
    all tokens and those that begin its words otherwise written, `names` those that begin a name or a number. `blanks`
    are spaces, `stops` what else says nothing, as a full stop. Without forms nothing changes.
    """

    def __init__(
        self,
        forms: Sequence[Sequence[int]] = (),
        end_ids: Sequence[int] = (),
        lead: Sequence[int] = (),
        later: Sequence[int] = (),
        names: Sequence[int] = (),
        blanks: Sequence[int] = (),
        stops: Sequence[int] = (),
    ) -> None:
        self._forms = [list(form) for form in forms]
        self._nothing = [*end_ids, *stops]
        self._lead = list(lead)
        self._later, self._names, self._blanks = frozenset(later), frozenset(names), frozenset(blanks)
        self._written: list[int] = []  # as much as the longest form has, at most
        self._longest = max((LEAD, *map(len, self._forms)))
        self._stated = not self._forms

    def follow(self, token: int) -> None:
        """The text goes on with this token."""
        if not self._stated:
            self._written = [*self._written, token][-self._longest :]
            self._stated = any(self._written[-len(form) :] == form for form in self._forms)

    def help(self, logits: Tensor) -> Tensor:
        """The logits [v] of the next token, in favour of the answer; the same tensor if that is not due."""
        if self._stated:
            return logits
        if following := self._following():
            helped = logits.clone()
            helped[sorted(following)] += BONUS
            return helped
        likeliest = int(logits.argmax())
        if self._skips_to(likeliest):
            helped = logits.clone()
            helped[self._first(logits)] = logits.max() + BONUS
            return helped
        return logits if self._written else self._instead_of_nothing(logits)

    def _following(self) -> set[int]:
        """What goes on with an answer that has begun, or is led to."""
        following = {form[begun] for form in self._forms if (begun := self._begun(form))}
        if len(self._lead) >= LEAD and self._written[-LEAD:] == self._lead[-LEAD:]:
            following.add(self._forms[0][0])
        return following

    def _begun(self, form: Sequence[int]) -> int:
        """How many tokens of a form of the answer the text ends with, short of all."""
        most = min(len(form) - 1, len(self._written))
        return next((count for count in range(most, 0, -1) if self._written[-count:] == form[:count]), 0)

    def _skips_to(self, token: int) -> bool:
        """Whether a text that goes on with this token would begin the answer in its middle."""
        if any(token == form[0] for form in self._forms):
            return False
        if self._blanks.issuperset(self._written) or self._written[-1:] == self._lead[-1:]:  # where an answer is due
            return token in self._later
        return token in self._names and not self._in_lead([*self._written[-1:], token])

    def _in_lead(self, pair: list[int]) -> bool:
        return any(self._lead[place : place + 2] == pair for place in range(len(self._lead) - 1))

    def _first(self, logits: Tensor) -> int:
        """The first token of the form that fits here best, by the LLM."""
        return max((form[0] for form in self._forms), key=lambda token: float(logits[token]))

    def _instead_of_nothing(self, logits: Tensor) -> Tensor:
        """What an empty text would end with is as likely to begin with the answer, and does not end."""
        helped, first = logits.clone(), self._first(logits)
        helped[first] = max(logits[first], logits[self._nothing].max())
        helped[self._nothing] = float("-inf")
        return helped
