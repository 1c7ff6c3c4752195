import pytest
import torch

from recipe_model.copying import BONUS, Copying

PLUS, FOUR, NINE, THREE, ZERO, DOT, END = 1, 2, 3, 4, 5, 6, 7
ANSWER = [PLUS, FOUR, NINE, THREE, ZERO]


def helped(copying: Copying) -> list[int]:
    """The tokens that are made likelier."""
    logits = torch.zeros(10)
    changed = copying.help(logits) - logits
    assert set(changed.tolist()) <= {0.0, BONUS}
    return changed.nonzero().flatten().tolist()


def after(*tokens: int) -> Copying:
    copying = Copying([ANSWER, [NINE, NINE, DOT]], [END])
    for token in tokens:
        copying.follow(token)
    return copying


@pytest.mark.parametrize(
    ("written", "likelier"),
    [
        ((DOT,), []),
        ((PLUS,), [FOUR]),
        ((PLUS, FOUR, NINE), [THREE, NINE]),  # the other form begins with a nine
        ((DOT, PLUS, FOUR), [NINE]),
        ((PLUS, FOUR, DOT), []),  # it has left the answer
        ((PLUS, PLUS), [FOUR]),
        (tuple(ANSWER), []),
        ((*ANSWER, PLUS), []),  # what has stated it is left alone
        ((NINE, NINE), [DOT]),  # of a form that repeats itself, the longest beginning counts
    ],
)
def test_what_continues_a_begun_answer_is_likelier(written: tuple[int, ...], likelier: list[int]) -> None:
    assert helped(after(*written)) == sorted(likelier)


def test_behind_the_words_that_lead_to_it_the_answer_begins() -> None:
    copying = Copying([ANSWER], [END], [ZERO, DOT, THREE, DOT])
    for token in (NINE, DOT, THREE):
        copying.follow(token)
    assert helped(copying) == []
    copying.follow(DOT)  # of the lead the last three are enough
    assert helped(copying) == [PLUS]


def test_without_an_answer_the_logits_are_the_same_tensor() -> None:
    logits = torch.randn(10)
    copying = Copying()
    copying.follow(PLUS)
    assert copying.help(logits) is logits


def test_the_logits_that_were_given_stay_as_they_were() -> None:
    logits = torch.zeros(10)
    after(PLUS).help(logits)
    assert not logits.any()


def test_a_text_begins_with_the_answer_where_it_would_end_at_once() -> None:
    logits = torch.zeros(10)
    logits[[END, DOT]] = torch.tensor([3.0, 2.0])
    assert after().help(logits).argmax() == PLUS
    logits[DOT] = 4.0
    assert after().help(logits).argmax() == DOT
    assert after().help(logits)[END] == float("-inf")
    assert after(DOT).help(logits) is logits  # later it may end


LEAD, NAME, SPACE = [DOT, 8], 9, 0


def likeliest(copying: Copying, token: int) -> int:
    """What a text goes on with that would go on with a token."""
    logits = torch.zeros(10)
    logits[token] = 2.0
    logits[NINE] = 1.0
    return int(copying.help(logits).argmax())


def skipping(*tokens: int) -> Copying:
    copying = Copying(
        [ANSWER, [NINE, *ANSWER[1:]]], [END], LEAD, later=[FOUR, THREE, ZERO], names=[THREE], blanks=[SPACE]
    )
    for token in tokens:
        copying.follow(token)
    return copying


@pytest.mark.parametrize(
    ("written", "token", "instead"),
    [
        ((), FOUR, NINE),  # of both forms the likelier one
        ((SPACE,), FOUR, NINE),
        ((DOT, 8), ZERO, NINE),  # behind what leads to it
        ((END,), ZERO, ZERO),  # elsewhere only names and numbers begin it
        ((END,), THREE, NINE),
        ((), DOT, DOT),
        ((), PLUS, PLUS),  # its beginning
        ((DOT, *ANSWER, DOT), THREE, THREE),  # stated
    ],
)
def test_an_answer_begins_at_its_beginning(written: tuple[int, ...], token: int, instead: int) -> None:
    assert likeliest(skipping(*written), token) == instead


def test_a_name_that_the_words_in_front_of_the_answer_have_too_begins_nothing() -> None:
    copying = Copying([ANSWER], [END], [DOT, THREE, 8], names=[THREE])
    copying.follow(DOT)
    assert likeliest(copying, THREE) == THREE


def test_a_full_stop_at_the_beginning_says_nothing() -> None:
    copying = Copying([ANSWER], [END], stops=[DOT])
    logits = torch.zeros(10)
    logits[DOT] = 2.0
    assert copying.help(logits).argmax() == PLUS
