"""`recipe demo` as `make demo` runs it."""

import json
import subprocess
from pathlib import Path

from e2e.conftest import RECIPE


def test_the_demo_reports_what_it_saw(tmp_path: Path) -> None:
    out = tmp_path / "demo.json"
    done = subprocess.run(
        [str(RECIPE), "demo", "--json", str(out)], capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(out.read_text())
    assert report["pipeline_problems"] == []
    assert len(report["facts"]) >= 40
    assert report["counts"]["answers"]["all"] == len(report["facts"])
    assert report["counts"]["answers"]["right"] == sum(fact["answered"] for fact in report["facts"])
    assert {change["what"] for change in report["changes"]} == {"superseded", "retracted"}
    assert all(change["followed"] for change in report["changes"])
    # Whatever the model's skill, an answer without a hit is the plain model's.
    for fact in report["facts"]:
        if not fact["unrelated_after"]["status"].startswith("EDITED"):
            assert fact["unrelated_after"]["text"] == fact["unrelated_before"]["text"]
