"""The runbook: complete sections, working links, and no block of commands that nobody has tried."""

import re

import pytest

from e2e.test_runbook import TRIED
from monitoring import MONITORING, alerts
from runbook import TEXT, blocks, executed, headings, sections

PROCEDURES = {
    "Roll out a checkpoint, and undo it",
    "Rebuild the base",
    "Re-drive dead letters",
    "Remove a poisoned fact",
    "Scale",
    "Back up and restore",
}


def test_there_is_a_section_for_every_alert_and_every_procedure() -> None:
    assert set(headings("Alerts")) == alerts().keys()
    assert set(headings("Procedures")) == PROCEDURES


@pytest.mark.parametrize("name", alerts())
def test_an_alert_is_explained(name: str) -> None:
    explained = sections()[name].strip()
    assert explained.startswith(f"**{alerts()[name]['labels']['severity'].capitalize()}.** ")
    for part in ("Likely", "Look at", "Do"):
        assert re.search(rf"\*{part}\*", explained, re.IGNORECASE), f"{name} does not say: {part}"


def test_every_block_is_executed_by_a_test_or_says_why_not() -> None:
    assert len(blocks()) == TEXT.count("```") // 2 > len(TRIED)
    assert {block.section for block in blocks() if block.is_executed} == TRIED.keys()
    assert {section: len(executed(section)) for section in TRIED} == TRIED


def test_commands_stand_in_blocks() -> None:
    assert {block.language for block in blocks()} == {"sh"}
    assert (
        re.findall(r"^ {4,}(?:recipe|kubectl|curl|kafka-\S+) ", re.sub(r"```.*?```", "", TEXT, flags=re.DOTALL)) == []
    )


def test_links_lead_somewhere() -> None:
    anchors = {re.sub(r"[^\w\- ]", "", each).lower().replace(" ", "-") for each in sections()}
    for target in re.findall(r"\]\(([^)]+)\)", TEXT):
        file, _, anchor = target.partition("#")
        if file:
            assert (MONITORING / file).exists(), target
        else:
            assert anchor in anchors, target
