"""The runbook as tests read it: its sections, and the blocks of commands in each."""

import re
from dataclasses import dataclass
from textwrap import dedent
from typing import Final

from monitoring import MONITORING

TEXT: Final = (MONITORING / "runbook.md").read_text()
START: Final = "Runbook"  # what stands before the first heading below the title
_SECTION: Final = re.compile(r"^#{1,2} (.+)$", re.MULTILINE)
_BLOCK: Final = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
_NOT_EXECUTED: Final = re.compile(r"\*\*Not executed\*\*: \S")


@dataclass(frozen=True)
class Block:
    """One fenced block; `is_executed` unless the paragraph before it says why it is not."""

    section: str
    language: str
    text: str
    is_executed: bool


def sections() -> dict[str, str]:
    """The text below each heading of the first two levels."""
    parts = _SECTION.split(TEXT)[1:]
    return dict(zip(parts[::2], parts[1::2], strict=True))


def headings(part: str) -> list[str]:
    """The second-level headings of a part."""
    _, _, rest = TEXT.partition(f"\n# {part}\n")
    return re.findall(r"^## (.+)$", re.split(r"^# ", rest, flags=re.MULTILINE)[0], re.MULTILINE)


def blocks() -> list[Block]:
    """All blocks in their order."""
    return [block for section, text in sections().items() for block in _blocks(section, text)]


def executed(section: str) -> list[Block]:
    """The blocks of a section that a test must run."""
    return [block for block in blocks() if block.section == section and block.is_executed]


def _blocks(section: str, text: str) -> list[Block]:
    found = []
    for match in _BLOCK.finditer(text):
        paragraph = re.split(r"\n\s*\n", text[: match.start()].rstrip())[-1]
        said = _NOT_EXECUTED.search(paragraph)
        found.append(Block(section, match[2], dedent(match[3]), said is None))
    return found
