"""The build stage of each Dockerfile, carried out step by step in a folder, as far as that goes without containers.

It installs gigabytes, so it runs only when it is asked for: `make images-check`.
"""

import os
import re
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from deployment import REPOSITORY, SERVICES, base_environment, constraint, stages

IGNORED = shutil.ignore_patterns("__pycache__", "*.egg-info")  # as .dockerignore says


@dataclass
class Build:
    """Carries out a Dockerfile's instructions below `root`, which stands for the file system of the image."""

    root: Path
    workdir: str = "/"
    variables: dict[str, str] = field(default_factory=dict)

    def carry_out(self, instruction: str) -> None:
        """Raises CalledProcessError for a step that fails and KeyError for an instruction it does not know."""
        word, _, rest = instruction.partition(" ")
        steps = {"ARG": self._set, "ENV": self._set, "WORKDIR": self._enter, "COPY": self._copy, "RUN": self._run}
        steps[word](rest)

    def environment(self) -> dict[str, str]:
        """What a step sees: pip's configuration of this machine, and what the Dockerfile sets."""
        return base_environment() | self.variables

    def _set(self, rest: str) -> None:
        name, _, value = rest.partition("=")
        # An argument can be given when an image is built; here from the environment.
        value = os.environ.get(name, value) if name == "TORCH_INDEX" else value
        path = self.environment()["PATH"]
        self.variables[name] = self._placed(value).replace("$PATH", path)

    def _enter(self, rest: str) -> None:
        self.workdir = rest
        self._folder().mkdir(parents=True)

    def _copy(self, rest: str) -> None:
        *sources, target = rest.split()
        for source in sources:
            place = self._folder() / target
            if (REPOSITORY / source).is_dir():
                shutil.copytree(REPOSITORY / source, place, ignore=IGNORED)
            else:
                shutil.copy(REPOSITORY / source, place)

    def _run(self, rest: str) -> None:
        subprocess.run(["/bin/sh", "-ec", self._placed(rest)], cwd=self._folder(), env=self.environment(), check=True)

    def _folder(self) -> Path:
        return self.root / self.workdir.lstrip("/")

    def _placed(self, text: str) -> str:
        return text.replace("/opt/recipe", f"{self.root}/opt/recipe")


@pytest.mark.images
@pytest.mark.parametrize("name", SERVICES)
def test_the_build_stage_makes_a_service_that_runs_with_nothing_else(name: str, tmp_path: Path) -> None:
    build = Build(tmp_path)
    _, *instructions = filter(None, stages(name)[0].splitlines())  # the first one names the image it starts from
    for instruction in instructions:
        build.carry_out(instruction)
    shutil.rmtree(tmp_path / "src")  # the second stage does not have it
    python = str(tmp_path / "opt/recipe/bin/python")
    installed = subprocess.run([python, "-m", "pip", "freeze"], capture_output=True, text=True, check=True).stdout
    for package, version in re.findall(r"^([\w.-]+)==(\S+)$", installed, flags=re.MULTILINE):
        assert version.partition("+")[0] == constraint(package), f"{package} is not as constraints.txt says"
    # What is wrong in its settings is the first thing that a service looks for, so no model is loaded.
    settings = {f"{SERVICES[name].prefix}METRICS_PORT": "not a port", "HF_HUB_OFFLINE": "1"}
    command = [python, "-m", f"recipe_{name}"]
    done = subprocess.run(
        command, env=base_environment() | settings, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert f"recipe_{name}: {SERVICES[name].prefix}METRICS_PORT: " in done.stderr
