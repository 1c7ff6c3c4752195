import random
from collections import Counter

import pytest

from recipe_common.errors import InvalidArgumentError
from recipe_trainer.batches import EditPool, by_length, original_order, with_typos
from recipe_trainer.datasets import Edit, Question

QUESTIONS = [Question(f"open question {number}", "answer") for number in range(5)]


def edits(name: str, count: int) -> list[Edit]:
    return [
        Edit(
            prompt=f"{name} {number} is",
            answer="x",
            subject=f"{name} {number}",
            paraphrases=(f"what is {name} {number}", f"{name} {number}:"),
            unrelated=(Question("a", "b"), Question("c", "d")),
        )
        for number in range(count)
    ]


def about(pool: EditPool, text: str) -> list[int]:
    return sorted(pool.about(text))


def subjects(*names: str) -> EditPool:
    pool = [Edit(prompt=f"prompt {number}", answer="x", subject=name) for number, name in enumerate(names)]
    return EditPool([pool], [1.0], [])


def test_the_same_seed_draws_the_same_batch() -> None:
    pool = EditPool([edits("city", 20), edits("river", 10)], [0.5, 0.5], QUESTIONS)
    first, second, other = (pool.draw(random.Random(seed), 8, 3) for seed in ("0/7", "0/7", "0/8"))
    assert first == second
    assert first != other


def test_a_batch_has_different_edits_and_questions() -> None:
    pool = EditPool([edits("city", 5), edits("river", 5)], [0.5, 0.5], QUESTIONS)
    batch = pool.draw(random.Random(0), 10, 4)
    assert sorted(draw.index for draw in batch.draws) == list(range(10))
    assert all(draw.edit is pool.edits[draw.index] for draw in batch.draws)
    assert len({question.text for question in batch.open_questions}) == 4


def test_a_draw_takes_one_of_the_edits_paraphrases_and_one_of_its_unrelated_questions() -> None:
    pool = EditPool([edits("city", 3)], [1.0], [])
    random_ = random.Random(0)
    draws = [draw for _ in range(50) for draw in pool.draw(random_, 3, 0).draws]
    assert all(draw.paraphrase in draw.edit.paraphrases for draw in draws)
    assert {draw.paraphrase for draw in draws} == {text for edit in pool.edits for text in edit.paraphrases}
    assert {draw.unrelated for draw in draws} == set(pool.edits[0].unrelated)


def test_an_edit_without_paraphrases_and_unrelated_questions_stands_for_itself() -> None:
    pool = EditPool([[Edit(prompt="city 0 is", answer="x")]], [1.0], [])
    (draw,) = pool.draw(random.Random(0), 1, 3).draws
    assert (draw.paraphrase, draw.unrelated) == ("city 0 is", None)


def test_sets_are_drawn_by_their_weights_whatever_their_sizes() -> None:
    pool = EditPool([edits("city", 400), edits("river", 50)], [0.25, 0.75], [])
    random_ = random.Random(0)
    drawn = Counter(pool.draw(random_, 1, 0).draws[0].index < 400 for _ in range(2000))
    assert drawn[True] == pytest.approx(500, abs=60)


def test_more_open_questions_than_there_are_give_all_of_them() -> None:
    batch = EditPool([edits("city", 3)], [1.0], QUESTIONS).draw(random.Random(0), 1, 99)
    assert sorted(question.text for question in batch.open_questions) == [question.text for question in QUESTIONS]


@pytest.mark.parametrize("weights", [[1.0, 1.0], [1.0, 0.0]])
def test_more_edits_than_can_be_drawn_are_refused(weights: list[float]) -> None:
    pool = EditPool([edits("city", 3), edits("river", 4)], weights, [])
    available = 7 if weights[1] else 3
    assert len(pool.draw(random.Random(0), available, 0).draws) == available
    with pytest.raises(InvalidArgumentError) as raised:
        pool.draw(random.Random(0), available + 1, 0)
    assert str(raised.value) == (
        f"contrast_edits: is {available + 1}, but the data holds {available} edits only; lower it"
    )


def test_edits_of_the_same_prompt_are_versions_of_one_fact() -> None:
    prompts = ["The mayor of A is", "The mayor of B is", "the Mayor of a is", "The mayor of A is"]
    pool = EditPool(
        [[Edit(prompt, "x") for prompt in prompts[:2]], [Edit(prompt, "y") for prompt in prompts[2:]]],
        [1, 1],
        [],
    )
    assert pool.fact(0) == pool.fact(2) == pool.fact(3)
    assert pool.fact(1) != pool.fact(0)


def test_a_text_is_about_the_subjects_whose_words_it_holds() -> None:
    pool = subjects("Paris", "Paris Hilton", "New York", "new york", "York")
    assert about(pool, "Who is Paris Hilton?") == [0, 1]
    assert about(pool, "the mayor of NEW YORK, today") == [2, 3, 4]
    assert about(pool, "York is new") == [4]
    assert about(pool, "Parisian newyork") == []
    assert about(pool, "") == []


def test_punctuation_and_case_do_not_hide_a_subject() -> None:
    pool = subjects("O'Neill, Ed", "Straße 5")
    assert about(pool, "When was o'neill -- ed born?") == [0]
    assert about(pool, "(STRASSE-5)") == [1]


def test_an_edit_without_a_subject_is_never_named() -> None:
    pool = EditPool([[Edit("The mayor of A is", "x")]], [1.0], [])
    assert about(pool, "The mayor of A is") == []


def test_a_subject_may_have_as_many_words_as_are_looked_for() -> None:
    assert about(subjects("a b c d e f g h"), "x a b c d e f g h y") == [0]


def test_typos_are_one_slip_of_an_inner_letter() -> None:
    random_ = random.Random(0)
    slips = {with_typos(random_, "abcd", rate=1.0) for _ in range(100)}
    assert slips == {"acbd", "acd", "abbcd"}


def test_typos_have_the_rate_that_is_asked_for() -> None:
    random_ = random.Random(0)
    texts = [with_typos(random_, "abcdefgh", rate=0.25) for _ in range(2000)]
    assert sum(text != "abcdefgh" for text in texts) == pytest.approx(500, abs=60)
    assert {with_typos(random_, "abcdefgh", rate=0.0) for _ in range(100)} == {"abcdefgh"}


@pytest.mark.parametrize("text", ["", "a", "abc"])
def test_a_short_text_is_left_alone(text: str) -> None:
    assert with_typos(random.Random(0), text, rate=1.0) == text


def test_rows_are_grouped_by_length() -> None:
    assert by_length([5, 1, 3, 1, 9], size=2) == [[1, 3], [2, 0], [4]]
    assert by_length([], size=2) == []


@pytest.mark.parametrize("size", [1, 3, 100])
def test_original_order_undoes_grouping(size: int) -> None:
    random_ = random.Random(0)
    lengths = [random_.randrange(10) for _ in range(20)]
    groups = by_length(lengths, size)
    grouped = [row for group in groups for row in group]
    assert [grouped[place] for place in original_order(groups)] == list(range(20))
