import random

import pytest

from recipe_trainer.datasets import Edit
from recipe_trainer.wordings import Wordings, alias, other_form, other_number, sibling, with_subject, wording

CITIES = ["Aville", "Beton", "Cford", "Dorf", "Eton"]


def mayors(text: str, answer: str = "Ann") -> list[Edit]:
    return [Edit(text.replace("{}", name), answer, subject=name) for name in CITIES]


@pytest.mark.parametrize(
    ("prompt", "subject"),
    [
        ("What team does Galih Firmansyah play for?", "Galih Firmansyah"),
        ("Who is Nebetiunet's dad?", "Nebetiunet"),
        ("What is the launch date of Mars 2MV-4 No.1?", "Mars 2MV-4 No.1"),
        ("Who distributed Devil Dogs of the Air?", "Devil Dogs of the Air"),
        ("Which language is spoken here?", ""),
    ],
)
def test_the_capitalised_words_behind_the_first_are_the_subject(prompt: str, subject: str) -> None:
    assert with_subject(Edit(prompt, "x")).subject == subject


def test_a_subject_that_the_data_names_stays() -> None:
    edit = Edit("Who is the mayor of Aville City?", "x", subject="Aville")
    assert with_subject(edit) is edit


@pytest.mark.parametrize(
    ("text", "subject", "expected"),
    [
        ("The mayor of Aville is", "Aville", "The mayor of {} is"),
        ("Aville, the", "Aville", None),  # nothing is left that names a relation
        ("Aville is Aville's mayor", "Aville", None),
        ("The mayor is", "Aville", None),
        ("The mayor is", "", None),
    ],
)
def test_a_wording_is_a_prompt_without_its_subject(text: str, subject: str, expected: str | None) -> None:
    assert wording(text, subject) == expected


def test_a_paraphrase_gives_all_questions_of_its_wording_another_one() -> None:
    rephrased = Edit("Who is mayor of Zett?", "Zoe", subject="Zett", paraphrases=("Who rules the town of Zett?",))
    edits = [*mayors("Who is mayor of {}?"), rephrased]
    assert Wordings(edits).same_relation(edits[0]) == ("Who rules the town of Aville?",)


def test_two_questions_on_one_subject_with_one_answer_ask_the_same() -> None:
    edits = [*mayors("Who is mayor of {}?"), Edit("Aville is ruled by whom?", "Ann", subject="Aville")]
    wordings = Wordings(edits)
    assert wordings.same_relation(edits[1]) == ("Beton is ruled by whom?",)
    assert len({wordings.relation(edit) for edit in edits}) == 1


def test_thousands_of_wordings_of_one_relation_are_linked() -> None:
    edits = [
        Edit(f"Who is mayor number {number} of Aville?", "x", "Aville", ("Who rules the town of Aville?",))
        for number in range(3000)
    ]
    assert len(Wordings(edits).same_relation(edits[7])) == 3000


def test_of_a_relation_that_is_seen_rarely_no_other_is_known_to_differ() -> None:
    rare = Edit("The age of Aville is", "10", subject="Aville")
    assert Wordings([*mayors("The mayor of {} is"), rare]).other_relations(rare) == ()


def test_what_is_no_question_links_nothing() -> None:
    edits = [Edit("The mayor of Aville is", "Ann", subject="Aville", paraphrases=("It is Aville that is known for",))]
    assert Wordings(edits).same_relation(edits[0]) == ()


def test_another_relation_shares_no_answer_and_is_put_the_same_way() -> None:
    edits = [
        *mayors("The mayor of {} is"),
        *mayors("The ruler of {} is", "Ann"),  # may be the same relation
        *mayors("The river of {} is", "Sample"),
        *mayors("What is the area of {}?", "small"),  # a question beside sentences to be continued
        Edit("The age of Aville is", "10", subject="Aville"),  # too rare to be put other subjects into
    ]
    assert Wordings(edits).other_relations(edits[0]) == ("The river of Aville is",)


def test_the_same_relation_in_other_words_is_no_other_relation() -> None:
    link = Edit("Who is mayor of Zett?", "Zoe", subject="Zett", paraphrases=("Who rules the town of Zett?",))
    edits = [*mayors("Who is mayor of {}?"), *mayors("Who rules the town of {}?", "Bob"), link]
    assert Wordings(edits).other_relations(edits[0]) == ()


def test_an_edit_without_a_wording_has_no_other_questions() -> None:
    nameless = Edit("the mayor is", "Ann")
    wordings = Wordings([nameless, *mayors("The river of {} is", "Sample")])
    assert (wordings.same_relation(nameless), wordings.other_relations(nameless)) == ((), ())


@pytest.mark.parametrize(
    ("text", "turned"),
    [
        ("The mother tongue of Ann is", "What is the mother tongue of Ann?"),
        ("Ann was born in", "Ann was born in what?"),
        ("What is the mother tongue of Ann?", "The mother tongue of Ann is"),
        ("Who was the first owner of the Aurora?", "The first owner of the Aurora is"),
        ("Which company makes Nutella?", "The company that makes Nutella is"),
        ("Who is Ann's father?", None),
    ],
)
def test_a_question_turns_into_the_beginning_of_a_sentence_and_back(text: str, turned: str | None) -> None:
    assert other_form(text) == turned


@pytest.mark.parametrize(
    ("subject", "expected"),
    [
        (
            "Jennifer Shrader Lawrence",
            {"J. Shrader Lawrence", "J Shrader Lawrence", "JSL", "J.S.L.", "Jennifer Lawrence"},
        ),
        ("Whoopi Goldberg", {"W. Goldberg", "Whoopi Elaine Goldberg", "whoopi goldberg"}),
        ("Eurovision Song Contest 2022", {"ESC 2022", "E.S.C. 2022"}),
        ("Erling H\u00e5land", {"Erling Haland"}),
        ("Saint-Aville", {"Saint Aville"}),
    ],
)
def test_an_alias_follows_a_rule_and_is_another_name(subject: str, expected: set[str]) -> None:
    random_ = random.Random(0)
    found = {alias(random_, subject, "Elaine Johnson") for _ in range(300)}
    assert expected <= found
    assert subject not in found


def test_a_name_without_another_form_stays_as_it_is() -> None:
    assert alias(random.Random(0), "1984", "Elaine") == "1984"


def test_no_alias_leaves_a_number_out() -> None:
    random_ = random.Random(0)
    assert {alias(random_, "BMW R 80", "Elaine") for _ in range(300)} == {
        "bmw r 80",
        "B R 80",
        "B. R 80",
        "BMW Elaine R 80",
        "BMW 80",
        "R 80",
    }


@pytest.mark.parametrize(
    ("subject", "other", "expected"),
    [
        ("Ann Lee", "Bo Ray", {"Ann Ray", "Bo Lee"}),
        ("Ann Lee", "Ann Ray", {"Ann Ray"}),
        ("University of Oxford", "Duke of York", {"Duke of Oxford", "University of York"}),
        ("R 8", "A 7", {"A 8", "R 0", "R 1", "R 2", "R 3", "R 4", "R 5", "R 6", "R 7", "R 9"}),
        ("Paris", "Lyon", {None}),
        ("Ann Lee", "ann lee", {None}),
        ("of the", "Bo Ray", {None}),
    ],
)
def test_a_sibling_differs_in_one_word_or_digit(subject: str, other: str, expected: set[str | None]) -> None:
    random_ = random.Random(0)
    assert {sibling(random_, subject, other) for _ in range(400)} - {None} == expected - {None}
    assert expected != {None} or sibling(random_, subject, other) is None


def test_another_number_differs_in_one_digit_or_without_digits_in_one_capital() -> None:
    random_ = random.Random(0)
    assert {other_number(random_, "A1") for _ in range(200)} == {f"A{digit}" for digit in "023456789"}
    assert {other_number(random_, "Ab")[1:] for _ in range(20)} == {"b"}
    assert other_number(random_, "Ab") != "Ab"
    assert other_number(random_, "ab") == "ab"
