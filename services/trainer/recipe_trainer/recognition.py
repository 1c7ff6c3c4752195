"""Whether facts are recognised however they are asked for: `recipe eval wordings` and `recipe eval natural`.

All facts of a file are stored first, then every wording and every near miss is asked. Figures are percentages.
"""

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from recipe_model.editor import RecipeEditor
from recipe_trainer.datasets import Edit, Question, load_texts, naming, records, tidy
from recipe_trainer.evaluation import mean_percent
from recipe_trainer.knowledge_base import Asked, temporary_knowledge_base
from recipe_trainer.natural import PEOPLE, NaturalFact, Pair, load_facts, load_pairs, sources

OWN: Final = "own"
FORMS: Final[Mapping[int, tuple[str, ...]]] = {  # of a record's asks, by how many there are
    2: ("question", "keywords"),
    4: ("question", "longer_question", "keywords", "completion"),
}
BINS: Final = 15  # of equal width, of the calibration error
CHAT_FORMS: Final = (OWN, "question")  # what is asked in a conversation too
THRESHOLDS: Final = tuple(round(0.05 * step, 2) for step in range(1, 20))
TEXT_FACTS: Final = 1_000  # that are stored when ordinary texts are asked
Item = TypeVar("Item")
Numbered = list[tuple[int, Question]]
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Recognition:
    """Facts that were stored and all that was asked about them; the criterion of each question is its form."""

    asks: Sequence[Asked]
    near_misses: Sequence[Asked]

    def figures(self) -> dict[str, Any]:
        """What `recipe eval wordings` reports of one file."""
        return {
            "recognised": self.by_form(lambda item: item.right),
            "near_miss_false_hits": mean_percent([item.hit is not None for item in self.near_misses]),
            "nearest": self.by_form(lambda item: item.nearest),
            "candidates": self.by_form(lambda item: item.among_candidates),
            "confidence": {"ece": expected_calibration_error(*self.confidences())},
            "by_min_confidence": [self._at(threshold) for threshold in THRESHOLDS],
        }

    def by_form(self, found: Callable[[Asked], bool]) -> dict[str, float | None]:
        """The share of asked texts of which something is so, for each form."""
        forms = dict.fromkeys(item.question.criterion for item in self.asks)
        return {
            form: mean_percent([found(item) for item in self.asks if item.question.criterion == form]) for form in forms
        }

    def confidences(self) -> tuple[Floats, Floats]:
        """Of each decision that had a candidate the confidence given [n], and whether it was right [n], 0 or 1."""
        decided = [item for item in (*self.asks, *self.near_misses) if item.candidates]
        given = [item.candidates[0].confidence for item in decided]
        return np.array(given), np.array([float(item.candidates[0].record == item.record) for item in decided])

    def _at(self, threshold: float) -> dict[str, float | None]:
        """Recognised and near misses if facts applied from this confidence on, own questions aside."""
        others = [item for item in self.asks if item.question.criterion != OWN]
        return {
            "min_confidence": threshold,
            "recognised": mean_percent([_applies(item, threshold, item.record) for item in others]),
            "near_miss_false_hits": mean_percent([_applies(item, threshold) for item in self.near_misses]),
        }


def ask_about(
    asked: Sequence[Edit],
    forms: Sequence[Sequence[str]],
    stored: Sequence[Edit],
    editor: RecipeEditor,
    *,
    prompts: bool = False,
) -> Recognition:
    """Store `asked` and behind them `stored`, and ask each paraphrase (of these forms) and each unrelated question.

    What looks alike but stands word for word among what asks for another record is no near miss, and is left out.
    """
    readable = [(edit, names) for edit, names in zip(asked, forms, strict=True) if editor.reads(edit.knowledge)]
    asks: Numbered = []
    for number, (edit, names) in enumerate(readable):
        pairs = zip(edit.paraphrases, names, strict=True)
        asks += [(number, Question(text, edit.answer, criterion=form)) for text, form in pairs]
    known = {question.text.casefold() for _, question in asks} | {edit.prompt.casefold() for edit in asked}
    near = [(-1, question) for edit in asked for question in edit.unrelated if question.text.casefold() not in known]
    with temporary_knowledge_base(editor) as base:
        base.store([edit for edit, _ in readable])
        base.store([edit for edit in stored if editor.reads(edit.knowledge)])
        found = base.ask(_readable(asks, editor), prompts=prompts)
        return Recognition(found, base.ask(_readable(near, editor), prompts=False))


def evaluate_wordings(files: Sequence[Path], others: Sequence[Edit], editor: RecipeEditor) -> Mapping[str, Recognition]:
    """Each file of records with `asks` and `near_misses` by itself, among the same other facts."""
    found: dict[str, Recognition] = {}
    for file in files:
        edits = load_wordings(file)
        forms = [(OWN, *_forms(len(edit.paraphrases) - 1)) for edit in edits]
        found[file.name] = ask_about(edits, forms, others, editor, prompts=True)
    return found


def load_wordings(file: Path) -> list[Edit]:
    """Read records of one fact each; its own prompt is the first of its paraphrases.

    Raises InvalidArgumentError naming the record and what it lacks.
    """
    edits = []
    for index, record in enumerate(records(file)):
        with naming(file, index):
            prompt = tidy(record["prompt"])
            edits.append(
                Edit(
                    prompt=prompt,
                    answer=tidy(record["answer"]),
                    subject=tidy(record.get("subject") or ""),
                    paraphrases=(prompt, *map(tidy, record["asks"])),
                    unrelated=tuple(Question(tidy(text)) for text in record["near_misses"]),
                    aliases=tuple(map(tidy, record.get("aliases", ()))),
                )
            )
    return edits


def wordings_figures(found: Mapping[str, Recognition], said: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Figures of one file, or of several together and beside them of each under `files`.

    `said` are figures of each file's answers, for files whose answers were written.
    """
    figures = {name: {**each.figures(), **said.get(name, {})} for name, each in found.items()}
    if len(found) == 1:
        return next(iter(figures.values()))
    return {"files": figures, **pool_recognition(found.values()).figures()}


def pool_recognition(parts: Iterable[Recognition]) -> Recognition:
    """All that was asked, as if it were of one file."""
    parts = list(parts)
    asks = [item for part in parts for item in part.asks]
    return Recognition(asks, [item for part in parts for item in part.near_misses])


def reliability(given: Floats, right: Floats) -> list[tuple[float, float, int]]:
    """For each bin that is not empty the mean confidence, the share that was right, and how many there are."""
    bins = np.minimum((given * BINS).astype(int), BINS - 1)
    rows = [bins == place for place in range(BINS)]
    return [(float(given[row].mean()), float(right[row].mean()), int(row.sum())) for row in rows if row.any()]


def expected_calibration_error(given: Floats, right: Floats) -> float | None:
    """Mean difference between confidence given [n] and share that was right [n], over BINS bins, in percent."""
    if not len(given):
        return None
    gaps = [count * abs(said - was) for said, was, count in reliability(given, right)]
    return 100.0 * sum(gaps) / len(given)


def evaluate_natural(folder: Path, editor: RecipeEditor, limit: int, seed: int) -> dict[str, Any]:
    """Every source of a folder by itself, up to `limit` records of each, and the mean over what people worded."""
    facts = {
        name: _different(_sampled(load_facts(path), limit, f"{seed}/facts/{name}"))
        for name, path in sources(folder, "facts").items()
    }
    rows: dict[str, Any] = {f"facts.{name}": _fact_figures(found, editor) for name, found in facts.items()}
    for name, path in sources(folder, "pairs").items():
        pairs = _sampled(load_pairs(path), limit, f"{seed}/pairs/{name}")
        rows[f"pairs.{name}"] = _pair_figures(pairs, editor)
    known = [fact.edit for found in facts.values() for fact in found]
    texts = {
        f"text.{name}": _sampled(load_texts(path), limit, f"{seed}/text/{name}")
        for name, path in sources(folder, "text").items()
    }
    if texts:
        rows |= _text_figures(texts, _sampled(known, TEXT_FACTS, f"{seed}/stored"), editor)
    return {"sources": rows, "mean": _mean_of_people(rows)}


def _fact_figures(facts: Sequence[NaturalFact], editor: RecipeEditor) -> dict[str, Any]:
    found = ask_about([fact.edit for fact in facts], [fact.asks_wording for fact in facts], [], editor)
    people = [item for item in found.asks if item.question.criterion in PEOPLE]
    return {
        "records": len(facts),
        "asks": len(found.asks),
        "near_misses": len(found.near_misses),
        **_shares(found),
        "recognised_people": mean_percent([item.right for item in people]),
    }


def _pair_figures(pairs: Sequence[Pair], editor: RecipeEditor) -> dict[str, Any]:
    """The first of each pair as a bare statement, stored once; the second asked."""
    stored: dict[str, Edit] = {}
    for pair in pairs:
        edit = stored.get(pair.stored, Edit(pair.stored, ""))
        same = (*edit.paraphrases, pair.asked) if pair.same else edit.paraphrases
        other = edit.unrelated if pair.same else (*edit.unrelated, Question(pair.asked))
        stored[pair.stored] = replace(edit, paraphrases=same, unrelated=other)
    edits = list(stored.values())
    found = ask_about(edits, [["same"] * len(edit.paraphrases) for edit in edits], [], editor)
    return {"records": len(pairs), "asks": len(found.asks), "near_misses": len(found.near_misses), **_shares(found)}


def _text_figures(texts: Mapping[str, Sequence[str]], facts: Sequence[Edit], editor: RecipeEditor) -> dict[str, Any]:
    """Texts that ask for nothing, all asked of the same facts."""
    rows: dict[str, Any] = {}
    with temporary_knowledge_base(editor) as base:
        base.store([edit for edit in facts if editor.reads(edit.knowledge)])
        for name, group in texts.items():
            asked = base.ask(_readable([(-1, Question(text)) for text in group], editor), prompts=False)
            false_hits = mean_percent([item.hit is not None for item in asked])
            rows[name] = {"records": len(group), "asked": len(asked), "false_hits": false_hits}
    return rows


def _shares(found: Recognition) -> dict[str, float | None]:
    return {
        "recognised": mean_percent([item.right for item in found.asks]),
        "near_miss_false_hits": mean_percent([item.hit is not None for item in found.near_misses]),
        "nearest": mean_percent([item.nearest for item in found.asks]),
        "candidates": mean_percent([item.among_candidates for item in found.asks]),
    }


def _mean_of_people(rows: Mapping[str, Mapping[str, Any]]) -> dict[str, float | None]:
    """Over the sources of facts that people, or an LLM, asked for; only what they asked counts."""
    chosen = [row for row in rows.values() if row.get("recognised_people") is not None]
    columns = {"recognised": "recognised_people", "near_miss_false_hits": "near_miss_false_hits"}
    values = {name: [row[column] for row in chosen if row[column] is not None] for name, column in columns.items()}
    return {name: float(np.mean(found)) if found else None for name, found in values.items()}


def _forms(count: int) -> tuple[str, ...]:
    return FORMS.get(count) or tuple(f"ask_{place}" for place in range(1, count + 1))


def _different(facts: Sequence[NaturalFact]) -> list[NaturalFact]:
    """The facts without those that another one states already: which of the two is hit says nothing."""
    return list({fact.edit.prompt.casefold(): fact for fact in reversed(facts)}.values())[::-1]


def _sampled(items: Sequence[Item], limit: int, seed: str) -> list[Item]:
    return random.Random(seed).sample(items, min(limit, len(items)))  # noqa: S311 (no secret)


def _readable(questions: Numbered, editor: RecipeEditor) -> Numbered:
    return [(number, question) for number, question in questions if editor.reads(question.text)]


def _applies(item: Asked, threshold: float, record: int | None = None) -> bool:
    """Whether a fact, or that of a record, would apply from this confidence on."""
    if not item.candidates or item.candidates[0].confidence < threshold:
        return False
    return record is None or item.candidates[0].record == record
