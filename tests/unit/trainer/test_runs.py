import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from recipe_common.errors import InvalidArgumentError
from recipe_trainer.runs import Report, rate, read_state, restore_state, save_state


def test_the_rate_warms_up_and_falls_to_zero() -> None:
    assert [rate(step, 10, 4) for step in range(4)] == [0.25, 0.5, 0.75, 1.0]
    assert rate(4, 10, 4) == 1.0
    assert rate(7, 10, 4) == pytest.approx(0.5)
    assert rate(10, 10, 4) == pytest.approx(0.0)
    assert rate(5, 3, 4) == pytest.approx(0.0, abs=1)  # more warm-up than steps divides by nothing


def trained(start: float) -> tuple[dict[str, torch.Tensor], torch.optim.AdamW]:
    tensors = {"a": torch.full((2,), start, requires_grad=True), "constant": torch.full((1,), start)}
    optimizer = torch.optim.AdamW([tensors["a"]], lr=0.1)
    tensors["a"].sum().backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    return tensors, optimizer


def test_a_state_comes_back_with_what_the_optimizer_keeps(tmp_path: Path) -> None:
    file = tmp_path / "part.safetensors"
    tensors, optimizer = trained(1.0)
    save_state(file, 7, tensors, optimizer)
    others = {name: torch.zeros_like(value).requires_grad_() for name, value in tensors.items()}
    empty = torch.optim.AdamW([others["a"]])
    assert restore_state(file, others, empty) == 7
    assert all(torch.equal(others[name], value) for name, value in tensors.items())
    mine, theirs = optimizer.state[tensors["a"]], empty.state[others["a"]]
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[slot], theirs[slot]) for slot in mine)
    assert not list(tmp_path.glob("*.partial"))


def test_a_part_that_is_not_trained_on_is_read_alone(tmp_path: Path) -> None:
    tensors, optimizer = trained(1.0)
    save_state(tmp_path / "part.safetensors", 7, tensors, optimizer)
    others = {name: torch.zeros_like(value).requires_grad_() for name, value in tensors.items()}
    read_state(tmp_path / "part.safetensors", others)
    assert all(torch.equal(others[name], value) for name, value in tensors.items())


def test_without_a_state_a_part_starts_at_step_0(tmp_path: Path) -> None:
    assert restore_state(tmp_path / "none.safetensors", *trained(1.0)) == 0


def test_a_state_of_another_release_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "part.safetensors"
    save_state(file, 7, *trained(1.0))
    state = load_file(file)
    del state["model.constant"]
    save_file(state, file)
    with pytest.raises(InvalidArgumentError, match="holds a run of another release, without constant"):
        restore_state(file, *trained(1.0))


def test_a_report_forgets_steps_of_its_own_part_that_are_taken_again(tmp_path: Path) -> None:
    first, second = Report(tmp_path, "first", 4), Report(tmp_path, "second", 4)
    for step in (2, 4):
        first.add(step, {"loss": 0.5}, 0.1, {})
        second.add(step, {"loss": 0.25}, 0.1, {"dev": 50.0})
    second.forget_after(2)
    lines = [json.loads(line) for line in (tmp_path / "progress.jsonl").read_text().splitlines()]
    assert [(line["part"], line["step"]) for line in lines] == [("first", 2), ("second", 2), ("first", 4)]
    assert lines[1] == {"part": "second", "step": 2, "loss": 0.25, "seconds_per_step": 0.1, "dev": {"dev": 50.0}}
    assert (tmp_path / "progress.png").read_bytes().startswith(b"\x89PNG")
