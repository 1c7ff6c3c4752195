"""General ability: the LLM's scores on tasks that no stored fact is about, before and after facts are stored.

Tasks run on lm-evaluation-harness (EleutherAI) from local files, without examples in the prompt. The questions are put
as the harness puts them, but for SQuAD 2.0, which says what to answer where the background has no answer; what is asked
of the LLM is also what retrieval sees, as in serving. A text that the text encoder cannot read, which serving refuses
unless knowledge is off, is asked without knowledge and counted.
"""

import json
import random
import re
import string
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.api.task import ConfigurableTask
from lm_eval.evaluator import simple_evaluate
from lm_eval.tasks import TaskManager
from torch import Tensor

from recipe_common.errors import FieldViolation, InvalidArgumentError
from recipe_common.progress import with_progress
from recipe_model.editor import RecipeEditor
from recipe_model.language_model import LanguageModel
from recipe_trainer.datasets import Edit, Question
from recipe_trainer.knowledge_base import BATCH, Asked, KnowledgeBase, temporary_knowledge_base, told
from recipe_trainer.scoring import prompts_of
from recipe_trainer.teacher_forcing import Answered, answer_logits

ANSWER_TOKENS = 24  # of a SQuAD answer; the longest in the dev set has fewer
_LETTERS = ["A", "B", "C", "D", "E"]
_ANLI = {"e": "True", "n": "Neither", "c": "False"}
_ARTICLES = re.compile(r"\b(a|an|the)\b")


@dataclass(frozen=True, slots=True)
class TaskScore:
    """One task with a number of facts stored."""

    edits: int
    questions: int
    score: float  # in percent, of the task's metric
    hits: int  # questions that hit a fact
    too_long: int  # questions that the text encoder cannot read, asked without knowledge


@dataclass(frozen=True, slots=True)
class _Task:
    file: str
    metric: str
    config: Mapping[str, Any]


def _multiple_choice(text: Callable[[Any], str], choices: list[str], target: Callable[[Any], int], file: str) -> _Task:
    config = {
        "output_type": "multiple_choice",
        "doc_to_text": text,
        "doc_to_choice": choices,
        "doc_to_target": target,
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    }
    return _Task(file, "acc", config)


def _options(question: str, choices: Sequence[str]) -> str:
    lines = [f"{letter}. {choice}" for letter, choice in zip(_LETTERS, choices, strict=False)]
    return "\n".join([question.strip(), *lines, "Answer:"])


def _squad_text(doc: Mapping[str, Any]) -> str:
    wish = "Answer in words of the background, or with unanswerable."
    return f"Title: {doc['title']}\n\nBackground: {doc['context']}\n\n{wish}\n\nQuestion: {doc['question']}\n\nAnswer:"


def _squad_f1(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, float]:
    """Token F1 with the best of the accepted answers; a question without an answer wants "unanswerable"."""
    accepted = ["unanswerable"] if doc["is_impossible"] else list(doc["answers"])
    return {"f1": max(token_f1(results[0], answer) for answer in accepted)}


TASKS: Mapping[str, _Task] = {
    "csqa": _multiple_choice(
        lambda doc: (
            "Question: " + _options(doc["question"]["stem"], [choice["text"] for choice in doc["question"]["choices"]])
        ),
        _LETTERS,
        lambda doc: _LETTERS.index(doc["answerKey"]),
        "csqa_dev.json",
    ),
    "anli": _multiple_choice(
        lambda doc: f"{doc['premise']}\nQuestion: {doc['hypothesis']} True, False, or Neither?\nAnswer:",
        list(_ANLI.values()),
        lambda doc: list(_ANLI).index(doc["label"]),
        "anli_dev.json",
    ),
    "mmlu": _multiple_choice(
        lambda doc: _options(doc["question"], doc["choices"]),
        _LETTERS[:4],
        lambda doc: int(doc["answer"]),
        "mmlu_test.json",
    ),
    "squad2": _Task(
        "squad2_dev.json",
        "f1",
        {
            "output_type": "generate_until",
            "doc_to_text": _squad_text,
            "doc_to_target": lambda doc: (list(doc["answers"]) or ["unanswerable"])[0],
            "generation_kwargs": {"until": ["\n"], "max_gen_toks": ANSWER_TOKENS},
            "process_results": _squad_f1,
            "metric_list": [{"metric": "f1", "aggregation": "mean", "higher_is_better": True}],
        },
    ),
}


def token_f1(given: str, wanted: str) -> float:
    """Harmonic mean of precision and recall over words, case, punctuation and articles aside (SQuAD's measure)."""
    mine, theirs = _plain_words(given), _plain_words(wanted)
    if not mine or not theirs:
        return float(mine == theirs)
    shared = sum((Counter(mine) & Counter(theirs)).values())
    return 2 * shared / (len(mine) + len(theirs))


def _plain_words(text: str) -> list[str]:
    without = text.casefold().translate(str.maketrans("", "", string.punctuation))
    return _ARTICLES.sub(" ", without).split()


class EditedModel(LM):  # type: ignore[misc]  # the harness has no types
    """The LLM behind retrieval, as the harness asks models.

    Without a hit the LLM is the unedited one to the last bit, so its answers are computed once and kept in `unedited`.
    """

    def __init__(
        self, llm: LanguageModel, editor: RecipeEditor, base: KnowledgeBase, unedited: dict[tuple[str, str], Any]
    ) -> None:
        super().__init__()
        self.hits: set[str] = set()
        self.too_long: set[str] = set()
        self._llm = llm
        self._editor = editor
        self._base = base
        self._unedited = unedited

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        """Per (context, continuation) the log-probability of the continuation and whether it is the most likely one."""
        return self._answer([request.args for request in requests], self._likelihoods, "scoring answers")

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """Per context the greedy continuation up to the first stop."""
        stops = {request.args[0]: request.args[1]["until"] for request in requests}

        def generate(asked: list[Asked], _: list[str]) -> list[str]:
            texts = [item.question.text for item in asked]
            written = self._llm.generate_batch([item.prompt for item in asked], texts, ANSWER_TOKENS)
            return [_until(text, stops[context]) for context, text in zip(texts, written, strict=True)]

        return self._answer([(request.args[0], "") for request in requests], generate, "generating answers")

    def loglikelihood_rolling(self, requests: list[Instance]) -> list[float]:
        """No task here asks for it."""
        raise NotImplementedError

    def _answer(
        self,
        pairs: Sequence[tuple[str, str]],
        compute: Callable[[list[Asked], list[str]], list[Any]],
        what: str,
    ) -> list[Any]:
        asked = self._ask(dict.fromkeys(context for context, _ in pairs))
        answers = {pair: self._unedited[pair] for pair in pairs if not asked[pair[0]].hit and pair in self._unedited}
        # Of like length, so that little is padded, and the same context side by side.
        missing = sorted((pair for pair in dict.fromkeys(pairs) if pair not in answers), key=lambda p: (len(p[0]), p))
        for group in (True, False):
            part = [pair for pair in missing if (asked[pair[0]].hit is not None) == group]
            for start in with_progress(range(0, len(part), BATCH), what):
                rows = part[start : start + BATCH]
                found = dict(zip(rows, compute([asked[c] for c, _ in rows], [a for _, a in rows]), strict=True))
                answers |= found
                if not group:
                    self._unedited |= found
        return [answers[pair] for pair in pairs]

    def _ask(self, contexts: Mapping[str, None]) -> dict[str, Asked]:
        readable = [context for context in contexts if self._editor.reads(context)]
        found = told(self._base.ask([(-1, Question(text)) for text in readable]), self._llm)
        asked = {item.question.text: item for item in found}
        self.hits |= {context for context, item in asked.items() if item.hit is not None}
        self.too_long |= contexts.keys() - asked.keys()
        return asked | {context: Asked(Question(context), -1) for context in self.too_long}

    @torch.inference_mode()
    def _likelihoods(self, asked: list[Asked], continuations: list[str]) -> list[tuple[float, bool]]:
        targets = [self._llm.answer_ids(continuation) for continuation in continuations]
        # Logits depend on what stands before a token alone, so the letters A to E of one question share theirs.
        places = [(item.question.text, *target[:-1]) for item, target in zip(asked, targets, strict=True)]
        firsts = {place: row for row, place in reversed(list(enumerate(places)))}
        batch = [Answered(self._llm.token_ids(asked[row].question.text), targets[row]) for row in firsts.values()]
        logits = answer_logits(self._llm, batch, prompts_of([asked[row] for row in firsts.values()]))
        rows = dict(zip(firsts, torch.split(logits, [len(item.answer) for item in batch]), strict=True))
        return [_likelihood(rows[place], torch.tensor(target)) for place, target in zip(places, targets, strict=True)]


def _likelihood(logits: Tensor, targets: Tensor) -> tuple[float, bool]:
    """Log-probability of tokens [n] under logits [n, v], and whether they are the most likely ones."""
    chosen = logits.log_softmax(dim=-1).gather(-1, targets.unsqueeze(-1))
    return float(chosen.sum()), bool((logits.argmax(dim=-1) == targets).all())


@dataclass(frozen=True, slots=True)
class Questions:
    """Where the tasks' questions lie, and how many of each are asked."""

    folder: Path
    limit: int | None = None  # all of them
    seed: int = 0  # of the draw where there is a limit


def evaluate_general(
    tasks: Sequence[str],
    questions: Questions,
    facts: Sequence[Edit],
    counts: Sequence[int],
    editor: RecipeEditor,
    llm: LanguageModel,
) -> dict[str, list[TaskScore]]:
    """Each task's score with each number of facts stored. Raises InvalidArgumentError for a file it cannot read."""
    loaded = {name: _load(name, questions) for name in tasks}
    own_tasks_only = TaskManager(include_defaults=False)  # else the harness reads its thousands of files each time
    unedited: dict[tuple[str, str], Any] = {}
    scores: dict[str, list[TaskScore]] = {name: [] for name in tasks}
    for count in counts:
        with temporary_knowledge_base(editor) as base:
            base.store(facts[:count])
            for name, task in loaded.items():
                model = EditedModel(llm, editor, base, unedited)
                result = simple_evaluate(
                    model, tasks=[task], task_manager=own_tasks_only, log_samples=False, bootstrap_iters=0
                )
                scores[name].append(
                    TaskScore(
                        edits=count,
                        questions=result["n-samples"][name]["effective"],
                        score=100 * result["results"][name][f"{TASKS[name].metric},none"],
                        hits=len(model.hits),
                        too_long=len(model.too_long),
                    )
                )
    return scores


def _load(name: str, questions: Questions) -> ConfigurableTask:
    task, file = TASKS[name], questions.folder / TASKS[name].file
    try:
        records = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InvalidArgumentError([FieldViolation("data", f"{file} cannot be read: {error}")]) from error
    if questions.limit is not None:
        # Not the first: some files are in the order of their subjects.
        records = random.Random(questions.seed).sample(records, min(questions.limit, len(records)))  # noqa: S311
    config = {"task": name, "test_split": "test", "num_fewshot": 0, **task.config}
    return ConfigurableTask(config={**config, "custom_dataset": lambda **_: {"test": Dataset.from_list(records)}})


def _until(text: str, stops: Sequence[str]) -> str:
    for stop in stops:
        text = text.split(stop, maxsplit=1)[0]
    return text
