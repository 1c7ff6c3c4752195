import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from recipe_common.errors import InvalidArgumentError
from recipe_trainer.datasets import Edit, Question, load_edits, load_questions, load_texts, split_held_out

COUNTERFACT = {
    "prompt": "The mother tongue of  Danielle Darrieux is",
    "target_new": " English",
    "subject": "Danielle Darrieux",
    "ground_truth": "French",
    "rephrase_prompt": "Where Danielle Darrieux is from, people speak\n the language of",
    "locality_prompt": "Michel Braudeau spoke the language",
    "locality_ground_truth": "French",
}
MEND = {
    "subject": "Watts Humphrey",
    "src": "What university did Watts Humphrey attend?",
    "pred": "Trinity College",
    "rephrase": "What university did Watts Humphrey take part in?",
    "alt": "University of Michigan",
    "answers": ["Illinois Institute of Technology"],
    "loc": "nq question: who played desmond doss father in hacksaw ridge",
    "loc_ans": "Hugo Weaving",
    "portability": {"New Question": "Where is it?"},
}
KNOWEDIT = {
    "subject": "Leo Arons",
    "prompt": "The place of death of Leo Arons is",
    "target_new": "Berlin",
    "rephrase_prompt": "Where did Leo Arons die?",
    "portability": {
        "Subject_Aliasing": [{"prompt": "The place of death of L. Arons is", "ground_truth": "Berlin"}],
        "Reasoning": [{"prompt": "The river there is", "ground_truth": [["Spree"]]}],
    },
    "locality": {
        "Relation_Specificity": [
            {
                "prompt": "The name of the father of Leo Arons is",
                "ground_truth": [["Albert Arons", "Albert"]],
            },
            {"prompt": "The child of Leo Arons is", "ground_truth": []},
        ],
        "Forgetfulness": [{"prompt": "Leo Arons, who is not X, is", "ground_truth": "a physicist"}],
    },
}
KNOWEDIT_IN_LISTS = {
    "subject": "Iona Abbey",
    "prompt": "The name of the founder of Iona Abbey is",
    "target_new": "Columba",
    "portability": {
        "Subject_Aliasing": {
            "prompt": ["Founder of the abbey:", "It was founded by"],
            "ground_truth": ["Columba", "Columba"],
        }
    },
    "locality": {
        "Relation_Specificity": {
            "prompt": ["The country of Iona Abbey is"],
            "ground_truth": ["United Kingdom"],
        }
    },
}
PORTABILITY = (
    Question("The place of death of L. Arons is", "Berlin", "Subject_Aliasing"),
    Question("The river there is", "Spree", "Reasoning"),
)
PORTABILITY_IN_LISTS = (
    Question("Founder of the abbey:", "Columba", "Subject_Aliasing"),
    Question("It was founded by", "Columba", "Subject_Aliasing"),
)
PLAIN = {"src": "What is the native language of Christiane Cohendy?", "alt": "German"}


@pytest.fixture
def file_of(tmp_path: Path) -> Callable[[Any], Path]:
    def write(records: Any) -> Path:
        path = tmp_path / "data.json"
        path.write_text(json.dumps(records), encoding="utf-8")
        return path

    return write


FileOf = Callable[[Any], Path]


def test_counterfact(file_of: FileOf) -> None:
    assert load_edits(file_of([COUNTERFACT])) == [
        Edit(
            prompt="The mother tongue of Danielle Darrieux is",
            answer="English",
            subject="Danielle Darrieux",
            paraphrases=("Where Danielle Darrieux is from, people speak the language of",),
            unrelated=(Question("Michel Braudeau spoke the language", "French"),),
        )
    ]


def test_mend(file_of: FileOf) -> None:
    assert load_edits(file_of([MEND])) == [
        Edit(
            prompt="What university did Watts Humphrey attend?",
            answer="University of Michigan",
            subject="Watts Humphrey",
            paraphrases=("What university did Watts Humphrey take part in?",),
            unrelated=(Question("who played desmond doss father in hacksaw ridge", "Hugo Weaving"),),
        )
    ]


def test_knowedit(file_of: FileOf) -> None:
    assert load_edits(file_of([KNOWEDIT])) == [
        Edit(
            prompt="The place of death of Leo Arons is",
            answer="Berlin",
            subject="Leo Arons",
            paraphrases=("Where did Leo Arons die?", "The place of death of L. Arons is"),
            unrelated=(
                Question("The name of the father of Leo Arons is", "Albert Arons", "Relation_Specificity"),
                Question("The child of Leo Arons is", "", "Relation_Specificity"),
                Question("Leo Arons, who is not X, is", "a physicist", "Forgetfulness"),
            ),
            portability=PORTABILITY,
        )
    ]


def test_knowedit_with_its_questions_in_lists(file_of: FileOf) -> None:
    assert load_edits(file_of([KNOWEDIT_IN_LISTS])) == [
        Edit(
            prompt="The name of the founder of Iona Abbey is",
            answer="Columba",
            subject="Iona Abbey",
            paraphrases=("Founder of the abbey:", "It was founded by"),
            unrelated=(Question("The country of Iona Abbey is", "United Kingdom", "Relation_Specificity"),),
            portability=PORTABILITY_IN_LISTS,
        )
    ]


def test_knowedit_with_nothing_but_the_edit(file_of: FileOf) -> None:
    assert load_edits(file_of([{"prompt": "A is", "target_new": "B"}])) == [Edit(prompt="A is", answer="B")]


def test_plain_pairs(file_of: FileOf) -> None:
    assert load_edits(file_of([PLAIN])) == [
        Edit(prompt="What is the native language of Christiane Cohendy?", answer="German")
    ]


def test_formats_may_be_mixed_in_a_file(file_of: FileOf) -> None:
    prompts = [edit.prompt for edit in load_edits(file_of([PLAIN, MEND, COUNTERFACT]))]
    assert prompts == [PLAIN["src"], MEND["src"], "The mother tongue of Danielle Darrieux is"]


def test_a_statement_is_the_prompt_with_its_answer() -> None:
    assert Edit(prompt="A is", answer="B").statement == "A is B"


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({"question": "who", "answer": ["me"]}, "KeyError: 'src'"),
        ({**COUNTERFACT, "target_new": None}, "AttributeError: 'NoneType' object has no attribute 'split'"),
        ({key: value for key, value in MEND.items() if key != "rephrase"}, "KeyError: 'rephrase'"),
        ({**KNOWEDIT, "locality": []}, "AttributeError: 'list' object has no attribute 'items'"),
        (
            {**KNOWEDIT, "locality": {"Forgetfulness": {"prompt": "A", "ground_truth": "B"}}},
            "TypeError: prompt and ground_truth must be lists",
        ),
        (
            {**KNOWEDIT, "locality": {"Forgetfulness": {"prompt": ["A"], "ground_truth": []}}},
            "ValueError: zip() argument 2 is shorter than argument 1",
        ),
        ("text", "TypeError: "),
        (7, "TypeError: "),
    ],
)
def test_a_record_of_another_shape_is_named_with_what_it_lacks(file_of: FileOf, record: Any, reason: str) -> None:
    path = file_of([PLAIN, record])
    with pytest.raises(InvalidArgumentError) as raised:
        load_edits(path)
    assert str(raised.value).startswith(f"data: {path}, record 1: not a known format ({reason}")


@pytest.mark.parametrize("records", [{}, [], "text"])
def test_a_file_must_hold_a_list_of_records(file_of: FileOf, records: Any) -> None:
    path = file_of(records)
    with pytest.raises(InvalidArgumentError) as raised:
        load_edits(path)
    assert str(raised.value) == f"data: {path} must hold a JSON list of at least one record"


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgumentError) as raised:
        load_edits(tmp_path / "none.json")
    assert str(raised.value) == f"data: there is no file {tmp_path / 'none.json'}; correct the path"


def test_a_file_that_is_not_json_is_named(tmp_path: Path) -> None:
    (tmp_path / "data.json").write_text("{")
    with pytest.raises(InvalidArgumentError, match=f"data: {tmp_path / 'data.json'} is not JSON: "):
        load_edits(tmp_path / "data.json")


def test_open_questions_keep_their_first_answer(file_of: FileOf) -> None:
    records = [{"question": "who  wrote it", "answer": ["Ada", "Ada L."]}, {"question": "when", "answer": []}]
    assert load_questions(file_of(records)) == [Question("who wrote it", "Ada"), Question("when", "")]


def test_a_question_of_another_shape_is_named(file_of: FileOf) -> None:
    path = file_of([{"question": "who", "answer": ["me"]}, PLAIN])
    with pytest.raises(InvalidArgumentError) as raised:
        load_questions(path)
    assert str(raised.value) == f"data: {path}, record 1: not a known format (KeyError: 'question')"


def test_every_fourth_question_is_held_out() -> None:
    questions = [Question(str(number)) for number in range(9)]
    training, held_out = split_held_out(questions)
    assert [question.text for question in training] == ["0", "1", "2", "4", "5", "6", "8"]
    assert [question.text for question in held_out] == ["3", "7"]


def test_a_criterion_has_one_name_in_every_file(file_of: FileOf) -> None:
    record = {
        "prompt": "A is",
        "target_new": "B",
        "portability": {"reasoning": {"prompt": ["C"], "ground_truth": ["D"]}},
    }
    assert load_edits(file_of([record]))[0].portability == (Question("C", "D", "Reasoning"),)


def test_texts_are_questions_of_a_json_file_or_lines_of_another(tmp_path: Path, file_of: FileOf) -> None:
    (tmp_path / "prose.txt").write_text("First  line.\n\n  Second line.\n", encoding="utf-8")
    assert load_texts(tmp_path / "prose.txt") == ["First line.", "Second line."]
    assert load_texts(file_of([{"question": "who", "answer": ["me"]}])) == ["who"]


@pytest.mark.parametrize(
    ("content", "message"), [(b" \n", "holds no text"), (b"\xff", "cannot be read"), (None, "cannot")]
)
def test_a_file_without_texts_is_named(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "prose.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InvalidArgumentError, match=f"data: {path} {message}"):
        load_texts(path)
