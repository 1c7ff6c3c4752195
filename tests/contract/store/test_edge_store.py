"""What only the store on a directory must do: outlive its process, and refuse another model's directory."""

import itertools
import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from contract.store.samples import (
    MODEL_VERSION,
    PROMPT_WIDTH,
    VECTOR_SIZE,
    axis,
    make_fact,
    make_write,
    prompt_of,
    same_tokens,
    tokens_of,
)
from contract.store.writer_process import BATCH_SIZE, NAMESPACE, batch
from recipe_common.errors import FailedPreconditionError
from recipe_store import StoreUnavailableError
from recipe_store.edge_store import FLUSH_EVERY, METADATA_FILE, EdgeStore, open_edge_store

NOW = datetime(2025, 6, 1, tzinfo=UTC)


def open_at(path: Path) -> EdgeStore:
    return open_edge_store(path, MODEL_VERSION, VECTOR_SIZE, PROMPT_WIDTH)


def test_facts_are_there_after_reopening(tmp_path: Path) -> None:
    fact = make_fact("n", "f", 2, 5)
    store = open_at(tmp_path / "new" / "folder")
    store.write([make_write(fact), make_write(make_fact("n", "gone", 1, 6, retracted=True))])
    store.close()
    reopened = open_at(tmp_path / "new" / "folder")
    reopened.write([make_write(make_fact("n", "f", 1, 9))])
    (match,) = reopened.search(axis(0), namespace="n", as_of=NOW, limit=1)
    assert (match.fact, match.similarity) == (fact, 1.0)
    assert same_tokens(match.tokens, tokens_of(5))
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
            assert same_tokens(match.tokens, tokens_of(match.fact.position.offset))


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
        open_edge_store(tmp_path, "model-2", VECTOR_SIZE, PROMPT_WIDTH)
    assert str(error.value) == (
        f"the knowledge base in {tmp_path} was made for model version 'model-1' "
        "(format 2, vector size 8, prompt width 4), but this service runs model version 'model-2' "
        "(format 2, vector size 8, prompt width 4); "
        "configure another directory, or delete this one and rebuild it from the log"
    )


def test_a_directory_of_the_format_before_is_refused(tmp_path: Path) -> None:
    before = {"model_version": MODEL_VERSION, "key_size": VECTOR_SIZE, "prompt_shape": [2, PROMPT_WIDTH]}
    (tmp_path / METADATA_FILE).write_text(json.dumps(before), encoding="utf-8")
    with pytest.raises(FailedPreconditionError, match=r"was made for model version 'model-1' \(format 1, "):
        open_at(tmp_path)


@pytest.mark.parametrize(("vector_size", "prompt_width"), [(9, PROMPT_WIDTH), (VECTOR_SIZE, 2)])
def test_other_sizes_are_refused(tmp_path: Path, vector_size: int, prompt_width: int) -> None:
    open_at(tmp_path).close()
    with pytest.raises(FailedPreconditionError, match="this service runs model version 'model-1'"):
        open_edge_store(tmp_path, MODEL_VERSION, vector_size, prompt_width)


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


SIZE = 1024
COUNT = 3_000  # of this size, more than the engine leaves without an index: 10 MB


def fill(store: EdgeStore, rng: np.random.Generator) -> NDArray[np.float32]:
    """COUNT facts about 100 subjects; those of the second half of each hundred have expired."""
    subjects = rng.normal(size=(COUNT // 100, 1, SIZE))
    vectors = (subjects + rng.normal(size=(COUNT // 100, 100, SIZE))).astype(np.float32).reshape(COUNT, SIZE)
    for start in range(0, COUNT, 500):
        facts = [
            make_fact("n", str(row), 1, row % 1000, valid_until=NOW if row % 100 >= 50 else None)
            for row in range(start, start + 500)
        ]
        store.write([make_write(fact, vectors[int(fact.fact_id)]) for fact in facts])
    return vectors


def share_found(store: EdgeStore, vectors: NDArray[np.float32], rng: np.random.Generator) -> float:
    """Of the eight valid facts nearest to questions about expired facts, by a full scan, the share that is found."""
    valid = np.arange(COUNT) % 100 < 50
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    right = []
    for row in range(99, COUNT, 100):
        query = vectors[row] + 0.5 * rng.normal(size=SIZE).astype(np.float32)
        cosines = np.where(valid, units @ query / np.linalg.norm(query), -1.0)
        best = np.argsort(-cosines)[:8]
        matches = {m.fact.fact_id: m.similarity for m in store.search(query, namespace="n", as_of=NOW, limit=8)}
        assert len(matches) == 8
        assert matches == pytest.approx({fact_id: cosines[int(fact_id)] for fact_id in matches}, abs=1e-5)
        right += [str(number) in matches for number in best]
    return float(np.mean(right))


def test_a_large_base_finds_the_valid_nearest_indexed_or_not(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    store = open_edge_store(tmp_path, MODEL_VERSION, SIZE, PROMPT_WIDTH)
    vectors = fill(store, rng)
    assert share_found(store, vectors, rng) == 1.0
    assert store.index() == COUNT
    assert share_found(store, vectors, rng) > 0.95
    store.close()


def test_what_changes_after_indexing_is_found_as_it_is_now(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    store = open_edge_store(tmp_path, MODEL_VERSION, SIZE, PROMPT_WIDTH)
    vectors = fill(store, rng)
    store.index()

    def nearest(vector: NDArray[np.float32]) -> tuple[str, int]:
        (match,) = store.search(vector, namespace="n", as_of=NOW, limit=1)
        return match.fact.fact_id, match.fact.revision

    store.write([make_write(make_fact("n", "0", 2, COUNT), vectors[0] - 2 * vectors[200])])
    store.write([make_write(make_fact("n", "late", 1, COUNT), vectors[51] * 2)])
    store.write([make_write(make_fact("n", "1", 2, COUNT, retracted=True))])
    assert nearest(vectors[0] - 2 * vectors[200]) == ("0", 2)
    assert nearest(vectors[51]) == ("late", 1)
    assert nearest(vectors[0])[0] != "0"
    assert nearest(vectors[1])[0] != "1"
    store.write([make_write(make_fact("n", "1", 3, COUNT), vectors[1])])
    assert nearest(vectors[1]) == ("1", 3)
    store.close()


def test_small_namespaces_find_their_own_among_thousands_of_points_indexed_or_not(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    store = open_edge_store(tmp_path, MODEL_VERSION, SIZE, PROMPT_WIDTH)
    large = fill(store, rng)
    own = (large[:1_000] + 3 * rng.normal(size=(1_000, SIZE))).astype(np.float32).reshape(100, 10, SIZE)
    for name, vectors in enumerate(own):
        store.write([make_write(make_fact(f"n{name}", str(n), 1, n), vector) for n, vector in enumerate(vectors)])
    units = own / np.linalg.norm(own, axis=-1, keepdims=True)
    for indexed in (0, COUNT + 1_000):
        assert indexed == 0 or store.index() == indexed
        for name in range(0, 100, 5):
            query = large[10 * name]  # far nearer to facts of the large namespace
            matches = store.search(query, namespace=f"n{name}", as_of=NOW, limit=8)
            assert [match.fact.fact_id for match in matches] == [str(n) for n in np.argsort(-units[name] @ query)[:8]]
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
