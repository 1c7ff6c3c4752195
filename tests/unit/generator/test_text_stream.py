"""Tokens become text as they come, and the same text as all at once."""

import random
from collections.abc import Sequence

import pytest
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from recipe_generator.text_stream import Detokenizer
from recipe_model.llm_tokens import LlmTokens
from tiny_models import make_language_model

LLM = make_language_model()
CHARACTERS = ["a", " ", "\u00e9", "\u20ac", "\U0001f642"]
WORD, SPACED, SPACE, BYTES = range(1, 5)  # ids of the tokenizer that falls back on bytes; those of bytes come last


def tokens_with_byte_fallback() -> LlmTokens:
    """As Llama 2's: spaces are part of tokens, none is in front of a text, and bytes are decoded all together."""
    pieces = ["<s>", "a", "\u2581b", "\u2581", *(f"<0x{byte:02X}>" for byte in range(256))]
    backend = Tokenizer(models.BPE({piece: number for number, piece in enumerate(pieces)}, [], byte_fallback=True))
    backend.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>")  # type: ignore[no-untyped-call]
    return LlmTokens(tokenizer, LLM.identity)


def all_of(llm: LlmTokens, ids: Sequence[int]) -> str:
    """What a text of these tokens is told to be, piece by piece."""
    growing = Detokenizer(llm, [])
    return "".join([*(growing.add(token) for token in ids), growing.rest()])


def written(text: str, *stop: str) -> tuple[list[str], Detokenizer]:
    """The pieces of a text that comes byte by byte, until it is stopped."""
    growing = Detokenizer(LLM, stop)
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
    growing = Detokenizer(LLM, [])
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


def test_special_tokens_have_no_text() -> None:
    assert all_of(LLM, [1, *LLM.token_ids("a"), 2, *LLM.token_ids("b")]) == "ab"


def test_only_a_texts_first_space_is_left_out_where_a_tokenizer_puts_one() -> None:
    growing = Detokenizer(tokens_with_byte_fallback(), [])
    assert [growing.add(token) for token in (SPACED, SPACED, SPACE, SPACED)] == ["b", " b", " ", " b"]


def test_the_pieces_together_are_the_text_of_all_tokens() -> None:
    chosen = random.Random(0)
    for _ in range(300):
        ids = LLM.token_ids("".join(chosen.choices(CHARACTERS, k=12)))[: chosen.randrange(30)]  # perhaps within one
        assert all_of(LLM, ids) == LLM.text(ids)


def test_the_pieces_together_are_the_text_of_all_tokens_where_bytes_are_a_tokenizers_last_resort() -> None:
    llm, chosen = tokens_with_byte_fallback(), random.Random(0)
    tokens = {"a": [WORD], " ": [SPACE], " b": [SPACED]}
    for _ in range(300):
        texts = chosen.choices([*CHARACTERS, " b"], k=chosen.randrange(12))
        ids = [token for text in texts for token in tokens.get(text) or [BYTES + byte for byte in text.encode()]]
        assert all_of(llm, ids) == llm.text(ids)


def test_bytes_that_turn_out_to_be_no_characters_end_no_text() -> None:
    llm = tokens_with_byte_fallback()
    growing = Detokenizer(llm, [])
    pieces = [growing.add(token) for token in (WORD, BYTES + 0xC3, BYTES + 0xA9, BYTES + 0xC3, WORD, SPACED)]
    # All three bytes are decoded as none of a character in the end; what was given out stays as it is.
    assert pieces == ["a", "", "\u00e9", "", "\ufffd\ufffda", " b"]
    assert llm.text([WORD, BYTES + 0xC3, BYTES + 0xA9, BYTES + 0xC3, WORD, SPACED]) == "a\ufffd\ufffd\ufffda b"


def test_a_text_is_decoded_as_a_whole_only_once(monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[int] = []
    text = LlmTokens.text
    monkeypatch.setattr(LlmTokens, "text", lambda llm, ids: decoded.append(len(ids)) or text(llm, ids))  # type: ignore[func-returns-value]
    assert all_of(LLM, LLM.token_ids("abc" * 100)) == "abc" * 100
    assert decoded == [300]
