import pytest
import torch
from transformers import PreTrainedTokenizerBase

from recipe_common.knowledge_text import knowledge_text
from recipe_model.pretrained import load_text_encoder
from recipe_model.tokenized_texts import TokenizedTexts, tokenize
from tiny_models import byte_tokenizer, make_recipe_model

FACT = knowledge_text("Who rules Aville?", "Ann")


def compared(tokenizer: PreTrainedTokenizerBase, texts: TokenizedTexts, row: int) -> str:
    return str(tokenizer.decode(texts.input_ids[row][texts.question_mask[row].bool()], skip_special_tokens=True))


def test_a_fact_is_compared_by_its_question_and_other_texts_whole() -> None:
    tokenizer = byte_tokenizer(marked=True)

    texts = tokenize(tokenizer, [FACT, "Ann rules Aville, as all people know by now"])

    assert compared(tokenizer, texts, 0) == "Who rules Aville?"
    assert texts.questions == ["Who rules Aville?", "Ann rules Aville, as all people know by now"]
    assert texts.question_mask[1].tolist() == texts.attention_mask[1].tolist()


def test_the_tokens_that_begin_and_end_a_text_belong_to_its_question() -> None:
    tokenizer = byte_tokenizer(marked=True)

    texts = tokenize(tokenizer, [FACT])

    alone = tokenizer("Who rules Aville?")["input_ids"]
    assert texts.input_ids[0][texts.question_mask[0].bool()].tolist() == alone


def test_the_default_encoders_word_pieces_end_where_the_question_ends() -> None:
    tokenizer = load_text_encoder().tokenizer
    questions = ["Who is Wolfgang Amadeus Mozart's librettist?", "NGC 6604 is in"]

    texts = tokenize(tokenizer, [knowledge_text(question, "somebody unheard of") for question in questions])

    for row, question in enumerate(questions):
        assert texts.input_ids[row][texts.question_mask[row].bool()].tolist() == tokenizer(question)["input_ids"]


@pytest.mark.parametrize("most", [5, 19, 20, 22])
def test_a_text_that_is_cut_keeps_what_is_left_of_its_question(most: int) -> None:
    tokenizer = byte_tokenizer(marked=True)

    texts = tokenize(tokenizer, [FACT], most)

    assert texts.input_ids.shape == (1, most)
    assert compared(tokenizer, texts, 0) == "Who rules Aville?"[: most - 2]


def test_an_answer_moves_a_key_only_by_what_the_encoder_makes_of_it() -> None:
    model = make_recipe_model()
    assert model.spelling is not None
    tokenizer = byte_tokenizer(marked=True)

    features = model.features(tokenize(tokenizer, [FACT, knowledge_text("Who rules Aville?", "Bob")]))

    spelled = features[:, -model.spelling.size :]
    assert torch.equal(spelled[0], spelled[1])
    assert not torch.equal(features[0], features[1])
