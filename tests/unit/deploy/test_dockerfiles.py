"""The Dockerfiles: who runs, what is installed, what is copied."""

import re
from pathlib import Path

import pytest

from deployment import REPOSITORY, SERVICES, compose_services, dockerfile, stages
from recipe_model.defaults import DEFAULT_ENCODER
from recipe_model.pretrained import _PACKAGES

# The service that each image runs.
SERVICES_OF = {name: name for name in SERVICES} | {"generator-vllm": "generator"}


def test_every_service_has_a_dockerfile_and_compose_builds_it() -> None:
    files = {path.name.partition(".")[0] for path in (REPOSITORY / "deploy/docker").glob("*.Dockerfile")}
    assert files == SERVICES_OF.keys()
    for name in SERVICES_OF:
        build = compose_services()[name]["build"]
        assert (REPOSITORY / build["context"] / build["dockerfile"]).resolve() == dockerfile(name)


@pytest.mark.parametrize("name", SERVICES_OF)
def test_the_image_runs_its_service_as_nobody_in_particular(name: str) -> None:
    build, image = stages(name)
    assert build.split()[1] == image.split()[1]
    assert re.search(r"^USER ([1-9]\d*):([1-9]\d*)$", image, flags=re.MULTILINE)
    assert image.rstrip().endswith(f'ENTRYPOINT ["python", "-m", "recipe_{SERVICES_OF[name]}"]')
    exposed = {int(port) for port in re.findall(r"\d+", image.split("EXPOSE")[1].splitlines()[0])}
    assert exposed == SERVICES[SERVICES_OF[name]].ports
    assert image.count("COPY") == 1
    assert "COPY --from=build /opt/recipe /opt/recipe" in image


@pytest.mark.parametrize("name", SERVICES_OF)
def test_every_install_is_pinned_and_only_the_services_extra_is_installed(name: str) -> None:
    build, image = stages(name)
    installs = re.findall(r"pip install ([^&\n]*)", build)
    assert all("--constraint constraints.txt" in install for install in installs)
    assert re.findall(r"'\.\[(.*?)\]'", build) == [SERVICES_OF[name]]
    assert "pip" not in image


@pytest.mark.parametrize("name", SERVICES_OF)
def test_the_default_models_that_a_service_loads_are_in_its_image(name: str) -> None:
    fields = SERVICES[SERVICES_OF[name]].settings.model_fields
    needed = {
        package.distribution
        for model, package in _PACKAGES.items()
        if ("encoder" if model == DEFAULT_ENCODER else "llm") in fields
    }
    build, image = stages(name)
    installed = {package.distribution for package in _PACKAGES.values() if package.distribution in build}
    assert installed == needed
    # The LLM lies in its package in a form that must be converted, and a container cannot write the copy.
    converts = "llm" in fields
    assert ("load_word_embeddings()" in build) is converts
    assert ("RECIPE_CACHE_DIR=/opt/recipe/models" in image) is converts


def test_what_is_copied_is_let_through_by_dockerignore() -> None:
    passed = {line[1:] for line in (REPOSITORY / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = {
        source
        for name in SERVICES_OF
        for line in re.findall(r"^COPY (?!--from)(.*)$", stages(name)[0], flags=re.MULTILINE)
        for source in line.split()[:-1]
    }
    assert copied == passed
    for path in copied:
        assert (REPOSITORY / path).exists()


def test_vllms_lock_differs_from_the_other_in_nothing_but_numpy() -> None:
    """Both are for the same code, which is tested with the one."""
    lock, vllms = pins(REPOSITORY / "constraints.txt"), pins(REPOSITORY / "deploy/docker/constraints-vllm.txt")
    assert "vllm" in vllms
    assert {name for name in lock.keys() & vllms.keys() if lock[name] != vllms[name]} == {"numpy"}


def pins(path: Path) -> dict[str, str]:
    """The versions in a file of constraints, by normalised names."""
    lines = [line.split("==") for line in path.read_text().splitlines() if not line.startswith("#")]
    return {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in lines}
