import pytest

from recipe_generator.draft import Draft

THE, CAPITAL, OF, IS, OSLO, STOP = 1, 2, 3, 4, 5, 6
STATEMENT = [THE, CAPITAL, OF, THE, OSLO, IS, OSLO, STOP]


def test_nothing_is_expected_of_a_text_that_has_not_begun() -> None:
    assert Draft(STATEMENT).ahead == []


@pytest.mark.parametrize(
    ("token", "ahead"),
    [(IS, [OSLO, STOP]), (OSLO, [STOP]), (THE, [OSLO, IS, OSLO, STOP]), (STOP, []), (99, [])],
)
def test_what_follows_a_tokens_last_place_in_the_statement_is_expected(token: int, ahead: list[int]) -> None:
    draft = Draft(STATEMENT)
    draft.follow(token)
    assert draft.ahead == ahead


def test_a_guess_that_came_true_leaves_the_others() -> None:
    draft = Draft(STATEMENT)
    for token in (IS, OSLO):
        draft.follow(token)
    assert draft.ahead == [STOP]


def test_a_text_that_comes_to_the_statement_later_is_followed_from_there() -> None:
    draft = Draft(STATEMENT)
    for token in (99, IS):
        draft.follow(token)
    assert draft.ahead == [OSLO, STOP]


def test_a_failed_guess_is_the_last() -> None:
    draft = Draft(STATEMENT)
    for token in (IS, 99, IS):
        draft.follow(token)
        last = draft.ahead
    assert last == []


def test_a_statement_that_was_written_to_its_end_may_be_written_again() -> None:
    draft = Draft(STATEMENT)
    for token in (OSLO, STOP, IS):
        draft.follow(token)
    assert draft.ahead == [OSLO, STOP]


def test_without_a_statement_nothing_is_expected() -> None:
    draft = Draft(())
    draft.follow(THE)
    assert draft.ahead == []
