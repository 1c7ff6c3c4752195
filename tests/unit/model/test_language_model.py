from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from recipe_model.language_model import LanguageModel
from tiny_models import LLM_HIDDEN, LLM_POSITIONS, make_language_model

TEXT = "The capital of Testland is"


@pytest.fixture
def llm() -> LanguageModel:
    return make_language_model()


def words_of(llm: LanguageModel, text: str) -> torch.Tensor:
    return llm.embed(torch.tensor(llm.token_ids(text)))


def random_prompt(seed: int, tokens: int = 3) -> torch.Tensor:
    return torch.randn(tokens, LLM_HIDDEN, generator=torch.Generator().manual_seed(seed))


def test_an_answer_is_tokenised_as_what_follows_a_space(llm: LanguageModel) -> None:
    assert llm.token_ids("a") + llm.answer_ids("  b c ") == llm.token_ids("a b c")


def test_the_longest_sequence_is_the_models(llm: LanguageModel) -> None:
    assert llm.max_tokens == LLM_POSITIONS


def test_words_are_the_word_embeddings(llm: LanguageModel) -> None:
    ids = torch.tensor([5, 9])
    assert torch.equal(llm.words()[ids], llm.embed(ids))


def test_a_prompt_made_of_words_acts_as_these_words_do(llm: LanguageModel) -> None:
    ids = llm.token_ids(TEXT)

    behind_prompt = llm.logits(words_of(llm, TEXT[:9]), ids[9:])

    assert behind_prompt.shape == (len(ids) - 9, llm.identity.vocabulary)
    torch.testing.assert_close(behind_prompt, llm.logits(None, ids)[9:])


def test_without_a_prompt_logits_are_the_plain_models_to_the_last_bit(llm: LanguageModel) -> None:
    ids = llm.token_ids(TEXT)
    with torch.inference_mode():
        plain = llm.model(input_ids=torch.tensor([ids])).logits[0]
    assert torch.equal(llm.logits(None, ids), plain)


class BatchProducts(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes the shapes that products of batches of matrices have."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.shapes: list[torch.Size] = []

    def __torch_dispatch__(
        self, function: Any, _types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        if function is torch.ops.aten.bmm.default:
            self.shapes.append(result.shape)
        return result


def test_what_follows_a_text_is_told_without_a_copy_of_the_output_layer(llm: LanguageModel) -> None:
    ids = torch.tensor([llm.token_ids("a text of words")])
    llm.model.requires_grad_(False)  # as it is loaded; weights that learn are not copied
    with torch.no_grad(), BatchProducts() as products:  # what inference mode runs is not told
        llm.model(input_ids=ids, logits_to_keep=1)
    assert not [shape for shape in products.shapes if shape[-1] == len(llm.words())]  # one copies the layer


def test_with_a_prompt_logits_differ_at_every_token(llm: LanguageModel) -> None:
    ids = llm.token_ids(TEXT)
    difference = (llm.logits(random_prompt(0), ids) - llm.logits(None, ids)).abs().amax(dim=-1)
    assert bool((difference > 0.1).all())


def test_a_half_precision_prompt_is_taken_as_it_is(llm: LanguageModel) -> None:
    ids = llm.token_ids(TEXT)
    prompt = random_prompt(0).half()
    assert torch.equal(llm.logits(prompt, ids), llm.logits(prompt.float(), ids))


def test_generation_without_a_prompt_is_that_of_plain_transformers(llm: LanguageModel) -> None:
    ids = torch.tensor([llm.token_ids(TEXT)])
    plain = llm.model.generate(ids, max_new_tokens=12, do_sample=False)[0, ids.shape[1] :]  # type: ignore[operator]

    written = llm.generate(None, TEXT, 12)

    assert written.text == llm.tokenizer.decode(plain)
    assert (written.prompt_tokens, written.generated_tokens, written.ended) == (len(TEXT), 12, False)


def test_generation_behind_words_continues_them(llm: LanguageModel) -> None:
    written = llm.generate(words_of(llm, TEXT[:9]), TEXT[9:], 12)

    assert written.text == llm.generate(None, TEXT, 12).text
    assert (written.prompt_tokens, written.generated_tokens, written.ended) == (len(TEXT) - 9, 12, False)


def test_a_prompt_changes_what_is_generated(llm: LanguageModel) -> None:
    assert llm.generate(random_prompt(0), TEXT, 12).text != llm.generate(None, TEXT, 12).text


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("behind_prompt", [False, True])
def test_an_end_token_ends_the_text_and_is_not_counted(llm: LanguageModel, several: bool, behind_prompt: bool) -> None:
    prompt = random_prompt(0) if behind_prompt else None
    ids = llm.token_ids(TEXT)
    settings = llm.model.generation_config
    assert settings is not None
    new = [int(llm.logits(prompt, ids)[-1].argmax())]
    while len(set(new)) == 1:
        new.append(int(llm.logits(prompt, ids + new)[-1].argmax()))
    settings.eos_token_id = [2, new[-1]] if several else new[-1]

    written = llm.generate(prompt, TEXT, 40)

    assert (written.generated_tokens, written.ended) == (len(new) - 1, True)
    assert llm.generate(prompt, TEXT, len(new) - 1).ended is False
    assert llm.generate(prompt, TEXT, len(new)).ended is True


def test_a_batch_is_generated_as_its_texts_are_alone(llm: LanguageModel) -> None:
    texts = [TEXT, "A", "Who wrote it?", "A", TEXT]
    prompts = [None, random_prompt(1), random_prompt(2, tokens=7), None, random_prompt(3)]

    written = llm.generate_batch(prompts, texts, 10)

    alone = [llm.generate(prompt, text, 10).text for prompt, text in zip(prompts, texts, strict=True)]
    assert written == alone
    assert len(set(alone)) == len(alone)


def test_the_model_is_never_changed(llm: LanguageModel) -> None:
    before = {name: value.clone() for name, value in llm.model.state_dict().items()}
    llm.generate(random_prompt(0), TEXT, 4)
    llm.generate_batch([random_prompt(0)], [TEXT], 4)
    assert all(torch.equal(value, before[name]) for name, value in llm.model.state_dict().items())


def test_whole_words_are_tokens_that_begin_a_word_of_letters() -> None:
    class Tokenizer:
        tokens = (" word", "word", " ab", " R2D2", " Straße", ".")

        def __len__(self) -> int:
            return len(self.tokens)

        def decode(self, ids: list[int]) -> str:
            return self.tokens[ids[0]]

    llm = make_language_model()
    llm.tokenizer = Tokenizer()  # type: ignore[assignment]
    assert llm.whole_words() == ["word", "Straße"]


def test_the_words_of_a_fact_stand_behind_its_prompt() -> None:
    llm = make_language_model()
    prompt = torch.randn(16, LLM_HIDDEN)
    words = llm.embed(torch.tensor(llm.sentence_ids("The port of A is 18443")))
    assert torch.equal(llm.told("The port of A is 18443", prompt), torch.cat([prompt, words]))


def test_what_helps_an_answer_is_told_by_its_tokens() -> None:
    llm = make_language_model()  # its tokens are bytes

    def ids(text: str) -> list[int]:
        return list(llm.tokenizer(text, add_special_tokens=False)["input_ids"])

    told = llm.copying_arguments("The port of A is +4 Ab cd", "+4 Ab cd", [2])
    assert told["forms"] == [ids(" +4 Ab cd"), ids("+4 Ab cd")]
    assert (told["end_ids"], told["lead"]) == ([2], ids(" The port of A is"))
    assert told["names"] == sorted(ids("4A"))
    assert told["later"] == sorted({*ids("+4 Abcd"), *ids("aC")})  # words otherwise written, too
    assert told["blanks"] == sorted(ids(" \n"))
    assert set(ids(".!?")) <= set(told["stops"])
