import random
from collections import Counter

import pytest

from recipe_common.errors import InvalidArgumentError
from recipe_trainer.batches import EditPool, Mixture, by_length, naming, original_order, with_typos
from recipe_trainer.datasets import Edit, Question

TEXTS = [[f"open question {number}" for number in range(5)], ["def f(): pass"]]


def mixture(edits: int, texts: int = 0, **changes: float) -> Mixture:
    """A draw of the edits as they are."""
    plain = {
        "other_relations": 0,
        "siblings": 0,
        "swapped_answers": 0.0,
        "unmarked": 0.0,
        "named_subjects": 0.0,
        "versions": 0,
        "other_forms": 0.0,
        "aliases": 0.0,
    }
    return Mixture(edits=edits, ordinary_texts=texts, **(plain | changes))  # type: ignore[arg-type]


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
    pool = EditPool([edits("city", 20), edits("river", 10)], [0.5, 0.5], TEXTS)
    first, second, other = (
        pool.draw(random.Random(seed), mixture(8, 3, swapped_answers=0.5)) for seed in ("0/7", "0/7", "0/8")
    )
    assert first == second
    assert first != other


def test_a_batch_has_different_edits_and_questions() -> None:
    pool = EditPool([edits("city", 5), edits("river", 5)], [0.5, 0.5], TEXTS)
    batch = pool.draw(random.Random(0), mixture(10, 4))
    assert sorted(draw.index for draw in batch.draws) == list(range(10))
    assert all(draw.edit is pool.edits[draw.index] for draw in batch.draws)
    assert len(batch.ordinary) == 4


def test_a_draw_takes_one_of_the_edits_paraphrases_and_one_of_its_unrelated_questions() -> None:
    pool = EditPool([edits("city", 3)], [1.0], [])
    random_ = random.Random(0)
    draws = [draw for _ in range(50) for draw in pool.draw(random_, mixture(3)).draws]
    assert all(draw.paraphrase in draw.edit.paraphrases for draw in draws)
    assert {draw.paraphrase for draw in draws} == {text for edit in pool.edits for text in edit.paraphrases}
    assert {draw.unrelated for draw in draws} == set(pool.edits[0].unrelated)


def test_an_edit_without_paraphrases_and_unrelated_questions_stands_for_itself() -> None:
    pool = EditPool([[Edit(prompt="city 0 is", answer="x")]], [1.0], [])
    (draw,) = pool.draw(random.Random(0), mixture(1, 3)).draws
    assert (draw.paraphrase, draw.unrelated) == ("city 0 is", None)


def test_sets_are_drawn_by_their_weights_whatever_their_sizes() -> None:
    pool = EditPool([edits("city", 400), edits("river", 50)], [0.25, 0.75], [])
    random_ = random.Random(0)
    drawn = Counter(pool.draw(random_, mixture(1)).draws[0].index < 400 for _ in range(2000))
    assert drawn[True] == pytest.approx(500, abs=60)


def test_texts_of_all_kinds_are_drawn_equally_often_however_many_there_are() -> None:
    batch = EditPool([edits("city", 3)], [1.0], TEXTS).draw(random.Random(0), mixture(1, 1000))
    drawn = Counter(text.startswith("open question") for text, _ in batch.ordinary)
    assert drawn[True] == pytest.approx(500, abs=60)
    assert set(batch.ordinary) == {(text, -1) for group in TEXTS for text in group}


def test_without_texts_none_are_drawn() -> None:
    assert EditPool([edits("city", 3)], [1.0], [[]]).draw(random.Random(0), mixture(1, 9)).ordinary == []


def test_a_subject_is_put_into_sentences_and_into_nothing_else() -> None:
    pool = EditPool([edits("city", 3)], [1.0], [["then Ann Lee came.", "who is it?", "x = 1"]])
    batch = pool.draw(random.Random(0), mixture(3, 400, named_subjects=0.5))
    named = {(f"then city {number} came.", number) for number in range(3)}
    assert set(batch.ordinary) == named | {("then Ann Lee came.", -1), ("who is it?", -1), ("x = 1", -1)}
    assert sum(owner >= 0 for _, owner in batch.ordinary) == pytest.approx(400 / 3 / 2, abs=25)


def test_a_subject_takes_the_place_of_a_name_or_else_of_any_word() -> None:
    assert {naming(random.Random(seed), "in May, he met Al Bo.", "X") for seed in range(20)} == {
        "in X, he met Al Bo.",
        "in May, he met X.",
    }
    assert {naming(random.Random(seed), "so be it.", "X") for seed in range(20)} == {"X be it.", "so X it.", "so be X."}


def test_a_text_without_words_takes_no_subject() -> None:
    assert naming(random.Random(0), "...", "X") == "..."


def test_versions_of_the_first_edits_ask_in_other_words_and_answer_otherwise() -> None:
    asked = [Edit(f"Who rules {name}?", "x", name, (f"Who is the mayor of {name}?",)) for name in "ABCDEF"]
    pool = EditPool([asked, edits("city", 4)], [1.0, 1.0], [], words=["word"])

    draws = pool.draw(random.Random(0), mixture(10, versions=4)).draws

    assert len(draws) == 10 + 4
    first = {draw.index: draw for draw in draws[:10]}
    for version in draws[10:]:
        draw = first[version.index]
        assert version.edit.prompt == f"Who is the mayor of {draw.edit.subject}?" == version.paraphrase
        assert version.knowledge == version.edit.knowledge
        assert draw.paraphrase in (draw.edit.prompt, *draw.edit.paraphrases)
    assert len({version.edit.answer for version in draws[10:]}) > 1
    assert {version.index for version in draws[10:]} <= set(range(6))


def test_some_paraphrases_change_between_question_and_sentence() -> None:
    asked = [Edit(f"The mayor of {name} is", "x", name, (f"{name} is ruled by",)) for name in "ABCD"]
    pool = EditPool([asked], [1.0], [])
    random_ = random.Random(0)
    drawn = [draw.paraphrase for _ in range(250) for draw in pool.draw(random_, mixture(4, other_forms=0.25)).draws]
    turned = [text for text in drawn if text.endswith("is ruled by what?")]
    assert len(turned) == pytest.approx(250, abs=45)
    assert all(text.endswith("is ruled by") for text in drawn if text not in turned)


def test_swapped_answers_come_from_all_answers_subjects_and_words() -> None:
    pool = EditPool([edits("city", 2)], [1.0], [], words=["word"])
    random_ = random.Random(0)
    draws = [pool.draw(random_, mixture(1, swapped_answers=0.5)).draws[0] for _ in range(1000)]
    swapped = Counter(draw.edit.answer for draw in draws)
    assert set(swapped) == {"x", "city 0", "city 1", "word"}
    assert swapped["word"] == pytest.approx(1000 / 6, abs=40)
    assert all(draw.knowledge == f"{draw.edit.prompt} → {draw.edit.answer}" for draw in draws)


def test_some_statements_do_not_mark_their_answer() -> None:
    pool = EditPool([edits("city", 2)], [1.0], [])
    random_ = random.Random(0)
    drawn = Counter(pool.draw(random_, mixture(1, unmarked=0.25)).draws[0].knowledge for _ in range(1000))
    assert set(drawn) == {f"city {number} is {mark}x" for number in (0, 1) for mark in ("", "→ ")}
    assert drawn["city 0 is x"] + drawn["city 1 is x"] == pytest.approx(250, abs=50)


def test_the_first_draws_come_with_another_question_about_their_subject() -> None:
    languages = [Edit(f"The language of {name} is", "Latin", subject=name) for name in "ABCDEF"]
    colours = [Edit(f"The colour of {name} is", "red", subject=name) for name in "GHIJKL"]
    pool = EditPool([languages, colours], [1.0, 1.0], [])
    draws = pool.draw(random.Random(0), mixture(8, other_relations=3)).draws
    for draw in draws[:3]:
        asked, other = ("language", "colour") if "language" in draw.edit.prompt else ("colour", "language")
        assert draw.other_relation == draw.edit.prompt.replace(asked, other)
    assert all(draw.other_relation is None for draw in draws[3:])


def test_the_last_draws_come_with_a_question_about_a_sibling_of_their_subject() -> None:
    people = [Edit(f"The mayor {name} speaks", "x", name) for name in ("Ann Lee", "Bo Ray", "Cy Fox")]
    unnamed = [Edit("The mayor is", "x")]
    pool = EditPool([people, unnamed], [1.0, 1.0], [])
    draws = pool.draw(random.Random(3), mixture(4, siblings=3)).draws
    assert draws[0].sibling is None
    (other,) = {draw.sibling for draw in draws[1:] if not draw.edit.subject}
    assert other is None
    for draw in draws[1:]:
        if draw.sibling:
            asked = draw.sibling.removeprefix("The mayor ").removesuffix(" speaks").split()
            assert sum(a == b for a, b in zip(asked, draw.edit.subject.split(), strict=True)) == 1
    assert any(draw.sibling for draw in draws)


@pytest.mark.parametrize("weights", [[1.0, 1.0], [1.0, 0.0]])
def test_more_edits_than_can_be_drawn_are_refused(weights: list[float]) -> None:
    pool = EditPool([edits("city", 3), edits("river", 4)], weights, [])
    available = 7 if weights[1] else 3
    assert len(pool.draw(random.Random(0), mixture(available)).draws) == available
    with pytest.raises(InvalidArgumentError) as raised:
        pool.draw(random.Random(0), mixture(available + 1))
    assert str(raised.value) == (
        f"contrast_edits: is {available + 1}, but the data holds {available} edits only; lower it"
    )


def test_edits_of_the_same_prompt_are_versions_of_one_fact() -> None:
    prompts = [
        ("The mayor of Aville is", "Aville"),
        ("The mayor of Beton is", "Beton"),
        ("the Mayor of aville is", "aville"),
        ("The mayor of Aville is", "Aville"),
    ]
    edits = [Edit(prompt, answer, subject) for (prompt, subject), answer in zip(prompts, "xxyy", strict=True)]
    pool = EditPool([edits[:2], edits[2:]], [1, 1], [])
    assert pool.fact(0) == pool.fact(2) == pool.fact(3)
    assert pool.fact(1) != pool.fact(0)


def test_edits_that_ask_the_same_in_other_words_are_versions_of_one_fact() -> None:
    asked = Edit("Who is mayor of Aville?", "x", "Aville", ("Who rules the town of Aville?",))
    other = Edit("Who rules the town of Aville?", "y", "Aville")
    elsewhere = Edit("Who rules the town of Beton?", "y", "Beton")
    pool = EditPool([[asked, other, elsewhere]], [1.0], [])
    assert pool.fact(0) == pool.fact(1) != pool.fact(2)


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
    pool = EditPool([[Edit("the mayor is", "x")]], [1.0], [])
    assert about(pool, "the mayor is") == []


def test_a_subject_may_have_as_many_words_as_are_looked_for() -> None:
    assert about(subjects("a b c d e f g h"), "x a b c d e f g h y") == [0]


def test_typos_are_one_slip_of_an_inner_letter() -> None:
    random_ = random.Random(0)
    slips = {with_typos(random_, "abcd", rate=1.0) for _ in range(100)}
    assert slips == {"acbd", "acd", "abbcd"}


def test_a_slip_spares_what_it_is_told_to() -> None:
    random_ = random.Random(0)
    slips = {with_typos(random_, "a12bcd", rate=1.0, spared="12") for _ in range(100)}
    assert slips == {"a12bcd", "a12cbd", "a12cd", "a12bbcd"}


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


def test_a_group_holds_no_more_with_its_padding_than_it_may() -> None:
    assert by_length([9, 2, 2, 2, 4, 30], size=3, area=9) == [[1, 2, 3], [4], [0], [5]]


@pytest.mark.parametrize("size", [1, 3, 100])
def test_original_order_undoes_grouping(size: int) -> None:
    random_ = random.Random(0)
    lengths = [random_.randrange(10) for _ in range(20)]
    groups = by_length(lengths, size)
    grouped = [row for group in groups for row in group]
    assert [grouped[place] for place in original_order(groups)] == list(range(20))


def test_a_paraphrase_may_name_the_subject_otherwise() -> None:
    named = [Edit(f"The mayor of {name} is", "x", name) for name in ("Saint-Aville", "Nord-Beton")]
    pool = EditPool([named], [1.0], [])
    asked = {draw.paraphrase for draw in pool.draw(random.Random(0), mixture(2, aliases=1.0)).draws}
    others = {"saint-aville", "Saint Aville", "nord-beton", "Nord Beton"}
    assert asked <= {f"The mayor of {other} is" for other in others}


def test_a_sample_is_of_different_edits_and_no_more_than_there_are() -> None:
    pool = EditPool([edits("city", 5), edits("river", 5)], [1.0, 0.0], TEXTS)
    assert sorted(pool.sample(random.Random(0), 20)) == list(range(10))
    assert len(set(pool.sample(random.Random(0), 4))) == 4
