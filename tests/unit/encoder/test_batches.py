"""Building a micro-batch: one call of the model, order kept, and nobody suffers for a neighbour."""

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from encoder_harness import HashEncoder, prompt_of, vector_of
from encoder_records import Record, json_record
from recipe_encoder.batches import Batch, BatchBuilder
from recipe_encoder.metrics import EncoderMetrics


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def encoder() -> HashEncoder:
    return HashEncoder()


@pytest.fixture
def builder(encoder: HashEncoder, registry: CollectorRegistry) -> BatchBuilder:
    return BatchBuilder(encoder, EncoderMetrics(registry))


def about(fact_id: str, statement: str, offset: int, revision: int = 0) -> Record:
    event = {"factId": fact_id, "revision": revision, "upsert": {"statement": statement}}
    return json_record(event, key=f"test/{fact_id}".encode(), offset=offset)


def gone(fact_id: str, offset: int) -> Record:
    return Record(None, key=f"test/{fact_id}".encode(), offset=offset)


def outline(batch: Batch) -> tuple[list[tuple[int, str]], list[tuple[int, str]]]:
    """Offset and statement of the writes, offset and stage of the refused."""
    writes = [(write.fact.position.offset, write.fact.statement) for write in batch.writes]
    return writes, [(letter.record.offset, letter.error.stage) for letter in batch.refused]


def test_a_batch_goes_through_the_model_at_once_and_keeps_its_order(
    builder: BatchBuilder, encoder: HashEncoder
) -> None:
    batch = builder.build([about("a", "one", 1), gone("b", 2), about("c", "two", 3)])
    assert outline(batch) == ([(1, "one"), (2, ""), (3, "two")], [])
    assert encoder.batches == [["one", "two"]]
    first, marker, second = batch.writes
    assert (marker.vector, marker.tokens, marker.prompt) == (None, None, None)
    for write, statement in ((first, "one"), (second, "two")):
        assert write.vector is not None
        assert write.prompt is not None
        np.testing.assert_array_equal(write.vector, vector_of(statement))
        np.testing.assert_array_equal(write.prompt, prompt_of(statement))


def test_other_names_of_the_subject_are_encoded_too(builder: BatchBuilder, encoder: HashEncoder) -> None:
    names = {"subject": "Aville", "aliases": ["A-Ville", "AV"]}
    told, bare = {"prompt": "The mayor of Aville is", "answer": "Ann"}, {"statement": "Aville lies at the Dee"}
    events = [json_record({"upsert": text | names}, offset=offset) for offset, text in enumerate((told, bare))]
    for event in events:
        builder.build([event])
    assert encoder.statements == [
        "The mayor of Aville is → Ann ≡ A-Ville, AV",
        "Aville lies at the Dee ≡ A-Ville, AV",
    ]


def test_a_fact_that_its_aliases_make_too_long_is_encoded_without_them(
    builder: BatchBuilder, encoder: HashEncoder, caplog: pytest.LogCaptureFixture
) -> None:
    long = json_record({"upsert": {"statement": "one", "aliases": ["unreadable"]}}, offset=1)
    batch = builder.build([long, about("b", "unreadable", 2), about("c", "two", 3)])
    assert outline(batch) == ([(1, "one"), (3, "two")], [(2, "encode")])
    assert batch.writes[0].fact.aliases == ("unreadable",)
    assert encoder.batches == [["one"], ["two"]]
    assert "fact 'f' of namespace 'test' is too long with its aliases: encoded without" in caplog.text


def test_a_fact_in_words_the_model_does_not_know_is_written_and_counted(
    builder: BatchBuilder, registry: CollectorRegistry, caplog: pytest.LogCaptureFixture
) -> None:
    batch = builder.build([about("a", "foreign", 1), about("b", "one", 2)])
    assert outline(batch) == ([(1, "foreign"), (2, "one")], [])
    assert registry.get_sample_value("recipe_encoder_unreadable_facts_total") == 1
    assert "1 facts are written in words that the text encoder does not know" in caplog.text


def test_retractions_need_no_model(builder: BatchBuilder, encoder: HashEncoder, registry: CollectorRegistry) -> None:
    batch = builder.build([gone("a", 1), json_record({"retract": {}}, offset=2)])
    assert outline(batch) == ([(1, ""), (2, "")], [])
    assert encoder.batches == []
    assert registry.get_sample_value("recipe_encoder_stage_seconds_count", {"stage": "encode"}) == 0


def test_what_cannot_be_parsed_or_encoded_is_refused_alone(builder: BatchBuilder, encoder: HashEncoder) -> None:
    batch = builder.build(
        [
            about("a", "one", 1),
            Record(b"nonsense", offset=2),
            about("b", "unreadable", 3),
            gone("c", 4),
            about("d", "two", 5),
        ]
    )
    assert outline(batch) == ([(1, "one"), (4, ""), (5, "two")], [(2, "decode"), (3, "encode")])
    assert str(batch.refused[1].error) == "statement: is 999 tokens long, at most 256 are read"
    assert encoder.batches == [["one"], ["two"]]


def test_a_batch_of_nothing_but_refusals_writes_nothing(builder: BatchBuilder) -> None:
    assert outline(builder.build([Record(b"", offset=1)])) == ([], [(1, "decode")])


def test_size_and_stages_are_measured_once_per_batch(builder: BatchBuilder, registry: CollectorRegistry) -> None:
    builder.build([about("a", "one", 1), about("b", "two", 2), Record(b"")])
    assert registry.get_sample_value("recipe_encoder_batch_size_sum") == 3
    assert registry.get_sample_value("recipe_encoder_batch_size_count") == 1
    for stage in ("parse", "encode"):
        assert registry.get_sample_value("recipe_encoder_stage_seconds_count", {"stage": stage}) == 1


def test_what_a_later_record_supersedes_is_counted_but_not_encoded(builder: BatchBuilder, encoder: HashEncoder) -> None:
    batch = builder.build(
        [
            about("a", "a first", 1),
            about("a", "a last", 2),
            about("b", "b newest", 3, revision=7),
            about("b", "b delivered late", 4, revision=6),
            about("c", "c", 5),
            gone("c", 6),
        ]
    )
    assert outline(batch) == ([(2, "a last"), (3, "b newest"), (6, "")], [])
    assert encoder.statements == ["a last", "b newest"]
    assert [fact.position.offset for fact in batch.facts] == [1, 2, 3, 4, 5, 6]


def test_the_store_alone_orders_a_fact_with_and_without_revisions(builder: BatchBuilder) -> None:
    batch = builder.build([about("a", "one", 1, revision=4), about("b", "other", 2), about("a", "two", 3)])
    assert outline(batch) == ([(1, "one"), (2, "other"), (3, "two")], [])


def test_the_record_before_one_that_cannot_be_encoded_stands(builder: BatchBuilder) -> None:
    batch = builder.build([about("a", "readable", 1), about("a", "unreadable", 2)])
    assert outline(batch) == ([(1, "readable")], [(2, "encode")])
    assert [fact.position.offset for fact in batch.facts] == [1]
