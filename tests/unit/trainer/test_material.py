import json
from pathlib import Path

import pytest

from recipe_trainer.material import read_material
from recipe_trainer.options import TrainOptions

EDITS = [{"src": f"The mayor of town {number} is", "alt": "Ann"} for number in range(6)]
QUESTIONS = [{"question": f"who is {name}", "answer": ["me"]} for name in "abcd"]
FACT = {
    "prompt": "The mayor of city 1 is", "answer": "Zoe", "statement": None, "subject": "city 1", "aliases": [],
    "asks": ["The mayor of town 2 is"], "asks_wording": ["human"], "near_misses": [],
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "sets"
    folder.mkdir()
    (folder / "edits.json").write_text(json.dumps([*EDITS, {"src": "Nobody is", "alt": ""}]))
    (folder / "open.json").write_text(json.dumps(QUESTIONS))
    (folder / "facts.made.jsonl").write_text(json.dumps(FACT))
    return folder


def test_nothing_is_learnt_of_what_is_asked_on_dev(folder: Path) -> None:
    material = read_material([f"{folder / 'edits.json'}=0.5"], [folder / "open.json"], None, folder)
    assert [edit.prompt for edit in material.sets[0]] == [record["src"] for record in EDITS if "2" not in record["src"]]
    assert material.record["left_out"] == 1
    assert material.record["edits"] == {"sets/edits.json": 0.5}
    assert (material.record["dev"], material.record["natural"]) == (f"{folder.parent.name}/sets", None)
    assert [edit.answer for edit in material.watched] == ["Zoe"]


def test_texts_are_open_questions_that_are_not_held_out_and_ordinary_text(folder: Path) -> None:
    material = read_material([str(folder / "edits.json")], [folder / "open.json"])
    assert [text for text in material.texts if text.startswith("who is") and len(text) < 10] == [
        "who is a",
        "who is b",
        "who is c",
    ]
    assert len(material.texts) > 1_000
    assert material.watched == []


def test_draws_come_in_the_shares_that_the_options_say(folder: Path) -> None:
    material = read_material([f"{folder / 'edits.json'}=3"], [folder / "open.json"], folder)
    pool = material.pool(TrainOptions(natural=0.25, relations=0.125, families=0), ["word"])
    assert pool._weights == [0.625, 0.25, 0.125]
    assert pool._sizes[:2] == [6, 1]
    relation = pool.edits[-1]
    assert relation.paraphrases
    assert relation.answer not in relation.prompt
    assert "→" not in relation.prompt


def test_without_a_folder_of_facts_their_share_goes_to_the_data(folder: Path) -> None:
    material = read_material([str(folder / "edits.json")], [folder / "open.json"])
    assert material.pool(TrainOptions(natural=0.25, relations=0, families=0), [])._weights == [1.0]


def test_the_verifier_learns_from_families_too(folder: Path) -> None:
    material = read_material([str(folder / "edits.json")], [folder / "open.json"])
    assert len(material.edits) == len(EDITS) and len(material.families) > 100
