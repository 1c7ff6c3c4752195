"""Arguments of `recipe train`, `recipe ablate` and `recipe eval` that are files with something behind them."""

import json
import math
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recipe_common.errors import FieldViolation, InvalidArgumentError
from recipe_trainer.datasets import Edit, load_edits

if TYPE_CHECKING:
    from recipe_model.editor import RecipeEditor
    from recipe_model.language_model import LanguageModel


def file_and_weight(field: str, item: str) -> tuple[Path, float]:
    """FILE or FILE=WEIGHT; the weight is 1 if not given."""
    file, separator, weight = item.rpartition("=")
    if not separator:
        return Path(item), 1.0
    try:
        share = float(weight)
    except ValueError:
        share = math.nan
    if not 0 < share < math.inf:
        raise InvalidArgumentError(
            [FieldViolation(field, f"{weight!r} in {item!r} is not a weight; give a number above 0")]
        )
    return Path(file), share


def first_edits(field: str, item: str, without: Collection[str] = ()) -> list[Edit]:
    """The edits of FILE, or the first N of them for FILE=N, whose prompts are none of `without`."""
    file, separator, count = item.rpartition("=")
    if separator and (not count.isdecimal() or int(count) < 1):
        raise InvalidArgumentError([FieldViolation(field, f"{count!r} in {item!r} is not a number above 0")])
    edits = [edit for edit in load_edits(Path(file if separator else item)) if edit.prompt.casefold() not in without]
    if not separator:
        return edits
    if int(count) > len(edits):
        other = " that are not asked for" if without else ""
        fewer = f"{file} holds {len(edits)} edits{other}, {count} are wanted; lower the number"
        raise InvalidArgumentError([FieldViolation(field, fewer)])
    return edits[: int(count)]


def counts(text: str, smallest: int = 1) -> list[int]:
    """One number, or several with commas between them."""
    try:
        found = [int(item) for item in text.split(",")]
    except ValueError:
        found = [-1]
    if min(found) < smallest:
        wrong = f"{text!r} is neither a number above {smallest - 1} nor a list of them such as 1,10,100"
        raise InvalidArgumentError([FieldViolation("edits", wrong)])
    return found


def short(path: Path) -> str:
    """A file's or folder's name with its folder's, as a checkpoint records it: no path of the training machine."""
    return f"{path.resolve().parent.name}/{path.resolve().name}"


def load_editor(checkpoint: Path | None, *outputs: Path | None) -> "RecipeEditor":
    """The networks, and folders for what will be written: figures that take an hour must not be lost at the end."""
    from recipe_model.editor import RecipeEditor  # noqa: PLC0415 (torch takes seconds; --help need not wait)

    for output in outputs:
        if output is not None:
            output.parent.mkdir(parents=True, exist_ok=True)
    return RecipeEditor.load(checkpoint)


def load_llm(checkpoint: Path | None) -> "LanguageModel":
    """The LLM that a checkpoint was trained for."""
    from recipe_model.checkpoint import read_checkpoint  # noqa: PLC0415 (torch takes seconds; --help need not wait)
    from recipe_model.language_model import LanguageModel  # noqa: PLC0415

    verified = read_checkpoint(checkpoint)
    llm = LanguageModel.load(verified.config.llm.model_id)
    verified.require_llm(llm.identity)
    return llm


def write_json(file: Path, figures: dict[str, Any]) -> None:
    """Write figures for people and programs to read."""
    file.write_text(json.dumps(figures, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def percent(value: float | None) -> str:
    """A percentage in a table."""
    return "-" if value is None else f"{value:.1f}"
