"""`recipe demo` as `make demo` runs it."""

import json
import subprocess
from pathlib import Path
from typing import Any

from e2e.conftest import RECIPE


def assert_skill(facts: list[dict[str, Any]]) -> None:
    """Measured: 48, 43 and 47 of 48; of the 12 facts as companies publish them 12, 11 and 12."""
    published = [fact for fact in facts if fact["fact"]["kind"] == "published"]
    others = [fact for fact in facts if fact["fact"]["kind"] != "published"]
    for group, least in ((others, (47, 42, 46)), (published, (11, 10, 11))):
        right = [
            sum(fact[what] for fact in group) for what in ("answered", "paraphrase_answered", "unrelated_unchanged")
        ]
        assert all(found >= needed for found, needed in zip(right, least, strict=True)), right


def test_the_demo_reports_what_it_saw(tmp_path: Path) -> None:
    out = tmp_path / "demo.json"
    done = subprocess.run(
        [str(RECIPE), "demo", "--json", str(out)], capture_output=True, text=True, timeout=1200, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(out.read_text())
    assert report["pipeline_problems"] == []
    assert len(report["facts"]) == 60
    assert sum(fact["after"]["form"] == "CHAT" for fact in report["facts"]) == 30
    assert report["counts"]["answers"]["all"] == len(report["facts"])
    assert report["counts"]["answers"]["right"] == sum(fact["answered"] for fact in report["facts"])
    assert_skill(report["facts"])
    assert {change["what"] for change in report["changes"]} == {"superseded", "retracted"}
    assert all(change["followed"] for change in report["changes"])
    # Whatever the model's skill, an answer without a hit is the plain model's.
    for fact in report["facts"]:
        if not fact["unrelated_after"]["status"].startswith("EDITED"):
            assert fact["unrelated_after"]["text"] == fact["unrelated_before"]["text"]
