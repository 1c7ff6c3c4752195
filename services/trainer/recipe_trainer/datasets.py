"""Edit records from the published formats of knowledge-editing data, read into one shape.

Formats are told apart by their fields: CounterFact as RECIPE publishes it, KnowEdit (ZsRE and RippleEdits),
MEND's ZsRE, plain question and answer pairs, and open questions that no edit answers.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from recipe_common.errors import FieldViolation, InvalidArgumentError
from recipe_common.knowledge_text import knowledge_text, statement_text

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Question:
    """A text to be continued and, where the data knows it, the unedited answer."""

    text: str
    answer: str = ""
    criterion: str = ""  # what the data set tests with it, for example "Relation_Specificity"


@dataclass(frozen=True, slots=True)
class Edit:
    """One edit k = (prompt, answer) with questions it must answer and questions it must leave alone."""

    prompt: str
    answer: str
    subject: str = ""
    paraphrases: tuple[str, ...] = ()
    unrelated: tuple[Question, ...] = ()
    portability: tuple[Question, ...] = ()  # questions whose answers follow from the edit
    aliases: tuple[str, ...] = ()  # other names of the subject
    sentence: str = ""  # prompt and answer as people wrote them in one sentence

    @property
    def statement(self) -> str:
        """The sentence as people read it."""
        return self.sentence or f"{self.prompt} {self.answer}".rstrip()

    @property
    def knowledge(self) -> str:
        """The text that is encoded; without an answer the prompt is a bare statement."""
        if not self.answer:
            return statement_text(self.prompt, self.aliases)
        return knowledge_text(self.prompt, self.answer, self.aliases)


def load_edits(path: Path) -> list[Edit]:
    """Read a file of edits. Raises InvalidArgumentError naming the record and what it lacks."""
    return [_edit(record, path, index) for index, record in enumerate(records(path))]


def load_questions(path: Path) -> list[Question]:
    """Read open questions: records with `question` and a list of answers. Raises as `load_edits` does."""
    questions = []
    for index, record in enumerate(records(path)):
        with naming(path, index):
            questions.append(Question(tidy(record["question"]), _first(record["answer"])))
    return questions


def load_texts(path: Path) -> list[str]:
    """Read ordinary texts: open questions from a .json file, field `text` of .jsonl, else the lines of any file."""
    if path.suffix == ".json":
        return [question.text for question in load_questions(path)]
    if path.suffix == ".jsonl":
        return [text for index, record in enumerate(records(path)) if (text := _text(record, path, index))]
    try:
        texts = [tidied for line in path.read_text(encoding="utf-8").splitlines() if (tidied := tidy(line))]
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidArgumentError([FieldViolation("data", f"{path} cannot be read: {error}")]) from error
    if not texts:
        raise InvalidArgumentError([FieldViolation("data", f"{path} holds no text")])
    return texts


def _text(record: Mapping[str, Any], path: Path, index: int) -> str:
    with naming(path, index):
        return tidy(record["text"])


def split_held_out(items: Sequence[Item]) -> tuple[list[Item], list[Item]]:
    """Items to train on and items to evaluate on: every fourth is held out."""
    held_out = list(items[3::4])
    return [item for index, item in enumerate(items) if index % 4 != 3], held_out  # noqa: PLR2004


def records(path: Path) -> list[dict[str, Any]]:
    """The records of a JSON list, or of a file with one JSON record a line. Raises as `load_edits` does."""
    try:
        text = path.read_text(encoding="utf-8")
        lines = path.suffix == ".jsonl"
        found = [json.loads(line) for line in text.split("\n") if line.strip()] if lines else json.loads(text)
    except FileNotFoundError as error:
        raise InvalidArgumentError([FieldViolation("data", f"there is no file {path}; correct the path")]) from error
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidArgumentError([FieldViolation("data", f"{path} cannot be read: {error}")]) from error
    except json.JSONDecodeError as error:
        raise InvalidArgumentError([FieldViolation("data", f"{path} is not JSON: {error}")]) from error
    if not isinstance(found, list) or not found:
        raise InvalidArgumentError([FieldViolation("data", f"{path} must hold a JSON list of at least one record")])
    return found


@contextmanager
def naming(path: Path, index: int) -> Iterator[None]:
    """Turn what a record of an unknown shape raises into an error that names the record."""
    try:
        yield
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        lacks = f"{path}, record {index}: not a known format ({type(error).__name__}: {error})"
        raise InvalidArgumentError([FieldViolation("data", lacks)]) from error


def _edit(record: Mapping[str, Any], path: Path, index: int) -> Edit:
    with naming(path, index):
        if "locality_prompt" in record:
            return _counterfact(record)
        if "target_new" in record:
            return _knowedit(record)
        if "loc" in record:
            return _mend(record)
        return Edit(prompt=tidy(record["src"]), answer=tidy(record["alt"]))


def _counterfact(record: Mapping[str, Any]) -> Edit:
    return Edit(
        prompt=tidy(record["prompt"]),
        answer=tidy(record["target_new"]),
        subject=record["subject"],
        paraphrases=(tidy(record["rephrase_prompt"]),),
        unrelated=(Question(tidy(record["locality_prompt"]), tidy(record["locality_ground_truth"])),),
    )


def _knowedit(record: Mapping[str, Any]) -> Edit:
    portability = _by_criterion(record.get("portability", {}))
    aliases = [question.text for question in portability if question.criterion == "Subject_Aliasing"]
    rephrased = [tidy(record["rephrase_prompt"])] if record.get("rephrase_prompt") else []
    return Edit(
        prompt=tidy(record["prompt"]),
        answer=tidy(record["target_new"]),
        subject=record.get("subject", ""),
        paraphrases=tuple(rephrased + aliases),
        unrelated=_by_criterion(record.get("locality", {})),
        portability=portability,
    )


def _by_criterion(groups: Mapping[str, Any]) -> tuple[Question, ...]:
    """The questions of all criteria; some files write a criterion's name with a small initial letter."""
    return tuple(
        Question(tidy(prompt), _first(answer), name[:1].upper() + name[1:])
        for name, group in groups.items()
        for prompt, answer in _pairs(group)
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
        prompt=tidy(record["src"]),
        answer=tidy(record["alt"]),
        subject=record["subject"],
        paraphrases=(tidy(record["rephrase"]),),
        unrelated=(Question(tidy(record["loc"].removeprefix("nq question: ")), tidy(record["loc_ans"])),),
    )


def _first(answer: str | list[Any]) -> str:
    """The first of possibly nested lists of accepted answers; empty where the data gives none."""
    while isinstance(answer, list):
        answer = answer[0] if answer else ""
    return tidy(answer)


def tidy(text: str) -> str:
    """The text with single spaces."""
    return " ".join(text.split())
