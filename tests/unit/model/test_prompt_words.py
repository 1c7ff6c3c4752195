import pytest
import torch
from torch import Tensor

from recipe_model.prompt_words import PromptWords
from tiny_models import byte_tokenizer

TOKENIZER = byte_tokenizer(marked=False)
TABLE = torch.randn(len(TOKENIZER), 4).to(torch.bfloat16)


def words_of(text: str) -> Tensor:
    """Word embeddings, one byte each."""
    return TABLE[TOKENIZER(text)["input_ids"]].float()


@pytest.mark.parametrize(
    ("text", "prompt_tokens", "spelled"),
    [
        ("The mayor of A is → Ann", 20, " Ann. Ann.f A is Ann"),  # one token a byte: ten of each
        ("The mayor of A is → Ann", 7, " Ann Ann"[:4] + "Ann"),  # no room for all; the answer has the odd place
        ("a → Ann", 15, " Ann. An a Ann "),  # the whole statement again, where it is short
        ("a → b", 6, " b. a b"[:3] + "a b"),  # the mark is not among the words
        ("Snow is white", 9, " is white"),  # without a mark the statement's end alone
        ("Snow is white ≡ the snow, ice", 9, " is white"),  # other names are not among the words
        ("a → b ≡ c", 6, " b. a b"[:3] + "a b"),
        ("So", 9, " So So So"),
        ("x → y", 1, " "),
    ],
)
def test_a_prompt_starts_from_the_answer_and_the_statements_end(text: str, prompt_tokens: int, spelled: str) -> None:
    (words,) = PromptWords(TABLE, TOKENIZER, prompt_tokens)([text])
    assert words.dtype == torch.float32
    assert torch.equal(words, words_of(spelled))


def test_texts_of_different_lengths_have_prompts_of_one_length() -> None:
    words = PromptWords(TABLE, TOKENIZER, 7)(["x → long answer", "y → b", "z"])
    assert words.shape == (3, 7, 4)
