"""What the networks make of questions and facts, ready to be stored, searched and compared."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import XLMRobertaConfig, XLMRobertaModel
from transformers.modeling_outputs import BaseModelOutput

from recipe_common.errors import FieldViolation, InvalidArgumentError
from recipe_common.knowledge_text import knowledge_text, statement_text
from recipe_common.token_states import ROLE_ALIAS, ROLE_ANSWER, ROLE_QUESTION, TokenStates
from recipe_model.checkpoint import save_checkpoint
from recipe_model.decision import Decider
from recipe_model.editor import QueryEncoder, RecipeEditor
from recipe_model.errors import CheckpointError, ModelUnavailableError
from recipe_model.identity import identify
from recipe_model.networks import RecipeModel, question_means
from recipe_model.number_signature import NUMBERS, WEIGHT
from recipe_model.onnx_encoder import OnnxEncoder
from recipe_model.onnx_graphs import OnnxGraph
from recipe_model.pretrained import load_text_encoder
from recipe_model.tokenized_texts import tokenize
from recipe_model.verifier import Verifier
from tiny_models import (
    ENCODER_HIDDEN,
    LLM_HIDDEN,
    SIZES,
    VOCABULARY,
    SameWords,
    TinyFiles,
    byte_tokenizer,
    checkpoint_config,
    make_editor,
    make_prompt_words,
    make_recipe_model,
    save_encoder,
    save_llm,
    save_tiny_checkpoint,
    save_tiny_models,
)

QUESTION = "What is the capital of Testland?"
FACT = knowledge_text("The capital of Testland is", "Example City", ["T-land", "Testia"])
STATEMENTS = [FACT, "Ada writes", knowledge_text("The river of Testland is the", "Sample")]
MAX_TOKENS = 128


@pytest.fixture
def model() -> RecipeModel:
    return make_recipe_model().requires_grad_(False)


@pytest.fixture
def editor(model: RecipeModel) -> RecipeEditor:
    return RecipeEditor(model, byte_tokenizer(marked=True), MAX_TOKENS, "recipe-test", make_prompt_words())


@pytest.fixture
def files(tmp_path: Path) -> TinyFiles:
    return save_tiny_models(tmp_path)


def written(tokens: TokenStates, role: int) -> str:
    return str(byte_tokenizer(marked=True).decode(tokens.ids[tokens.roles == role])).strip()


def test_an_editor_says_what_it_makes(editor: RecipeEditor) -> None:
    (fact,), (query,) = editor.encode([FACT]), editor.query([QUESTION])
    assert (editor.model_version, editor.vector_size) == ("recipe-test", ENCODER_HIDDEN + NUMBERS)
    assert editor.prompt_width == LLM_HIDDEN
    assert fact.vector.shape == query.vector.shape == (editor.vector_size,)
    assert fact.vector.dtype == query.vector.dtype == np.float32
    assert fact.prompt.dtype == np.float16
    assert fact.prompt.shape == (SIZES.prompt_tokens, LLM_HIDDEN)
    for tokens in (fact.tokens, query.tokens):
        assert [each.dtype for each in (tokens.ids, tokens.roles, tokens.states)] == ["int32", "uint8", "float16"]
        assert tokens.states.shape == (len(tokens.ids), ENCODER_HIDDEN)
        assert tokens.roles.shape == tokens.ids.shape


@pytest.mark.parametrize("text", ["no number", "store 6890"])
def test_vectors_are_of_length_1(editor: RecipeEditor, text: str) -> None:
    vectors = [editor.query([text])[0].vector, editor.encode([knowledge_text(text, "9")])[0].vector]
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1.0, abs=1e-6)


def test_a_vector_is_the_mean_state_of_its_question(editor: RecipeEditor, model: RecipeModel) -> None:
    (query,) = editor.query([QUESTION])
    texts = tokenize(byte_tokenizer(marked=True), [QUESTION])
    expected = question_means(model.states(texts), texts.attention_mask)[0]
    np.testing.assert_allclose(query.vector[:ENCODER_HIDDEN], expected.numpy(), atol=1e-6)
    assert not query.vector[ENCODER_HIDDEN:].any()


def test_numbers_have_a_part_of_the_vector(editor: RecipeEditor) -> None:
    (query,) = editor.query(["Who runs store 6890?"])
    share = float(np.linalg.norm(query.vector[ENCODER_HIDDEN:]))
    assert share == pytest.approx(WEIGHT / (1 + WEIGHT**2) ** 0.5, abs=1e-6)


def test_a_facts_vector_depends_on_neither_answer_nor_aliases(editor: RecipeEditor) -> None:
    prompt = "The capital of Testland is"
    (asked,) = editor.query([prompt])
    texts = [knowledge_text(prompt, "A"), knowledge_text(prompt, "B 2", ["C 3"]), statement_text(prompt, ["D"])]
    for fact in [editor.encode([text])[0] for text in texts] + editor.encode(texts):
        np.testing.assert_allclose(fact.vector, asked.vector, atol=1e-6)


def test_a_facts_tokens_are_all_of_its_text_with_their_roles(editor: RecipeEditor) -> None:
    (fact,) = editor.encode([FACT])
    assert written(fact.tokens, ROLE_QUESTION) == "The capital of Testland is"
    assert written(fact.tokens, ROLE_ANSWER) == "→ Example City"
    assert written(fact.tokens, ROLE_ALIAS) == "≡ T-land, Testia"
    assert fact.tokens.ids.tolist() == byte_tokenizer(marked=True)(FACT)["input_ids"][1:-1]


def test_token_states_are_the_encoders(editor: RecipeEditor, model: RecipeModel) -> None:
    states = model.states(tokenize(byte_tokenizer(marked=True), [FACT]))[0, 1:-1]
    np.testing.assert_allclose(editor.encode([FACT])[0].tokens.states, states.numpy(), atol=2e-3)
    np.testing.assert_allclose(editor.query([FACT[:9]])[0].tokens.states.shape, (9, ENCODER_HIDDEN))


def test_prompts_are_the_networks(editor: RecipeEditor, model: RecipeModel) -> None:
    texts = tokenize(byte_tokenizer(marked=True), [FACT])
    key = model.keys(model.states(texts), texts.question_mask)
    expected = model.prompts(key, make_prompt_words()([FACT]))[0].half().numpy()
    np.testing.assert_array_equal(editor.encode([FACT])[0].prompt, expected)


def test_a_batch_is_encoded_as_its_statements_are_alone(editor: RecipeEditor) -> None:
    for fact, text in zip(editor.encode(STATEMENTS), STATEMENTS, strict=True):
        (alone,) = editor.encode([text])
        np.testing.assert_allclose(fact.vector, alone.vector, atol=1e-5)
        np.testing.assert_array_equal(fact.tokens.ids, alone.tokens.ids)
        np.testing.assert_array_equal(fact.tokens.roles, alone.tokens.roles)
        np.testing.assert_allclose(fact.tokens.states, alone.tokens.states, atol=5e-3)
        np.testing.assert_allclose(fact.prompt, alone.prompt, rtol=1e-2, atol=1e-2)


def test_a_batch_of_queries_is_encoded_as_they_are_alone(editor: RecipeEditor) -> None:
    for query, text in zip(editor.query(STATEMENTS), STATEMENTS, strict=True):
        (alone,) = editor.query([text])
        np.testing.assert_allclose(query.vector, alone.vector, atol=1e-5)
        np.testing.assert_array_equal(query.tokens.ids, alone.tokens.ids)
        np.testing.assert_allclose(query.tokens.states, alone.tokens.states, atol=5e-3)


def test_a_text_without_words_can_be_asked(editor: RecipeEditor) -> None:
    (fact,), (query,) = editor.encode([FACT]), editor.query([""])
    assert np.isfinite(editor.decider.verifier.margins(query.tokens, [fact.tokens])).all()


def test_a_text_may_be_as_long_as_the_encoder_reads(editor: RecipeEditor) -> None:
    longest = "x" * (MAX_TOKENS - 2)  # beside the start and end tokens
    assert len(editor.query([longest])[0].tokens.ids) == MAX_TOKENS - 2
    assert len(editor.encode([longest])[0].tokens.ids) == MAX_TOKENS - 2
    assert editor.reads(longest)
    assert not editor.reads(f"{longest}x")


def test_a_text_that_is_too_long_is_refused_instead_of_cut(editor: RecipeEditor) -> None:
    too_long = ["short", "x" * (MAX_TOKENS - 1)]
    with pytest.raises(InvalidArgumentError) as of_statement:
        editor.encode(too_long)
    description = "is 129 tokens long, at most 128 can be encoded; shorten it"
    assert of_statement.value.violations == (FieldViolation("statement", description),)


def test_of_a_question_that_is_too_long_the_last_sentences_are_read(editor: RecipeEditor) -> None:
    start, end = "It rained. " * 30, "Then it stopped. Who rules A?"
    (cut,) = editor.query([start + end])
    assert len(cut.text) <= MAX_TOKENS - 2  # one token a byte, beside those that begin and end a text
    assert (start + end).endswith(cut.text) and cut.text.startswith("It rained.")
    (alone,) = editor.query([cut.text])
    np.testing.assert_allclose(cut.vector, alone.vector, atol=1e-5)
    (short,) = editor.query(["Who rules A?"])
    assert short.text == "Who rules A?"


@pytest.mark.parametrize(("unbroken", "kept"), [("x" * 300, "x" * 126), ("x" * 200 + " " + "y" * 100, "y" * 100)])
def test_of_a_sentence_that_is_too_long_the_last_words_are_read(editor: RecipeEditor, unbroken: str, kept: str) -> None:
    (cut,) = editor.query([unbroken])
    assert cut.text == kept


def test_marks_in_a_question_mark_nothing(editor: RecipeEditor) -> None:
    arrow, written_out, start = editor.query(["Who → rules ≡ A?", "Who -> rules = A?", "Who"])

    np.testing.assert_array_equal(arrow.vector, written_out.vector)
    assert not arrow.tokens.roles.any()
    assert not np.array_equal(arrow.vector, start.vector)


def test_the_share_of_words_that_the_encoder_does_not_know(editor: RecipeEditor) -> None:
    english = QueryEncoder(make_recipe_model(), load_text_encoder().tokenizer, MAX_TOKENS, "recipe-test")
    assert english.unknown_share("The mayor of Paris is Anne Hidalgo") == 0.0
    assert english.unknown_share("ሰላም ለዓለም") == 1.0
    assert english.unknown_share("Paris ሰላም") == 0.5
    assert english.unknown_share("") == 0.0
    assert editor.unknown_share("ሰላም ለዓለም") == 0.0  # a tokenizer of bytes knows all


@dataclass(frozen=True)
class Found:
    """A candidate."""

    tokens: TokenStates
    similarity: float = 1.0


def test_the_decider_is_the_checkpoints(model: RecipeModel) -> None:
    given = {"confidence_scale": 2.5, "confidence_offset": -0.1, "min_confidence": 0.7, "min_similarity": 0.4}
    for name, value in given.items():
        model.get_buffer(name).fill_(value)
    editor = RecipeEditor(model, byte_tokenizer(marked=True), MAX_TOKENS, "recipe-test", make_prompt_words())

    decider, (fact,), (query,) = editor.decider, editor.encode([FACT]), editor.query([QUESTION])
    assert (decider.scale, decider.offset) == (2.5, -0.1)
    assert (decider.min_confidence, decider.min_similarity) == (0.7, 0.4)
    (judged,) = decider.judge(query, [Found(fact.tokens)])
    (margin,) = Verifier(model.verifier).margins(query.tokens, [fact.tokens])
    assert judged.margin == pytest.approx(float(margin))


def test_a_fact_asked_word_for_word_is_hit_by_the_stand_in_of_other_tests() -> None:
    editor = make_editor(decider=Decider(SameWords()))
    facts = [Found(each.tokens) for each in editor.encode(STATEMENTS)]
    for question, expected in (("The capital of Testland is", facts[0]), ("Ada writes", facts[1])):
        (query,) = editor.query([question])
        hit = editor.decider.hit(editor.decider.judge(query, facts))
        assert hit is not None
        assert hit.candidate is expected
    (query,) = editor.query(["Who rules Testland?"])
    assert editor.decider.hit(editor.decider.judge(query, facts)) is None


def test_threads_may_share_an_editor(editor: RecipeEditor) -> None:
    texts = [f"{statement} {number}" for number in range(8) for statement in STATEMENTS]
    expected = [editor.query([text])[0].vector for text in texts]

    with ThreadPoolExecutor(4) as executor:
        found = list(executor.map(lambda text: editor.query([text])[0].vector, texts))

    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_an_editor_is_loaded_from_a_checkpoint_and_its_encoder(files: TinyFiles) -> None:
    editor = RecipeEditor.load(files.checkpoint, files.encoder, files.llm)

    in_memory = make_editor()
    assert editor.model_version == save_tiny_checkpoint(files.checkpoint)
    assert isinstance(editor._model.encoder, OnnxEncoder)
    assert isinstance(editor.decider.verifier, Verifier)
    assert isinstance(editor.decider.verifier._margins, OnnxGraph)
    for loaded, built in zip(editor.encode(STATEMENTS), in_memory.encode(STATEMENTS), strict=True):
        assert loaded.vector @ built.vector > 0.998  # by another runtime, with rounded weights
        np.testing.assert_allclose(loaded.tokens.states, built.tokens.states, atol=0.3)
        # The checkpoint holds half precision.
        np.testing.assert_allclose(loaded.prompt, built.prompt, atol=6e-2)


def test_queries_need_no_llm(files: TinyFiles) -> None:
    queries = QueryEncoder.load(files.checkpoint, files.encoder)
    editor = RecipeEditor.load(files.checkpoint, files.encoder, files.llm)
    (alone,), (beside_facts,) = queries.query([QUESTION]), editor.query([QUESTION])
    np.testing.assert_array_equal(alone.vector, beside_facts.vector)
    np.testing.assert_array_equal(alone.tokens.states, beside_facts.tokens.states)
    facts = [Found(each.tokens) for each in editor.encode(STATEMENTS)]
    assert [each.margin for each in queries.decider.judge(alone, facts)] == [
        each.margin for each in editor.decider.judge(beside_facts, facts)
    ]


def test_an_editor_is_not_loaded_with_the_words_of_another_llm(files: TinyFiles, tmp_path: Path) -> None:
    llm = save_llm(tmp_path / "another", seed=1)
    with pytest.raises(CheckpointError, match="for the LLM tiny-llm; the word embeddings that were read"):
        RecipeEditor.load(files.checkpoint, files.encoder, llm)


def test_an_editor_is_not_loaded_with_another_encoder(files: TinyFiles, tmp_path: Path) -> None:
    folder = save_encoder(tmp_path / "another", seed=1)
    with pytest.raises(CheckpointError, match="was trained for the text encoder tiny-encoder, not for"):
        RecipeEditor.load(files.checkpoint, folder)


def test_a_checkpoint_for_a_multilingual_encoder_is_loaded_as_any_other(files: TinyFiles, tmp_path: Path) -> None:
    config = XLMRobertaConfig(
        vocab_size=VOCABULARY,
        hidden_size=ENCODER_HIDDEN,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=514,
        pad_token_id=0,
    )
    encoder = XLMRobertaModel(config, add_pooling_layer=False).eval()  # type: ignore[no-untyped-call]
    folder, checkpoint = tmp_path / "multilingual", tmp_path / "multilingual.safetensors"
    encoder.save_pretrained(folder)
    byte_tokenizer(marked=True).save_pretrained(folder)
    trained_for = replace(checkpoint_config(), encoder=identify("multilingual", encoder))
    save_checkpoint(checkpoint, RecipeModel(encoder, SIZES).eval(), trained_for)

    editor = RecipeEditor.load(checkpoint, str(folder), files.llm)

    (fact,) = editor.encode([knowledge_text("Ποιος κυβερνά την Ελλάδα;", "η 総理大臣", ["Ελλάς"])])
    (query,) = editor.query(["Ποιος κυβερνά την Ελλάδα;"])
    assert editor.unknown_share("Ποιος κυβερνά την Ελλάδα;") == 0.0
    np.testing.assert_allclose(fact.vector, query.vector, atol=1e-5)
    assert written(fact.tokens, ROLE_ANSWER) == "→ η 総理大臣"
    assert len(editor.decider.judge(query, [Found(fact.tokens)])) == 1


class WordsAlone(torch.nn.Module):
    """A text encoder of no layers: transformers' look at numbers of the mask, which tensors of shape alone have not."""

    def __init__(self, words: torch.nn.Module) -> None:
        super().__init__()
        self.words = words

    def forward(self, attention_mask: torch.Tensor, input_ids: torch.Tensor) -> BaseModelOutput:
        hidden = self.words(input_ids) * attention_mask.unsqueeze(-1)
        return BaseModelOutput(last_hidden_state=hidden)


def test_on_another_device_everything_is_computed_there(model: RecipeModel, editor: RecipeEditor) -> None:
    # Tensors of shape alone stand for those of a GPU: an operation on one of them and one of the CPU raises.
    model.encoder = WordsAlone(model.encoder.get_input_embeddings())  # type: ignore[assignment]
    editor._device = model.to("meta").min_similarity.device

    tokens = editor._tokens(STATEMENTS, "statement")
    hidden = editor._states(tokens)
    results = [hidden, editor._means(tokens, hidden), editor._prompts(STATEMENTS, tokens, hidden)]

    assert {result.device.type for result in results} == {"meta"}
    assert [result.shape[0] for result in results] == [len(STATEMENTS)] * 3


@pytest.mark.parametrize("loader", [QueryEncoder, RecipeEditor])
@pytest.mark.parametrize("device", ["cuda:99", "gpu"])
def test_a_device_that_is_not_there_is_named(loader: type[QueryEncoder], device: str) -> None:
    with pytest.raises(ModelUnavailableError, match=f"device: '{device}' cannot be used .*; choose cpu"):
        loader.load(device=device)
