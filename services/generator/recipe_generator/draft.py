"""Guesses at an edited text's next tokens, for the LLM to accept or refuse several of them in one step.

Speculative decoding (arXiv 2211.17192) with what prompt lookup decoding takes for a draft model: words that are known
already. Here they are those of the fact that the text stands behind, which its prompt makes the LLM repeat.
"""

from collections.abc import Sequence


class Draft:
    """Follows one text; guesses that it goes on as a statement does from a token on that both have.

    One guess that fails is the last: from there on the text is about something else.
    """

    def __init__(self, statement: Sequence[int]) -> None:
        self._statement = list(statement)
        self.ahead: list[int] = []  # the tokens that are expected next

    def follow(self, token: int) -> None:
        """The text goes on with this token."""
        if not self.ahead:
            self.ahead = self._behind(token)
        elif self.ahead[0] == token:
            del self.ahead[0]
        else:
            self.ahead = []
            self._statement = []

    def _behind(self, token: int) -> list[int]:
        """What follows where the statement has the token last: an answer stands at its end."""
        if token not in self._statement:
            return []
        return self._statement[len(self._statement) - self._statement[::-1].index(token) :]
