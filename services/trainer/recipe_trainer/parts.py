"""The parts of a model, and where a part that a run does not train comes from."""

from dataclasses import asdict
from pathlib import Path
from typing import Final

from recipe_common.errors import FieldViolation, InvalidArgumentError
from recipe_model.checkpoint import Checkpoint, load_tensors, trained_tensors
from recipe_model.networks import RecipeModel
from recipe_trainer.prompt_training import prompt_tensors
from recipe_trainer.runs import read_state
from recipe_trainer.verifier_training import verifier_tensors

VERIFIER, PROMPTS = PARTS = ("verifier", "prompts")

# Those that its encoder and its LLM do not give.
_SIZES: Final = {
    VERIFIER: ("sentinel_tokens", "verifier_width", "verifier_layers"),
    PROMPTS: ("representation", "prompt_tokens"),
}


def source_of(part: str, folder: Path, start: Checkpoint | None) -> Path | Checkpoint:
    """The state of a part in a run's folder, though it may have been stopped, else the checkpoint to start from.

    Raises InvalidArgumentError if there is neither: the part would have learnt nothing.
    """
    state = folder / f"{part}.safetensors"
    if state.exists():
        return state
    if start is None:
        lacking = (
            f"the {part} would stay untrained, as {state} does not exist; train both parts, "
            f"or name a checkpoint to take the {part} from with --start"
        )
        raise InvalidArgumentError([FieldViolation("part", lacking)])
    return start


def read_part(part: str, model: RecipeModel, state: Path) -> None:
    """Fill what training sets in a part from its state."""
    read_state(state, verifier_tensors(model) if part == VERIFIER else prompt_tensors(model))


def take_part(part: str, model: RecipeModel, start: Checkpoint) -> None:
    """Fill a part from a checkpoint for the same models; with the verifier go confidence and thresholds.

    Raises InvalidArgumentError if the part has other sizes there.
    """
    theirs, mine = asdict(start.config.sizes), asdict(model.sizes)
    differing = [name for name in _SIZES[part] if theirs[name] != mine[name]]
    if differing:
        told = ", ".join(f"{name} is {theirs[name]}, not {mine[name]}" for name in differing)
        fix = "name a checkpoint of the run's sizes"
        raise InvalidArgumentError(
            [FieldViolation("start", f"in {start.path.name} ({start.model_version}) {told}; {fix}")]
        )
    prompts = prompt_tensors(model).keys()
    load_tensors(model, start, prompts if part == PROMPTS else trained_tensors(model).keys() - prompts)
