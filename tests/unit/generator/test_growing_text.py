import pytest

from recipe_generator.growing_text import GrowingText
from tiny_models import make_language_model

LLM = make_language_model()


def written(text: str, *stop: str) -> tuple[list[str], GrowingText]:
    """The pieces of a text that comes byte by byte, until it is stopped."""
    growing = GrowingText(LLM.text, stop)
    pieces = []
    for token in LLM.token_ids(text):
        pieces.append(growing.add(token))
        if growing.stopped:
            break
    return pieces, growing


def test_each_token_gives_its_text() -> None:
    pieces, growing = written("abc")
    assert (pieces, growing.rest(), growing.stopped) == (["a", "b", "c"], "", False)


def test_a_character_of_several_tokens_comes_as_a_whole() -> None:
    pieces, _ = written("a\u00e9\u20acb")
    assert pieces == ["a", "", "\u00e9", "", "", "\u20ac", "b"]


def test_a_character_that_is_never_finished_comes_at_the_end() -> None:
    growing = GrowingText(LLM.text, [])
    assert growing.add(LLM.token_ids("\u20ac")[0]) == ""
    assert growing.rest() == "\ufffd"


def test_a_text_ends_in_front_of_a_stop_sequence() -> None:
    pieces, growing = written("one. two. three", ". t")
    assert ("".join(pieces), growing.rest(), growing.stopped) == ("one", "", True)


def test_no_part_of_a_stop_sequence_is_given_out_before_it_is_clear_that_it_is_none() -> None:
    pieces, growing = written("a\n\nb\n\nc", "\n\nc")
    assert pieces == ["a", "", "", "\n\nb", "", "", ""]
    assert growing.stopped


def test_what_began_like_a_stop_sequence_comes_at_the_end() -> None:
    pieces, growing = written("end.", ".\n")
    assert ("".join(pieces), growing.rest()) == ("end", ".")


@pytest.mark.parametrize("stop", [("cd", "bcde"), ("bcde", "cd")])
def test_the_first_stop_sequence_to_be_written_counts(stop: tuple[str, ...]) -> None:
    pieces, _ = written("abcdef", *stop)
    assert "".join(pieces) == "ab"
