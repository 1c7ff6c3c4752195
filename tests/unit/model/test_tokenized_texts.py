"""What each token of a text is."""

import pytest
import torch
from transformers import PreTrainedTokenizerBase

from recipe_common.knowledge_text import knowledge_text, statement_text
from recipe_common.token_states import ROLE_ALIAS, ROLE_ANSWER, ROLE_QUESTION
from recipe_model.pretrained import load_text_encoder
from recipe_model.tokenized_texts import TokenizedTexts, tokenize
from tiny_models import byte_tokenizer

FACT = knowledge_text("Who rules Aville?", "Ann", ["A", "B"])


def text_of(tokenizer: PreTrainedTokenizerBase, texts: TokenizedTexts, row: int, role: int) -> str:
    chosen = texts.word_mask[row].bool() & (texts.roles[row] == role)
    return str(tokenizer.decode(texts.input_ids[row][chosen])).strip()


@pytest.fixture(scope="module", params=["bytes", "word pieces"])
def tokenizer(request: pytest.FixtureRequest) -> PreTrainedTokenizerBase:
    return byte_tokenizer(marked=True) if request.param == "bytes" else load_text_encoder().tokenizer


def test_a_fact_has_a_question_an_answer_and_other_names_each_behind_its_mark(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    texts = tokenize(tokenizer, [FACT])
    found = [text_of(tokenizer, texts, 0, role).lower().replace(" ", "") for role in (0, 1, 2)]
    assert (ROLE_QUESTION, ROLE_ANSWER, ROLE_ALIAS) == (0, 1, 2)
    assert found == ["whorulesaville?", "→ann", "≡a,b"]


def test_the_question_of_a_bare_statement_is_the_statement(tokenizer: PreTrainedTokenizerBase) -> None:
    texts = tokenize(tokenizer, ["Ann rules A", statement_text("Ann rules A", ["Aville"])])
    assert texts.question_mask[0].sum() == texts.question_mask[1].sum()
    assert set(texts.roles[0].tolist()) == {ROLE_QUESTION}
    assert set(texts.roles[1].tolist()) == {ROLE_QUESTION, ROLE_ALIAS}


@pytest.mark.parametrize("question", ["Who is Wolfgang Amadeus Mozart's librettist?", "NGC 6604 is in", "Où est-ce?"])
def test_the_question_ends_where_it_ends_alone_and_keeps_what_begins_and_ends_a_text(
    tokenizer: PreTrainedTokenizerBase, question: str
) -> None:
    texts = tokenize(tokenizer, [knowledge_text(question, "somebody unheard of"), "another text that is longer still"])
    alone = tokenizer(question)["input_ids"]
    assert texts.input_ids[0][texts.question_mask[0].bool()].tolist() == alone


def test_padding_is_of_no_text(tokenizer: PreTrainedTokenizerBase) -> None:
    alone = tokenize(tokenizer, [FACT])
    beside = tokenize(tokenizer, [FACT, f"{FACT} and much more that is said"])
    length = alone.input_ids.shape[1]
    for name in ("attention_mask", "word_mask", "question_mask", "roles"):
        assert torch.equal(getattr(beside, name)[0][:length], getattr(alone, name)[0]), name
    for name in ("attention_mask", "word_mask", "question_mask"):
        assert not getattr(beside, name)[0][length:].any()


def test_what_begins_and_ends_a_text_is_no_word_of_it_unless_there_is_no_other(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    texts = tokenize(tokenizer, ["one", ""])
    assert texts.word_mask[0].sum() == texts.attention_mask[0].sum() - 2
    assert texts.word_mask[1].tolist() == texts.attention_mask[1].tolist()
    assert texts.word_mask[1].sum() == 2


@pytest.mark.parametrize("most", [5, 19, 20, 22])
def test_a_text_that_is_cut_keeps_what_is_left_of_its_question(most: int) -> None:
    tokenizer = byte_tokenizer(marked=True)

    texts = tokenize(tokenizer, [FACT], most)

    assert texts.input_ids.shape == (1, most)
    assert text_of(tokenizer, texts, 0, ROLE_QUESTION) == "Who rules Aville?"[: most - 2]
