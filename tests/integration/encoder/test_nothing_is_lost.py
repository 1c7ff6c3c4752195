"""Restarts, outages and failures: nothing is lost, and nothing is committed before its effect."""

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaAdminClient

from brokers import Topics, apache_kafka, broker_kind, needs_fast_group_join, needs_own_kafka
from encoder_harness import EncoderHarness
from recipe_common.embedded_broker import EmbeddedBroker, TopicSpec, create_topics
from recipe_common.errors import FailedPreconditionError
from recipe_encoder.dead_letters import DeadLetterError, TooManyDeadLettersError
from recipe_encoder.topics import MissingTopicError
from recipe_encoder.worker import Worker
from recipe_store.edge_store import EdgeStore
from waiting import DEADLINE_SECONDS, wait_for

both_assignments = pytest.mark.parametrize("assignment", ["manual", pytest.param("group", marks=needs_fast_group_join)])


def wait_until_failed(worker: Worker) -> Exception:
    wait_for(lambda: worker.error is not None and not worker.is_running, "the worker to fail")
    assert worker.error is not None
    return worker.error


@both_assignments
def test_a_restart_goes_on_where_the_last_run_ended(harness: EncoderHarness) -> None:
    for number in range(5):
        harness.upsert(f"f{number}", f"statement {number}")
    with harness.running():
        wait_for(lambda: harness.committed() == 5, "the first five to be committed")
    for number in range(5, 9):
        harness.upsert(f"f{number}", f"statement {number}")
    with harness.running():
        wait_for(lambda: harness.committed() == 9, "all nine to be committed")
    assert sorted(harness.encoder.statements) == [f"statement {number}" for number in range(9)]
    assert harness.events("applied") == 9
    assert harness.count() == 9


@pytest.mark.parametrize("assignment", ["manual"])
def test_a_worker_has_caught_up_when_all_that_the_log_held_is_stored(harness: EncoderHarness) -> None:
    for number in range(150):
        harness.upsert(f"f{number}", f"statement {number}", partition=number % 2)
    with harness.running(batch_size=20) as worker:
        assert worker.caught_up.wait(DEADLINE_SECONDS)
        assert harness.count() == 150


@pytest.mark.parametrize("assignment", ["manual"])
def test_a_worker_on_an_empty_log_has_caught_up_at_once(harness: EncoderHarness) -> None:
    with harness.running() as worker:
        assert worker.caught_up.wait(DEADLINE_SECONDS)


@both_assignments
def test_a_crash_between_effect_and_commit_reads_the_batch_again(
    harness: EncoderHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    harness.upsert("f", "statement")
    write = harness.store.write

    def write_and_crash(*arguments: Any) -> None:
        write(*arguments)
        raise RuntimeError("power cut")

    failures: list[Exception] = []
    with monkeypatch.context() as patch:
        patch.setattr(harness.store, "write", write_and_crash)
        worker = harness.worker()
        worker._on_failure = failures.append
        worker.start()
        error = wait_until_failed(worker)
    assert failures == [error]
    assert str(error) == "power cut"
    assert harness.committed() == 0
    with harness.running():
        wait_for(lambda: harness.committed() == 1, "the record to be committed")
    assert harness.encoder.statements == ["statement", "statement"]
    assert harness.count() == 1


@both_assignments
def test_a_store_outage_pauses_and_loses_nothing(harness: EncoderHarness) -> None:
    harness.outage.is_down = True
    with harness.running(batch_size=2):
        for number in range(6):
            harness.upsert(f"f{number}", f"statement {number}", partition=number % 2)
        harness.publish(harness.key("bad"), b"nonsense", partition=0)
        wait_for(lambda: harness.outage.refusals >= 3, "three refused writes")
        assert harness.sample("recipe_encoder_paused", {"dependency": "store"}) == 1
        assert harness.committed() == 0
        harness.outage.is_down = False
        wait_for(lambda: harness.committed() == 7, "everything to be committed")
        assert harness.sample("recipe_encoder_paused", {"dependency": "store"}) == 0
    assert sorted(harness.encoder.statements) == [f"statement {number}" for number in range(6)]
    assert harness.count() == 6
    assert len(harness.dead_letters()) == 1
    assert harness.sample("recipe_encoder_store_retries_total") == harness.outage.refusals


@both_assignments
def test_a_stop_during_an_outage_is_prompt_and_commits_nothing(harness: EncoderHarness) -> None:
    harness.outage.is_down = True
    harness.upsert("f", "statement")
    with harness.running(retry_initial_seconds=600, retry_max_seconds=600):
        wait_for(lambda: harness.outage.refusals == 1, "the refused write")
    assert harness.committed() == 0
    harness.outage.is_down = False
    with harness.running():
        wait_for(lambda: harness.committed() == 1, "the record to be committed")
    assert harness.statement("f") == "statement"


@pytest.mark.skipif(broker_kind() == "tansu", reason="Tansu accepts records for a topic that does not exist")
def test_a_dead_letter_that_is_refused_stops_the_worker_without_a_commit(harness: EncoderHarness) -> None:
    worker = harness.worker(dead_letter_timeout_seconds=1.5)
    worker.start()
    assert worker.ready.wait(DEADLINE_SECONDS)
    with KafkaAdminClient(bootstrap_servers=harness.broker) as admin:
        admin.delete_topics([harness.topics.dead_letters])
    harness.publish(harness.key("bad"), b"nonsense", partition=0)
    harness.upsert("f", "statement", partition=0)
    error = wait_until_failed(worker)
    assert isinstance(error, DeadLetterError)
    assert f"the topic {harness.topics.dead_letters!r} did not take a dead letter" in str(error)
    assert harness.committed() == 0
    assert harness.events("dead_lettered") == 0


def test_a_dead_letter_without_a_broker_stops_the_worker(store: EdgeStore) -> None:
    topics = Topics("updates", "updates.dlq")
    with EmbeddedBroker(topics={topics.updates: TopicSpec(), topics.dead_letters: TopicSpec()}) as own:
        harness = EncoderHarness(own.bootstrap_servers, topics, store, "manual")
        harness.outage.is_down = True
        harness.publish(harness.key("bad"), b"nonsense")
        harness.upsert("f", "statement")
        worker = harness.worker(dead_letter_timeout_seconds=0.5)
        worker.start()
        wait_for(lambda: harness.outage.refusals >= 1, "the refused write")
    harness.outage.is_down = False
    error = wait_until_failed(worker)
    assert isinstance(error, DeadLetterError)
    assert harness.statement("f") == "statement"
    assert harness.events("dead_lettered") == 0
    harness.close()


def test_too_many_dead_letters_stop_the_worker_when_they_are_written_and_committed(harness: EncoderHarness) -> None:
    harness.upsert("before", "before", partition=0)
    for number in range(3):
        harness.publish(harness.key("bad"), f"nonsense {number}".encode(), partition=0)
    worker = harness.worker(dead_letter_max_in_a_row=3)
    worker.start()
    error = wait_until_failed(worker)
    assert isinstance(error, TooManyDeadLettersError)
    assert "3 records in a row went to the dead letters, the last one in stage 'decode'" in str(error)
    assert worker.not_ready() == f"it has stopped: {error}"
    assert [letter.value for letter in harness.dead_letters()] == [b"nonsense 0", b"nonsense 1", b"nonsense 2"]
    assert harness.committed() == 4
    assert harness.statement("before") == "before"


@both_assignments
def test_a_partition_that_waits_for_the_store_for_long_makes_the_worker_not_ready(harness: EncoderHarness) -> None:
    with harness.running(stall_seconds=1.0) as worker:
        assert worker.ready.wait(DEADLINE_SECONDS)
        assert worker.not_ready() is None
        harness.outage.is_down = True
        harness.upsert("f", "statement", partition=1)
        wait_for(lambda: worker.not_ready() is not None, "the worker to be not ready")
        assert f"partition 1 of {harness.topics.updates}: 1 records are waiting" in str(worker.not_ready())
        assert harness.sample("recipe_encoder_lag_records", {"partition": "1"}) == 1
        harness.outage.is_down = False
        wait_for(lambda: worker.not_ready() is None, "the worker to be ready again")


@needs_fast_group_join
@pytest.mark.parametrize("assignment", ["group"])
def test_a_batch_slower_than_the_poll_interval_does_not_evict_the_member(
    harness: EncoderHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode = harness.encoder.encode

    def encode_slowly(statements: Sequence[str]) -> Any:
        time.sleep(5.0)
        return encode(statements)

    monkeypatch.setattr(harness.encoder, "encode", encode_slowly)
    harness.upsert("f", "statement")
    with harness.running(max_poll_interval_seconds=1.0, session_timeout_seconds=6.0):
        wait_for(lambda: harness.committed() == 1, "the record to be committed")
        assert harness.sample("recipe_encoder_rebalances_total", {"change": "lost"}) == 0
    assert harness.encoder.statements == ["statement"]


@needs_own_kafka
def test_a_worker_outlives_its_broker_and_goes_on_when_it_is_back(store: EdgeStore) -> None:
    topics = Topics("updates", "updates.dlq")
    with apache_kafka(Path(os.environ["KAFKA_HOME"])) as kafka:
        create_topics(kafka.bootstrap_servers, {topics.updates: TopicSpec(2), topics.dead_letters: TopicSpec()})
        harness = EncoderHarness(kafka.bootstrap_servers, topics, store, "group")
        with harness.running(stall_seconds=1.0) as worker:
            harness.upsert("f0", "before")
            wait_for(lambda: harness.committed() == 1, "the first record to be committed")
            kafka.kill()
            wait_for(lambda: harness.sample("recipe_encoder_paused", {"dependency": "broker"}) == 1, "the pause")
            wait_for(lambda: "broker has not answered" in (worker.not_ready() or ""), "the worker to be not ready")
            kafka.start()
            harness.upsert("f1", "after")
            wait_for(lambda: harness.committed() == 2, "the second record to be committed")
            wait_for(lambda: worker.not_ready() is None, "the worker to be ready again")
            assert harness.sample("recipe_encoder_paused", {"dependency": "broker"}) == 0
        assert [harness.statement(each) for each in ("f0", "f1")] == ["before", "after"]
        assert harness.dead_letters() == []
        harness.close()


@pytest.mark.parametrize("setting", ["topic", "dead_letter_topic"])
def test_a_missing_topic_is_found_at_the_start_and_not_created(harness: EncoderHarness, setting: str) -> None:
    worker = harness.worker(**{setting: "missing"}, topic_timeout_seconds=0.3)
    with pytest.raises(MissingTopicError, match="the topic 'missing' does not exist; create it"):
        worker.run()
    with KafkaAdminClient(bootstrap_servers=harness.broker) as admin:
        assert "missing" not in admin.list_topics()


def test_a_worker_starts_once(harness: EncoderHarness) -> None:
    with harness.running() as worker, pytest.raises(FailedPreconditionError, match="was started before"):
        worker.start()


@needs_fast_group_join
@pytest.mark.parametrize("assignment", ["group"])
def test_partitions_move_to_a_second_worker_and_back(harness: EncoderHarness) -> None:
    with harness.running() as first:
        assert first.ready.wait(DEADLINE_SECONDS)
        harness.upsert("f0", "statement 0", partition=0)
        harness.upsert("f1", "statement 1", partition=1)
        wait_for(lambda: harness.committed() == 2, "the first two to be committed")
        with harness.running() as second:
            assert second.ready.wait(DEADLINE_SECONDS)
            harness.upsert("f2", "statement 2", partition=0)
            harness.upsert("f3", "statement 3", partition=1)
            wait_for(lambda: harness.committed() == 4, "two more to be committed")
        harness.upsert("f4", "statement 4", partition=0)
        harness.upsert("f5", "statement 5", partition=1)
        wait_for(lambda: harness.committed() == 6, "the last two to be committed")
    assert sorted(harness.encoder.statements) == [f"statement {number}" for number in range(6)]


@needs_fast_group_join
@pytest.mark.parametrize("assignment", ["group"])
def test_a_rebalance_during_an_outage_loses_nothing(harness: EncoderHarness) -> None:
    harness.outage.is_down = True
    with harness.running() as first:
        assert first.ready.wait(DEADLINE_SECONDS)
        for number in range(6):
            harness.upsert(f"f{number}", f"statement {number}", partition=number % 2)
        wait_for(lambda: harness.outage.refusals >= 2, "refused writes")
        with harness.running() as second:
            assert second.ready.wait(DEADLINE_SECONDS)
            refusals = harness.outage.refusals
            wait_for(lambda: harness.outage.refusals > refusals + 2, "refused writes of both")
            harness.outage.is_down = False
            wait_for(lambda: harness.committed() == 6, "everything to be committed")
    assert set(harness.encoder.statements) == {f"statement {number}" for number in range(6)}
    assert harness.count() == 6
    assert harness.dead_letters() == []
