"""The verifier at inference: the network's numbers, whatever runs it and whatever stands beside."""

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from recipe_common.token_states import TokenStates
from recipe_model import verifier as module
from recipe_model.onnx_graphs import OnnxGraph
from recipe_model.verifier import Verifier, VerifierError
from recipe_model.verifier_network import VerifierNetwork
from tiny_models import ENCODER_HIDDEN, make_recipe_model

LENGTHS = (5, 1, 12, 7)


def tokens(length: int, seed: int, hidden: int = ENCODER_HIDDEN) -> TokenStates:
    """Random states, ids of which many are the same, and roles one after the other."""
    draw = np.random.default_rng(seed)
    return TokenStates(
        draw.integers(0, 9, length, dtype=np.int32),
        np.sort(draw.integers(0, 3, length, dtype=np.uint8)),
        draw.standard_normal((length, hidden)).astype(np.float16),
    )


QUERY = tokens(6, seed=100)
FACTS = [tokens(length, seed) for seed, length in enumerate(LENGTHS)]


@pytest.fixture
def network() -> VerifierNetwork:
    return make_recipe_model().verifier.requires_grad_(False)


@pytest.fixture(params=[Verifier, Verifier.load], ids=["torch", "onnx"])
def verifier(request: pytest.FixtureRequest, network: VerifierNetwork) -> Verifier:
    make: Callable[[VerifierNetwork], Verifier] = request.param
    return make(network)


def in_torch(each: TokenStates) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    states, ids = torch.from_numpy(each.states).float()[None], torch.from_numpy(each.ids).long()[None]
    return states, ids, torch.ones_like(ids, dtype=torch.bool)


def test_a_margin_is_what_the_fact_says_beyond_the_sentinel(verifier: Verifier, network: VerifierNetwork) -> None:
    sentinel = network.sentinel_scores(*in_torch(QUERY))
    for fact, margin in zip(FACTS, verifier.margins(QUERY, FACTS), strict=True):
        states, ids, mask = in_torch(fact)
        score = network(*in_torch(QUERY), states, ids, torch.from_numpy(fact.roles).long()[None], mask)
        assert margin == pytest.approx(float(score - sentinel), abs=1e-5)


def test_a_fact_is_judged_beside_others_as_it_is_alone(verifier: Verifier) -> None:
    together = verifier.margins(QUERY, FACTS)
    assert together.dtype == np.float32
    assert together.shape == (len(FACTS),)
    for fact, margin in zip(FACTS, together, strict=True):
        assert margin == pytest.approx(float(verifier.margins(QUERY, [fact])[0]), abs=1e-5)


def test_padding_changes_nothing_but_rounding(verifier: Verifier) -> None:
    beside_a_long_one = verifier.margins(QUERY, [*FACTS, tokens(60, seed=9)])
    np.testing.assert_allclose(beside_a_long_one[:-1], verifier.margins(QUERY, FACTS), atol=1e-5)


def test_what_is_read_changes_the_margin(verifier: Verifier) -> None:
    fact = FACTS[2]
    changed = [
        TokenStates(fact.ids + 1, fact.roles, fact.states),
        TokenStates(fact.ids, (fact.roles + 1) % 3, fact.states),
        TokenStates(fact.ids, fact.roles, -fact.states),
    ]
    margins = verifier.margins(QUERY, [fact, *changed])
    assert len(set(margins.round(6).tolist())) == len(margins)


def test_of_no_facts_nothing_is_said(verifier: Verifier) -> None:
    assert verifier.margins(QUERY, []).shape == (0,)


@pytest.mark.parametrize(("query", "fact"), [(1, 1), (1, 40), (40, 1)])
def test_texts_may_be_of_any_length(verifier: Verifier, query: int, fact: int) -> None:
    assert verifier.margins(tokens(query, 1), [tokens(fact, 2)]).shape == (1,)


def test_threads_may_share_a_verifier(verifier: Verifier) -> None:
    queries = [tokens(1 + seed % 7, seed) for seed in range(24)]
    expected = [verifier.margins(query, FACTS) for query in queries]
    with ThreadPoolExecutor(4) as executor:
        found = list(executor.map(lambda query: verifier.margins(query, FACTS), queries))
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("make", [Verifier, Verifier.load], ids=["torch", "onnx"])
def test_numbers_that_are_none_are_an_error(
    network: VerifierNetwork, make: Callable[[VerifierNetwork], Verifier], value: float
) -> None:
    network.project.weight.fill_(value)
    with pytest.raises(VerifierError, match="not finite"):
        make(network).margins(QUERY, FACTS)


def test_states_of_another_width_are_an_error(verifier: Verifier) -> None:
    with pytest.raises(VerifierError, match="cannot compare 1 facts"):
        verifier.margins(QUERY, [tokens(4, 1, hidden=ENCODER_HIDDEN + 1)])
    with pytest.raises(VerifierError, match="cannot compare 2 facts"):
        verifier.margins(QUERY, [FACTS[0], tokens(4, 1, hidden=ENCODER_HIDDEN + 1)])


def test_the_cpu_runs_the_exported_graph(network: VerifierNetwork, caplog: pytest.LogCaptureFixture) -> None:
    assert isinstance(Verifier.load(network)._margins, OnnxGraph)
    assert not caplog.records


def test_a_graph_that_computes_something_else_is_not_used(
    network: VerifierNetwork, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    other, export = make_recipe_model(seed=1).verifier, module._export
    monkeypatch.setattr(module, "_export", lambda _, graph: export(other, graph))
    with caplog.at_level(logging.WARNING):
        verifier = Verifier.load(network)
    assert "the verifier stays on PyTorch" in caplog.text
    np.testing.assert_array_equal(verifier.margins(QUERY, FACTS), Verifier(network).margins(QUERY, FACTS))


def test_a_network_that_cannot_be_exported_stays_as_it_is(
    network: VerifierNetwork, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "_export", lambda _, graph: graph.write_bytes(b"no graph"))
    verifier = Verifier.load(network)
    assert "ONNX Runtime" in caplog.text
    assert np.isfinite(verifier.margins(QUERY, FACTS)).all()


def test_on_another_device_everything_is_computed_there(network: VerifierNetwork) -> None:
    # Tensors of shape alone stand for those of a GPU: an operation on one of them and one of the CPU raises.
    found = Verifier.load(network.to("meta"))._compared(QUERY, FACTS)
    assert (found.device.type, found.shape) == ("meta", (len(FACTS),))
