"""The same benchmark in another checkout of this repository, in the same run, so that releases can be compared.

`git worktree add ../before TAG` makes one. It runs its own code, tests and checkpoint, in this environment.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

ROOTS: Final = (
    "tests",
    "proto/gen",
    "shared",
    *(f"services/{name}" for name in ("encoder", "retriever", "generator", "trainer")),
)


def measured_there(worktree: Path, benchmark: str, arguments: Sequence[str]) -> dict[str, Any]:
    """The report of `python -m bench.BENCHMARK` in another checkout. Raises CalledProcessError if it fails there."""
    roots = [str((worktree / root).resolve()) for root in ROOTS]
    with tempfile.TemporaryDirectory(prefix="recipe-against-") as folder:
        report = Path(folder) / "report.json"
        subprocess.run(
            [sys.executable, "-m", f"bench.{benchmark}", "--report", str(report), *arguments],
            cwd=worktree,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(roots)},
            stdout=sys.stderr,
            check=True,
        )
        found: dict[str, Any] = json.loads(report.read_text())
    return found


def compared(here: Mapping[str, Any], there: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """The other release's figures of these names, and how many times as large this release's are."""
    figures = {name: there[name] for name in names}
    return {"model_version": there["model_version"], "figures": figures, "ratios": ratios(here, figures)}


def ratios(here: Any, there: Any) -> Any:
    """Figures of this release divided by those of the other, for all numbers that both reports name alike."""
    if isinstance(here, Mapping) and isinstance(there, Mapping):
        both = {name: ratios(value, there[name]) for name, value in here.items() if name in there}
        return {name: value for name, value in both.items() if value not in (None, {})}
    if isinstance(here, int | float) and isinstance(there, int | float) and there:
        return here / there
    return None
