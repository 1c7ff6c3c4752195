"""Edit records from the published formats of knowledge-editing data, read into one shape.

Formats are told apart by their fields: CounterFact as RECIPE publishes it, KnowEdit (ZsRE and RippleEdits),
MEND's ZsRE, plain question and answer pairs, and open questions that no edit answers.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recipe_common.errors import FieldViolation, InvalidArgumentError


@dataclass(frozen=True, slots=True)
class Question:
    """A text to be continued and, where the data knows it, the unedited answer."""

    text: str
    answer: str = ""


@dataclass(frozen=True, slots=True)
class Edit:
    """One edit k = (prompt, answer) with questions it must answer and questions it must leave alone."""

    prompt: str
    answer: str
    subject: str = ""
    paraphrases: tuple[str, ...] = ()
    unrelated: tuple[Question, ...] = ()

    @property
    def statement(self) -> str:
        """The sentence that is encoded as knowledge."""
        return f"{self.prompt} {self.answer}"


def load_edits(path: Path) -> list[Edit]:
    """Read a file of edits. Raises InvalidArgumentError naming the record and what it lacks."""
    return [_edit(record, path, index) for index, record in enumerate(_records(path))]


def load_questions(path: Path) -> list[Question]:
    """Read open questions: records with `question` and a list of answers. Raises as `load_edits` does."""
    questions = []
    for index, record in enumerate(_records(path)):
        with _naming(path, index):
            questions.append(Question(_tidy(record["question"]), _first(record["answer"])))
    return questions


def split_questions(questions: Sequence[Question]) -> tuple[list[Question], list[Question]]:
    """Questions to train on and questions to evaluate on: every fourth is held out."""
    held_out = list(questions[3::4])
    return [question for index, question in enumerate(questions) if index % 4 != 3], held_out  # noqa: PLR2004


def _records(path: Path) -> list[dict[str, Any]]:
    try:
        records = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InvalidArgumentError([FieldViolation("data", f"there is no file {path}; correct the path")]) from error
    except json.JSONDecodeError as error:
        raise InvalidArgumentError([FieldViolation("data", f"{path} is not JSON: {error}")]) from error
    if not isinstance(records, list) or not records:
        raise InvalidArgumentError([FieldViolation("data", f"{path} must hold a JSON list of at least one record")])
    return records


@contextmanager
def _naming(path: Path, index: int) -> Iterator[None]:
    """Turn what a record of an unknown shape raises into an error that names the record."""
    try:
        yield
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        lacks = f"{path}, record {index}: not a known format ({type(error).__name__}: {error})"
        raise InvalidArgumentError([FieldViolation("data", lacks)]) from error


def _edit(record: Mapping[str, Any], path: Path, index: int) -> Edit:
    with _naming(path, index):
        if "locality_prompt" in record:
            return _counterfact(record)
        if "target_new" in record:
            return _knowedit(record)
        if "loc" in record:
            return _mend(record)
        return Edit(prompt=_tidy(record["src"]), answer=_tidy(record["alt"]))


def _counterfact(record: Mapping[str, Any]) -> Edit:
    return Edit(
        prompt=_tidy(record["prompt"]),
        answer=_tidy(record["target_new"]),
        subject=record["subject"],
        paraphrases=(_tidy(record["rephrase_prompt"]),),
        unrelated=(Question(_tidy(record["locality_prompt"]), _tidy(record["locality_ground_truth"])),),
    )


def _knowedit(record: Mapping[str, Any]) -> Edit:
    aliases = [prompt for prompt, _ in _pairs(record.get("portability", {}).get("Subject_Aliasing", []))]
    rephrased = [record["rephrase_prompt"]] if record.get("rephrase_prompt") else []
    unrelated = [pair for criterion in record.get("locality", {}).values() for pair in _pairs(criterion)]
    return Edit(
        prompt=_tidy(record["prompt"]),
        answer=_tidy(record["target_new"]),
        subject=record.get("subject", ""),
        paraphrases=tuple(_tidy(text) for text in rephrased + aliases),
        unrelated=tuple(Question(_tidy(prompt), _first(answer)) for prompt, answer in unrelated),
    )


def _pairs(criterion: Sequence[Mapping[str, Any]] | Mapping[str, list[Any]]) -> list[tuple[str, Any]]:
    """Prompts with their answers; KnowEdit publishes a list of pairs, or two lists in one record."""
    if not isinstance(criterion, Mapping):
        return [(item["prompt"], item["ground_truth"]) for item in criterion]
    prompts, answers = criterion["prompt"], criterion["ground_truth"]
    if not isinstance(prompts, list) or not isinstance(answers, list):
        raise TypeError("prompt and ground_truth must be lists")
    return list(zip(prompts, answers, strict=True))


def _mend(record: Mapping[str, Any]) -> Edit:
    return Edit(
        prompt=_tidy(record["src"]),
        answer=_tidy(record["alt"]),
        subject=record["subject"],
        paraphrases=(_tidy(record["rephrase"]),),
        unrelated=(Question(_tidy(record["loc"].removeprefix("nq question: ")), _tidy(record["loc_ans"])),),
    )


def _first(answer: str | list[Any]) -> str:
    """The first of possibly nested lists of accepted answers; empty where the data gives none."""
    while isinstance(answer, list):
        answer = answer[0] if answer else ""
    return _tidy(answer)


def _tidy(text: str) -> str:
    return " ".join(text.split())
