"""The shipped checkpoint on edits that it was never trained on, through the command behind the model card."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from e2e.conftest import RECIPE

EDITS = 60
pytestmark = pytest.mark.skipif("RECIPE_DATA_DIR" not in os.environ, reason="RECIPE_DATA_DIR names no evaluation data")


def evaluated(tmp_path: Path, *arguments: str) -> dict[str, Any]:
    out = tmp_path / "figures.json"
    subprocess.run([str(RECIPE), "eval", *arguments, "--json", str(out)], check=True, capture_output=True, timeout=600)
    figures: dict[str, Any] = json.loads(out.read_text())
    return figures


def test_unseen_edits_hold_and_unrelated_questions_are_left_alone(tmp_path: Path) -> None:
    data = Path(os.environ["RECIPE_DATA_DIR"]) / "counterfact" / "dev.json"
    figures = evaluated(tmp_path, "counterfact", "--data", str(data), "--edits", str(EDITS))
    assert figures["edits"] == EDITS
    # Below the model card's figures by what 60 records can be off by chance.
    assert figures["teacher_forced"]["reliability"] >= 96
    assert figures["teacher_forced"]["generality"] >= 80  # 84.4 measured; 89.4 while only long facts had words
    assert figures["teacher_forced"]["locality"] >= 94
    assert figures["free_generation"]["reliability"] >= 92
    assert figures["retrieval"]["right_hit"] >= 97
    assert figures["retrieval"]["false_hit"] <= 6


def test_facts_are_recognised_as_people_ask_for_them(tmp_path: Path) -> None:
    data = Path(os.environ["RECIPE_DATA_DIR"]) / "natural" / "dev"
    figures = evaluated(tmp_path, "natural", "--data", str(data), "--limit", str(EDITS))
    # Measured: 85.9 and 13.7, of which the goal is 8.
    assert figures["mean"]["recognised"] >= 80
    assert figures["mean"]["near_miss_false_hits"] <= 18
