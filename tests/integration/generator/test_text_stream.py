"""The default LLM's texts come in pieces that make up what its tokenizer decodes."""

import random

import pytest

from recipe_generator.text_stream import Detokenizer
from recipe_model.outside_llm import OutsideLlm

TEXTS = [
    "Ann Example is 36.5 years old.",
    " \u00c5ngstr\u00f6m, \u6771\u4eac\u30bf\u30ef\u30fc \U0001f469\u200d\U0001f680!\n\n\tx",
]


@pytest.fixture(scope="module")
def llm() -> OutsideLlm:
    return OutsideLlm.load()


def pieces(llm: OutsideLlm, ids: list[int]) -> list[str]:
    growing = Detokenizer(llm, [])
    return [*(growing.add(token) for token in ids), growing.rest()]


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_and_each_beginning_of_it(llm: OutsideLlm, text: str) -> None:
    ids = llm.token_ids(text)
    assert "".join(pieces(llm, ids)) == text
    for end in range(len(ids)):
        assert "".join(pieces(llm, ids[:end])) == llm.text(ids[:end])


def test_tokens_at_random(llm: OutsideLlm) -> None:
    chosen = random.Random(0)
    for _ in range(500):
        ids = [chosen.randrange(len(llm.tokenizer)) for _ in range(chosen.randrange(40))]
        assert "".join(pieces(llm, ids)) == llm.text(ids)


def test_bytes_at_random(llm: OutsideLlm) -> None:
    chosen = random.Random(0)
    byte_ids = [id_ for token, id_ in llm.backend.get_vocab().items() if len(token) == 1]
    for _ in range(500):
        ids = chosen.choices(byte_ids, k=chosen.randrange(40))
        assert "".join(pieces(llm, ids)) == llm.text(ids)
