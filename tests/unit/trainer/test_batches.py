import random
from collections import Counter

import pytest

from recipe_common.errors import InvalidArgumentError
from recipe_trainer.batches import Draw, EditPool, by_length
from recipe_trainer.datasets import Edit, Question
from recipe_trainer.options import TrainOptions

PLAIN = {
    "made_answers": 0, "swapped_answers": 0, "unmarked": 0, "other_forms": 0, "keywords": 0, "aliases": 0,
    "conversations": 0,
}  # fmt: skip


def options(edits: int, **changes: float) -> TrainOptions:
    """A draw of the edits as they are."""
    return TrainOptions(edits=edits, **(PLAIN | changes))  # type: ignore[arg-type]


def edits(name: str, count: int) -> list[Edit]:
    return [
        Edit(
            prompt=f"{name} {number} is",
            answer="x",
            subject=f"{name} {number}",
            paraphrases=(f"what is {name} {number}", f"{name} {number}:"),
            unrelated=(Question("a", "b"), Question("c", "d"), Question("unanswered")),
        )
        for number in range(count)
    ]


def many(pool: EditPool, count: int, **changes: float) -> list[Draw]:
    random_ = random.Random(0)
    return [draw for _ in range(count) for draw in pool.draw(random_, options(2, **changes))]


def test_the_same_seed_draws_the_same_batch() -> None:
    pool = EditPool([edits("city", 20), edits("river", 10)], [0.5, 0.5])
    first, second, other = (
        pool.draw(random.Random(seed), options(8, swapped_answers=0.5)) for seed in ("0/7", "0/7", "0/8")
    )
    assert first == second
    assert first != other


def test_a_batch_has_different_edits_and_a_quarter_is_asked_its_own_prompt() -> None:
    pool = EditPool([edits("city", 5), edits("river", 7)], [0.5, 0.5])
    draws = pool.draw(random.Random(0), options(12))
    assert {draw.edit.prompt for draw in draws} == {edit.prompt for edit in pool.edits}
    assert [draw.own for draw in draws] == [True, False, False, False] * 3
    assert all((draw.question == draw.edit.prompt) == draw.own for draw in draws)


def test_a_draw_takes_one_of_the_edits_paraphrases_and_an_unrelated_question_that_has_an_answer() -> None:
    draws = many(EditPool([edits("city", 2)], [1.0]), 50)
    asked = {draw.question for draw in draws if not draw.own}
    assert asked == {text for number in (0, 1) for text in (f"what is city {number}", f"city {number}:")}
    assert {draw.unrelated for draw in draws} == {Question("a", "b"), Question("c", "d")}


def test_an_edit_without_paraphrases_and_unrelated_questions_stands_for_itself() -> None:
    pool = EditPool([[Edit("city 0 is", "x"), Edit("city 1 is", "x")]], [1.0])
    assert {(draw.question, draw.unrelated) for draw in many(pool, 9)} == {("city 0 is", None), ("city 1 is", None)}


def test_sets_are_drawn_by_their_weights_whatever_their_sizes() -> None:
    pool = EditPool([edits("city", 400), edits("river", 50)], [0.25, 0.75])
    drawn = Counter(draw.edit.prompt.startswith("city") for draw in many(pool, 1000))
    assert drawn[True] == pytest.approx(500, abs=60)


def test_some_paraphrases_change_between_question_and_sentence() -> None:
    asked = [Edit(f"The mayor of {name} is", "x", name, (f"{name} is ruled by",)) for name in "AB"]
    drawn = [draw.question for draw in many(EditPool([asked], [1.0]), 1000, other_forms=0.25) if not draw.own]
    turned = [text for text in drawn if text.endswith("is ruled by what?")]
    assert len(turned) == pytest.approx(250, abs=45)
    assert all(text.endswith("is ruled by") for text in drawn if text not in turned)


def test_some_paraphrases_become_keywords() -> None:
    asked = [Edit(f"The mayor of {name} is", "x", name) for name in ("Aville", "Beton")]
    drawn = {draw.question for draw in many(EditPool([asked], [1.0]), 50, keywords=1.0) if not draw.own}
    assert drawn == {"aville mayor", "mayor aville", "beton mayor", "mayor beton"}


def test_a_paraphrase_may_name_the_subject_otherwise() -> None:
    named = [Edit(f"The mayor of {name} is", "x", name, aliases=("Town",)) for name in ("Saint-Aville", "Nord-Beton")]
    drawn = {draw.question for draw in many(EditPool([named], [1.0]), 50, aliases=1.0) if not draw.own}
    others = {"Town", "saint-aville", "Saint Aville", "nord-beton", "Nord Beton"}
    assert {f"The mayor of {other} is" for other in others} == drawn


def test_swapped_answers_come_from_all_answers_subjects_and_words() -> None:
    draws = many(EditPool([edits("city", 2)], [1.0], words=["word"]), 500, swapped_answers=0.5)
    swapped = Counter(draw.edit.answer for draw in draws)
    assert set(swapped) == {"x", "city 0", "city 1", "word"}
    assert swapped["word"] == pytest.approx(1000 / 6, abs=40)
    assert all(draw.knowledge == f"{draw.edit.prompt} → {draw.edit.answer}" for draw in draws)


def test_some_facts_are_bare_statements_as_people_wrote_them() -> None:
    facts = [Edit(f"city {number} is", "x", sentence=f"it is x in city {number}") for number in (0, 1)]
    drawn = Counter(draw.knowledge for draw in many(EditPool([facts], [1.0]), 500, unmarked=0.25))
    assert set(drawn) == {text for n in (0, 1) for text in (f"it is x in city {n}", f"city {n} is → x")}
    assert drawn["it is x in city 0"] + drawn["it is x in city 1"] == pytest.approx(250, abs=50)


def test_a_sentence_that_states_the_old_answer_is_not_kept_for_a_swapped_one() -> None:
    facts = [Edit(f"city {number} is", "x", sentence=f"it is x in city {number}") for number in (0, 1)]
    drawn = many(EditPool([facts], [1.0], words=["y"]), 50, unmarked=1.0, swapped_answers=1.0)
    assert all(draw.knowledge == f"{draw.edit.prompt} {draw.edit.answer}" for draw in drawn)


def test_every_second_fact_tells_the_other_names_of_its_subject() -> None:
    facts = [Edit(f"city {number} is", "x", "city", aliases=("town",)) for number in (0, 1)]
    drawn = Counter("≡ town" in draw.knowledge for draw in many(EditPool([facts], [1.0]), 250))
    assert drawn[True] == pytest.approx(250, abs=50)


@pytest.mark.parametrize("weights", [[1.0, 1.0], [1.0, 0.0]])
def test_more_edits_than_can_be_drawn_are_refused(weights: list[float]) -> None:
    pool = EditPool([edits("city", 3), edits("river", 4)], weights)
    available = 7 if weights[1] else 3
    assert len(pool.draw(random.Random(0), options(available))) == available
    with pytest.raises(InvalidArgumentError) as raised:
        pool.draw(random.Random(0), options(available + 1))
    assert str(raised.value) == f"edits: is {available + 1}, but the data holds {available} edits only; lower it"


def test_a_sample_is_of_different_edits_and_no_more_than_there_are() -> None:
    pool = EditPool([edits("city", 5), edits("river", 5)], [1.0, 0.0])
    assert len({edit.prompt for edit in pool.sample(random.Random(0), 20)}) == 10
    assert len({edit.prompt for edit in pool.sample(random.Random(0), 4)}) == 4


def test_rows_are_grouped_by_length() -> None:
    assert by_length([5, 1, 3, 1, 9], size=2) == [[1, 3], [2, 0], [4]]
    assert by_length([], size=2) == []


def test_made_answers_replace_the_edits_own_and_their_sentences() -> None:
    facts = [Edit(f"city {number} is", "x", sentence=f"it is x in city {number}") for number in (0, 1)]
    drawn = many(EditPool([facts], [1.0]), 500, made_answers=0.5)
    made = [draw.edit for draw in drawn if draw.edit.answer != "x"]
    assert len(made) == pytest.approx(500, abs=80)
    assert all(edit.sentence == "" for edit in made)


def test_some_questions_end_a_conversation_and_are_asked_there_as_questions() -> None:
    asked = [Edit(f"The mayor of {name} is", "x", name) for name in ("Aville", "Beton")]
    drawn = many(EditPool([asked], [1.0]), 500, conversations=0.5)
    chats = [draw for draw in drawn if draw.earlier is not None]
    assert len(chats) == pytest.approx(500, abs=70)
    questions = Counter(draw.question.endswith("?") for draw in chats)
    assert questions[True] == pytest.approx(0.7 * len(chats), abs=60)
    assert not any(draw.question.endswith("?") for draw in drawn if draw.earlier is None)
