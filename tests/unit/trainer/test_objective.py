"""The losses themselves are tested on tensors in test_losses; here is what goes into them."""

import math
import random
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from recipe_model.tokenized_texts import tokenize
from recipe_trainer import objective
from recipe_trainer.batches import Batch, Draw, EditPool
from recipe_trainer.datasets import Edit, Question
from recipe_trainer.key_queue import KeyQueue
from recipe_trainer.losses import ContrastBatch, neighbour_loss
from recipe_trainer.objective import Objective
from recipe_trainer.options import TrainOptions
from tiny_models import SIZES, byte_tokenizer, make_language_model, make_prompt_words, make_recipe_model

EDITS = [
    Edit("The mayor of Aville is", "Ann", subject="Aville"),
    Edit("the mayor of Aville is", "Bob", subject="Aville"),  # another version of the same fact
    Edit("The mayor of Beton is", "Cem", subject="Beton"),
    Edit("The river of Beton is", "Dee", subject="Beton"),
    Edit("The mayor of Cford is", "Eve", subject="Cford"),
]
OPTIONS = TrainOptions(llm_edits=2, smallest_pool=100, typo_rate=0.0, prompt_tokens=SIZES.prompt_tokens)
LOSSES = ["neighbour", "sentinel", "reliability", "generality", "locality"]


def draw(
    index: int, unrelated: Question | None = None, other_relation: str | None = None, sibling: str | None = None
) -> Draw:
    edit = EDITS[index]
    return Draw(index, edit, edit.statement, f"Who rules {edit.subject}?", unrelated, other_relation, sibling)


class Setup:
    """An objective over EDITS that remembers what its contrastive losses compared."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, queued: Sequence[int] = (), **options: float) -> None:
        self.model = make_recipe_model()
        self.llm = make_language_model()
        self.queue = KeyQueue(16, SIZES.representation)
        for index in queued:
            self.queue.push(torch.full((1, SIZES.representation), float(index)), torch.tensor([index]))
        self.options = TrainOptions(**(OPTIONS.model_dump() | options))
        self.pool = EditPool([EDITS], [1.0], [])
        self.compared: list[ContrastBatch] = []

        def neighbour_loss_remembering(batch: ContrastBatch) -> Tensor:
            self.compared.append(batch)
            return neighbour_loss(batch)

        monkeypatch.setattr(objective, "neighbour_loss", neighbour_loss_remembering)

    @property
    def tested(self) -> Objective:
        return Objective(
            self.model,
            byte_tokenizer(marked=True),
            self.llm,
            prompt_words=make_prompt_words(),
            pool=self.pool,
            queue=self.queue,
            max_tokens=128,
            options=self.options,
        )

    def features(self, text: str) -> Tensor:
        return self.model.features(tokenize(byte_tokenizer(marked=True), [text]))

    def losses(self, batch: Batch, *, with_llm: bool = True) -> dict[str, Tensor]:
        return self.tested.losses(batch, random.Random(0), with_llm=with_llm)

    def blocked(self, batch: Batch) -> list[list[int]]:
        """Per row of the contrast the columns that are left out; column 0 is the sentinel."""
        self.losses(batch)
        return [row.nonzero().flatten().tolist() for row in self.compared[-1].blocked]


def test_every_query_in_scope_has_its_own_key_and_every_other_the_sentinel(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    setup = Setup(monkeypatch)
    batch = Batch([draw(0, Question("Where is Delta?", "far")), draw(4)], [("Who is it?", -1)])

    setup.losses(batch)

    (compared,) = setup.compared
    assert compared.own.tolist() == [1, 2, 1, 2, 0, 0]
    assert compared.scores.shape == (6, 3)


def test_scores_compare_the_queries_with_the_sentinel_the_statements_and_the_queue(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    setup = Setup(monkeypatch, queued=[3])
    setup.losses(Batch([draw(0, Question("Where is Delta?", "far"))], [("Who is it?", -1)]))

    texts = ["The mayor of Aville is", "Who rules Aville?", "Where is Delta?", "Who is it?"]
    queries = torch.cat([setup.model.queries(setup.features(text)) for text in texts])
    key = setup.model.keys(setup.features("The mayor of Aville is Ann"))
    columns = torch.cat([setup.model.sentinel()[None], key, torch.full((1, SIZES.representation), 3.0)])
    expected = queries @ columns.T / math.sqrt(SIZES.representation)
    torch.testing.assert_close(setup.compared[0].scores, expected)


def test_another_version_of_the_same_fact_is_no_negative(monkeypatch: pytest.MonkeyPatch) -> None:
    # Columns: sentinel, edit 0, its other version, edit 4.
    batch = Batch([draw(0), draw(1), draw(4)], [])
    assert Setup(monkeypatch).blocked(batch) == [[2], [1], [], [2], [1], []]


@pytest.mark.parametrize("queued", [0, 1])
def test_an_older_key_of_the_same_fact_is_no_negative(monkeypatch: pytest.MonkeyPatch, queued: int) -> None:
    batch = Batch([draw(0), draw(2)], [])
    assert Setup(monkeypatch, queued=[queued]).blocked(batch) == [[3], [], [3], []]


def test_another_fact_of_the_same_subject_is_a_negative(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Setup(monkeypatch, queued=[3]).blocked(Batch([draw(2)], [])) == [[], []]


def test_a_neighbour_that_names_another_stored_subject_is_not_pushed_away_from_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Columns: sentinel, edits 0 and 2 of the batch, edit 3 of the queue. The neighbour is edit 0's.
    batch = Batch([draw(0, Question("The area of Beton is", "small")), draw(2)], [])
    assert Setup(monkeypatch, queued=[3]).blocked(batch)[-1] == [2, 3]


def test_a_neighbour_is_pushed_away_from_its_own_edit_though_it_names_its_subject(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # The queue holds an older key of edit 0, the batch another version of its fact, which has the same subject.
    batch = Batch([draw(0, Question("The area of Aville is", "small")), draw(1)], [])
    assert Setup(monkeypatch, queued=[0]).blocked(batch)[-1] == [2]


def test_an_open_question_that_names_a_stored_subject_is_not_pushed_away_from_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    batch = Batch([draw(0), draw(2)], [("how far is beton from here", -1), ("who is it", -1)])
    assert Setup(monkeypatch, queued=[3, 4]).blocked(batch)[-2:] in ([[2, 3], []], [[2, 4], []])


def test_a_version_drawn_to_be_told_apart_is_a_negative_of_its_fact(monkeypatch: pytest.MonkeyPatch) -> None:
    # Columns: sentinel, edit 0, the version drawn with it, edit 1 of the same fact, an older key of edit 0.
    version = Draw(0, EDITS[0], "Who rules Aville? → Fay", "Who rules Aville?", None, None, None)
    blocked = Setup(monkeypatch, queued=[0]).blocked(Batch([draw(0), version, draw(1)], []))
    assert blocked[:3] == [[3, 4], [3, 4], [1, 2, 4]]


def test_a_sentence_is_pushed_away_from_the_edit_whose_subject_was_put_into_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    batch = Batch([draw(2), draw(3)], [("The old bridge of Beton was built again.", 2)])
    assert Setup(monkeypatch, queued=[2]).blocked(batch)[-1] == [2]


def test_losses_are_named_and_finite_and_the_batchs_keys_enter_the_queue(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    setup = Setup(monkeypatch, queued=[3])
    batch = Batch([draw(0, Question("The area of Delta is", "small")), draw(2), draw(4)], [("Why?", -1)])

    losses = setup.losses(batch)

    assert list(losses) == LOSSES
    assert all(math.isfinite(value) and value >= 0 for value in losses.values())
    assert setup.queue.indices.tolist()[:5] == [3, 0, 2, 4, -1]
    assert not setup.queue.keys.requires_grad


def test_without_the_llm_its_losses_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    losses = Setup(monkeypatch).losses(Batch([draw(0), draw(4)], []), with_llm=False)
    assert list(losses) == LOSSES[:2]


def test_another_question_about_an_edits_subject_belongs_to_the_sentinel(monkeypatch: pytest.MonkeyPatch) -> None:
    setup = Setup(monkeypatch, queued=[3])
    setup.losses(Batch([draw(2, other_relation="The area of Beton is"), draw(4)], []))
    (compared,) = setup.compared
    assert compared.own.tolist() == [1, 2, 1, 2, 0]
    assert compared.blocked[-1].nonzero().flatten().tolist() == [3]  # the river of Beton, whose question it might be


def test_a_question_about_a_sibling_belongs_to_the_sentinel_unless_the_sibling_is_known(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    setup = Setup(monkeypatch, queued=[3])
    setup.losses(Batch([draw(0, sibling="The mayor of Beton is"), draw(4, sibling="The mayor of Aford is")], []))
    (compared,) = setup.compared
    assert compared.own.tolist() == [1, 2, 1, 2, 0, 0]
    assert compared.blocked[-2].nonzero().flatten().tolist() == [3]  # a fact about Beton
    assert not compared.blocked[-1].any()


def test_the_sentinels_offset_is_part_of_its_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = []
    for offset in (0.0, 2.0):
        setup = Setup(monkeypatch)
        setup.model.sentinel_offset.fill_(offset)
        setup.losses(Batch([draw(0), draw(4)], []), with_llm=False)
        compared.append(setup.compared[0].scores.detach())
    difference = compared[1] - compared[0]
    torch.testing.assert_close(difference[:, 0], torch.full((4,), 2.0))
    torch.testing.assert_close(difference[:, 1:], torch.zeros(4, 2))


def test_a_batch_with_nothing_out_of_scope_has_finite_losses(monkeypatch: pytest.MonkeyPatch) -> None:
    losses = Setup(monkeypatch).losses(Batch([draw(0), draw(4)], []))
    assert all(math.isfinite(value) for value in losses.values())
    assert float(losses["locality"].detach()) == 0.0


def test_an_unrelated_question_without_an_answer_has_no_locality_loss(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    setup = Setup(monkeypatch)
    losses = setup.losses(Batch([draw(0, Question("The area of Delta is")), draw(4)], []))
    assert float(losses["locality"].detach()) == 0.0
    assert setup.compared[0].own.tolist() == [1, 2, 1, 2, 0]


def test_only_the_first_edits_go_through_the_llm(monkeypatch: pytest.MonkeyPatch) -> None:
    two = Batch([draw(0, Question("The area of Delta is", "small")), draw(2)], [])
    four = Batch([*two.draws, draw(3, Question("The area of Echo is", "large")), draw(4)], [])
    llm_losses = LOSSES[2:]

    first, second = Setup(monkeypatch).losses(two), Setup(monkeypatch).losses(four)

    assert [float(first[name].detach()) for name in llm_losses] == pytest.approx(
        [float(second[name].detach()) for name in llm_losses], rel=1e-4
    )


def test_typos_reach_the_queries_but_never_the_statements(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = Batch([draw(0)], [("Who is it?", -1)])
    plain = Setup(monkeypatch)
    plain.losses(batch)
    slipped = Setup(monkeypatch, typo_rate=1.0)
    slipped.losses(batch)

    assert torch.equal(slipped.queue.keys, plain.queue.keys)
    difference = (slipped.compared[0].scores - plain.compared[0].scores).abs().amax(dim=1)
    assert bool((difference > 1e-3).all())


def test_gradients_reach_all_that_is_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    setup = Setup(monkeypatch, queued=[3])
    setup.model.train()
    batch = Batch([draw(0, Question("The area of Delta is", "small")), draw(2), draw(4)], [("Why?", -1)])

    torch.stack(list(setup.losses(batch).values())).sum().backward()  # type: ignore[no-untyped-call]

    missing = [name for name, value in setup.model.named_parameters() if value.grad is None]
    assert missing == ["encoder.embeddings.word_embeddings.weight"]
    assert all(parameter.grad is None for parameter in setup.llm.model.parameters())


def test_the_queue_is_filled_with_keys_of_all_edits_if_they_are_few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objective, "FILL_GROUP", 2)
    setup = Setup(monkeypatch)

    setup.tested.fill_queue(random.Random(0))

    assert sorted(setup.queue.indices[setup.queue.indices >= 0].tolist()) == list(range(len(EDITS)))
    for key, index in zip(setup.queue.keys, setup.queue.indices.tolist(), strict=True):
        if index >= 0:
            expected = setup.model.keys(setup.features(EDITS[index].knowledge))[0]
            torch.testing.assert_close(key, expected)


def test_settled_statistics_are_of_keys_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    setup = Setup(monkeypatch, contrast_edits=len(EDITS), swapped_answers=0.0, unmarked=0.0, versions=0)
    statistics = setup.model.prompt_head.standardise
    statistics.get_buffer("running_mean").fill_(7.0)

    setup.tested.settle_keys(random.Random(0))

    keys = setup.model.keys(torch.cat([setup.features(edit.knowledge) for edit in EDITS]))
    torch.testing.assert_close(statistics.get_buffer("running_mean"), keys.mean(dim=0))
    torch.testing.assert_close(statistics.get_buffer("running_var"), keys.var(dim=0, correction=0), rtol=0.05, atol=0)
