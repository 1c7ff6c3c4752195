"""What only the store on a directory must do: outlive its process, and refuse another model's directory."""

import itertools
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from contract.store.samples import (
    KEY_SIZE,
    MODEL_VERSION,
    PROMPT_SHAPE,
    axis,
    make_fact,
    make_write,
    prompt_of,
)
from contract.store.writer_process import BATCH_SIZE, NAMESPACE, batch
from recipe_common.errors import FailedPreconditionError
from recipe_store import StoreUnavailableError, point_store
from recipe_store.edge_store import FLUSH_EVERY, METADATA_FILE, EdgeStore, open_edge_store
from recipe_store.point_store import LEADING_CANDIDATES, LEADING_NUMBERS, SCANNED_FACTS

NOW = datetime(2025, 6, 1, tzinfo=UTC)


def open_at(path: Path) -> EdgeStore:
    return open_edge_store(path, MODEL_VERSION, KEY_SIZE, PROMPT_SHAPE)


def test_facts_are_there_after_reopening(tmp_path: Path) -> None:
    fact = make_fact("n", "f", 2, 5)
    store = open_at(tmp_path / "new" / "folder")
    store.write([make_write(fact), make_write(make_fact("n", "gone", 1, 6, retracted=True))])
    store.close()
    reopened = open_at(tmp_path / "new" / "folder")
    reopened.write([make_write(make_fact("n", "f", 1, 9))])
    (match,) = reopened.search(axis(0), namespace="n", as_of=NOW)
    assert (match.fact, match.similarity) == (fact, 1.0)
    np.testing.assert_array_equal(reopened.prompt(match), prompt_of(5))
    assert reopened.count("n") == 1
    reopened.close()


def test_a_write_that_returned_survives_sigkill(tmp_path: Path) -> None:
    written = -1
    for _ in range(3):
        written = _write_until_killed(tmp_path, first_batch=written + 2)
        store = open_at(tmp_path)
        matches = store.search(axis(0), namespace=NAMESPACE, as_of=NOW, limit=2 * BATCH_SIZE)
        prompts = [store.prompt(match) for match in matches]
        store.close()
        assert len(matches) == BATCH_SIZE
        # Of the batch under way when the signal came, some may have been stored as well.
        possible = {write.fact.fact_id: write.fact for write in batch(written)}
        under_way = {write.fact.fact_id: write.fact for write in batch(written + 1)}
        for match, prompt in zip(matches, prompts, strict=True):
            assert match.fact in (possible[match.fact.fact_id], under_way[match.fact.fact_id])
            np.testing.assert_array_equal(prompt, prompt_of(match.fact.position.offset))


def _write_until_killed(path: Path, first_batch: int) -> int:
    """Kill a writing process after some batches and a flush; return the last batch that was written."""
    batches = FLUSH_EVERY // BATCH_SIZE + 5
    search_path = os.pathsep.join([str(Path(__file__).parents[2]), *filter(None, sys.path)])
    command = [sys.executable, "-m", "contract.store.writer_process", str(path), str(first_batch)]
    environment = {**os.environ, "PYTHONPATH": search_path}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        written = [int(line) for line in itertools.islice(process.stdout, batches)]
        process.kill()
        written += [int(line) for line in process.stdout]
    return written[-1]


def test_a_write_ahead_log_of_many_files_is_written_and_read(tmp_path: Path) -> None:
    long = "x" * 1_000_000  # so that 150 writes take five files of 32 MiB
    facts = [make_fact("n", f"f{n}", 1, n, statement=f"{n} {long}") for n in range(150)]
    store = open_at(tmp_path)
    for start in range(0, 150, 10):
        store.write([make_write(fact) for fact in facts[start : start + 10]])
    store.close()
    reopened = open_at(tmp_path)
    assert [reopened.get("n", fact.fact_id) for fact in facts] == facts
    reopened.close()


def test_another_model_versions_directory_is_refused(tmp_path: Path) -> None:
    open_at(tmp_path).close()
    with pytest.raises(FailedPreconditionError) as error:
        open_edge_store(tmp_path, "model-2", KEY_SIZE, PROMPT_SHAPE)
    assert str(error.value) == (
        f"the knowledge base in {tmp_path} was made for model version 'model-1' "
        "(key size 8, prompt shape [2, 4]), but this service runs model version 'model-2' "
        "(key size 8, prompt shape [2, 4]); "
        "configure another directory, or delete this one and rebuild it from the log"
    )


@pytest.mark.parametrize(("key_size", "prompt_shape"), [(9, PROMPT_SHAPE), (KEY_SIZE, (4, 2))])
def test_other_sizes_are_refused(tmp_path: Path, key_size: int, prompt_shape: tuple[int, int]) -> None:
    open_at(tmp_path).close()
    with pytest.raises(FailedPreconditionError, match="this service runs model version 'model-1'"):
        open_edge_store(tmp_path, MODEL_VERSION, key_size, prompt_shape)


def test_a_directory_that_lost_its_metadata_is_refused(tmp_path: Path) -> None:
    open_at(tmp_path).close()
    (tmp_path / METADATA_FILE).write_text("", encoding="utf-8")
    with pytest.raises(FailedPreconditionError, match="does not say which model version it was made for"):
        open_at(tmp_path)


def test_a_directory_whose_creation_was_cut_short_is_used(tmp_path: Path) -> None:
    (tmp_path / METADATA_FILE).with_suffix(".unfinished").write_text("{", encoding="utf-8")
    open_at(tmp_path).close()
    open_at(tmp_path).close()


def test_a_directory_of_other_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "letters.txt").write_text("Dear Sir or Madam", encoding="utf-8")
    with pytest.raises(FailedPreconditionError, match=f"holds files but no {METADATA_FILE}"):
        open_at(tmp_path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["letters.txt"]


def require_exact(store: EdgeStore, keys: NDArray[np.float32], query: NDArray[np.float32]) -> None:
    """The best fact and its score are those of a full scan, and a threshold above it lets nothing through."""
    scores = keys @ query
    best = int(scores.argmax())
    exact = float(scores[best])
    hit = store.hit(query, namespace="n", as_of=NOW, threshold=exact - 0.01, crowd_weight=0.0)
    assert hit is not None
    assert hit.fact.fact_id == str(best)
    assert hit.similarity == pytest.approx(exact, rel=1e-6)
    assert store.hit(query, namespace="n", as_of=NOW, threshold=exact + 0.01, crowd_weight=0.0) is None


def test_a_large_base_gives_exact_scores_and_the_decisions_of_a_full_scan_indexed_or_not(tmp_path: Path) -> None:
    rng, size, count = np.random.default_rng(0), LEADING_NUMBERS + 64, SCANNED_FACTS + 2_000
    # As an encoder makes them: of mean zero, the first numbers the largest.
    spread = 1 / np.sqrt(np.arange(1, size + 1))
    keys = (rng.normal(size=(count, size)) * spread).astype(np.float32)
    questions = (keys[:50] + 0.7 * rng.normal(size=(50, size)) * spread).astype(np.float32)
    store = open_edge_store(tmp_path, MODEL_VERSION, size, PROMPT_SHAPE)
    for start in range(0, count, 1_000):
        rows = range(start, min(start + 1_000, count))
        store.write([make_write(make_fact("n", str(row), 1, row), keys[row]) for row in rows])
    for query in questions:
        require_exact(store, keys, query)
    assert store.index() == count
    for query in questions:
        require_exact(store, keys, query)
    store.write([make_write(make_fact("n", "late", 1, count), keys[0] * 2)])  # not indexed, and found all the same
    (late,) = store.search(keys[0], namespace="n", as_of=NOW)
    assert late.fact.fact_id == "late"
    store.close()


@pytest.mark.parametrize("crowds_are_noticed", [True, False])
def test_a_fact_is_found_among_many_that_only_their_last_numbers_tell_apart(
    tmp_path: Path, crowds_are_noticed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not crowds_are_noticed:
        monkeypatch.setattr(point_store, "CROWD_WIDTH", 0.0)
    rng, size, count = np.random.default_rng(0), LEADING_NUMBERS + 64, 4 * LEADING_CANDIDATES
    keys = np.zeros((count, size), np.float32)
    keys[:, 0] = 20.0
    keys[:, LEADING_NUMBERS:] = 0.7 * rng.normal(size=(count, 64))
    store = open_edge_store(tmp_path, MODEL_VERSION, size, PROMPT_SHAPE)
    store.write([make_write(make_fact("n", str(row), 1, row), keys[row]) for row in range(count)])

    found = [
        store.hit(key, namespace="n", as_of=NOW, threshold=float(key @ key) - 0.1, crowd_weight=0.0)
        for key in keys[::10]
    ]

    right = [match is not None and match.fact.fact_id == str(10 * row) for row, match in enumerate(found)]
    assert all(right) == crowds_are_noticed
    store.close()


def test_a_small_base_needs_no_index(tmp_path: Path) -> None:
    store = open_at(tmp_path)
    store.write([make_write(make_fact("n", "f", 1, 0))])
    assert store.index() == 0
    store.close()


def test_a_directory_that_is_already_open_is_unavailable(tmp_path: Path) -> None:
    store = open_at(tmp_path)
    with pytest.raises(StoreUnavailableError, match="check that no other process has it open"):
        open_at(tmp_path)
    store.close()


def test_a_closed_store_is_unavailable(tmp_path: Path) -> None:
    store = open_at(tmp_path)
    store.close()
    with pytest.raises(StoreUnavailableError, match="cannot be used"):
        store.count("n")
