"""A text that grows token by token, given out only as far as no later token can change it."""

from collections.abc import Callable, Sequence

_INCOMPLETE = "\ufffd"  # what a tokenizer makes of bytes that are not a character yet


class GrowingText:
    """Turns tokens into text and ends it in front of the first stop sequence."""

    def __init__(self, decode: Callable[[list[int]], str], stop: Sequence[str]) -> None:
        self._decode = decode
        self._stop = stop
        self._ids: list[int] = []
        self._given = 0  # characters
        self.stopped = False

    def add(self, token: int) -> str:
        """What has become certain with one more token."""
        self._ids.append(token)
        text = self._decode(self._ids)
        places = [at for stop in self._stop if (at := text.find(stop)) >= 0]
        self.stopped = bool(places)
        return self._give(text, min(places) if places else self._certain(text))

    def rest(self) -> str:
        """What was held back and is certain now that no token follows."""
        return "" if self.stopped else self._give(text := self._decode(self._ids), len(text))

    def _give(self, text: str, end: int) -> str:
        piece = text[self._given : end]
        self._given = max(self._given, end)
        return piece

    def _certain(self, text: str) -> int:
        """Where the part ends that is neither an unfinished character nor, perhaps, a stop sequence's beginning."""
        whole = len(text.rstrip(_INCOMPLETE))
        longest = max(map(len, self._stop), default=1) - 1
        for start in range(max(0, whole - longest), whole):
            if any(stop.startswith(text[start:whole]) for stop in self._stop):
                return start
        return whole
