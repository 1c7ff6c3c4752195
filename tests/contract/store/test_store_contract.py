"""What every backend of the knowledge base must do; one suite for all of them."""

import hashlib
import math
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from contract.store.backends import Backend
from contract.store.samples import KEY_SIZE, PROMPT_SHAPE, axis, make_fact, make_write, prompt_of
from recipe_common.errors import InvalidArgumentError
from recipe_store import CorruptPromptError, Fact, FactWrite, LogPosition, point_store
from recipe_store.crowd import CROWD_FACTS, CROWD_WIDTH
from recipe_store.filters import Where, in_namespace
from recipe_store.payload import Payload, point_id
from recipe_store.point_store import LEADING_CANDIDATES, Part, PointStore
from recipe_store.prompt_codec import encode_prompt

NOW = datetime(2025, 6, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)


def found(store: PointStore, namespace: str, as_of: datetime = NOW, limit: int = 10) -> list[str]:
    """Ids of the facts that a query along all axes matches."""
    query = np.ones(KEY_SIZE, np.float32)
    return [m.fact.fact_id for m in store.search(query, namespace=namespace, as_of=as_of, limit=limit)]


# Reading


def test_a_written_fact_comes_back_as_it_was(store: PointStore, namespace: str) -> None:
    fact = make_fact(
        namespace, "f", 7, 41, valid_from=NOW, valid_until=NOW + MICROSECOND, labels={"topic": "geography"}
    )
    store.write([make_write(fact)])
    assert store.get(namespace, "f") == fact


def test_a_fact_never_written_is_none(store: PointStore, namespace: str) -> None:
    assert store.get(namespace, "absent") is None


def test_an_empty_namespace_has_no_facts(store: PointStore, namespace: str) -> None:
    assert store.count(namespace) == 0
    assert store.list(namespace, limit=5) == ([], "")
    assert found(store, namespace) == []


def test_an_empty_write_changes_nothing(store: PointStore, namespace: str) -> None:
    store.write([])
    assert store.count(namespace) == 0


def test_unicode_and_long_text_survive(store: PointStore, namespace: str) -> None:
    statement = "Zürich, 東京, \U0001d11e, a\u0301, \x00, \\ \" '\n" + "long " * 20_000
    fact = make_fact(namespace, "id/with:strange ключ", 1, 0, statement=statement, labels={"clé": "değer"})
    store.write([make_write(fact)])
    assert store.get(namespace, "id/with:strange ключ") == fact


def test_times_in_other_zones_come_back_as_the_same_moment_in_utc(store: PointStore, namespace: str) -> None:
    local = datetime(2025, 7, 1, 2, 0, tzinfo=timezone(timedelta(hours=2)))
    store.write([make_write(make_fact(namespace, "f", 1, 0, valid_from=local))])
    fact = store.get(namespace, "f")
    assert fact is not None
    assert fact.valid_from == datetime(2025, 7, 1, tzinfo=UTC)
    assert fact.valid_from.tzinfo is UTC


def test_ids_that_would_run_together_are_two_facts(store: PointStore, namespace: str) -> None:
    store.write([make_write(make_fact(namespace, "a/b", 1, 0)), make_write(make_fact(f"{namespace}/a", "b", 1, 1))])
    assert store.get(namespace, "a/b") == make_fact(namespace, "a/b", 1, 0)
    assert store.get(f"{namespace}/a", "b") == make_fact(f"{namespace}/a", "b", 1, 1)


def test_listing_pages_through_live_and_retracted_facts_once_each(store: PointStore, namespace: str) -> None:
    facts = [make_fact(namespace, f"f{n}", 1, n, retracted=n % 3 == 0) for n in range(7)]
    store.write([make_write(fact) for fact in facts])
    pages, token = [], ""
    while True:
        page, token = store.list(namespace, limit=3, page_token=token)
        pages.append(page)
        if not token:
            break
    assert [len(page) for page in pages] == [3, 3, 1]
    listed = {fact.fact_id: fact for page in pages for fact in page}
    assert listed == {fact.fact_id: fact for fact in facts}


def test_a_last_page_that_is_full_has_no_token(store: PointStore, namespace: str) -> None:
    store.write([make_write(make_fact(namespace, f"f{n}", 1, n)) for n in range(2)])
    page, token = store.list(namespace, limit=2)
    assert (len(page), token) == (2, "")


def test_count_leaves_out_retracted_facts_but_not_expired_ones(store: PointStore, namespace: str) -> None:
    store.write(
        [
            make_write(make_fact(namespace, "live", 1, 0)),
            make_write(make_fact(namespace, "expired", 1, 1, valid_until=NOW - timedelta(days=1))),
            make_write(make_fact(namespace, "retracted", 1, 2, retracted=True)),
        ]
    )
    assert store.count(namespace) == 2


def test_a_namespace_of_retracted_facts_is_empty(store: PointStore, namespace: str) -> None:
    assert store.empty(namespace)
    store.write([make_write(make_fact(namespace, "retracted", 1, 0, retracted=True))])
    assert store.empty(namespace)
    store.write([make_write(make_fact(namespace, "expired", 1, 1, valid_until=NOW - timedelta(days=1)))])
    assert not store.empty(namespace)


def test_namespaces_do_not_see_each_other(store: PointStore, namespace: str) -> None:
    other = f"{namespace}-other"
    store.write([make_write(make_fact(namespace, "f", 1, 0)), make_write(make_fact(other, "g", 1, 1))])
    assert (found(store, namespace), found(store, other)) == (["f"], ["g"])
    assert [fact.fact_id for fact in store.list(namespace, limit=9)[0]] == ["f"]
    assert (store.count(namespace), store.get(namespace, "g")) == (1, None)


# Searching


def test_search_gives_similarity_fact_and_prompt_bit_exactly(store: PointStore, namespace: str) -> None:
    bits = np.array([0x0001, 0x3C01, 0x7BFF, 0x8000, 0xFBFF, 0x03FF, 0x0400, 0x5555], np.uint16)
    prompt = bits.view(np.float16).reshape(PROMPT_SHAPE)
    fact = make_fact(namespace, "f", 1, 0)
    store.write([FactWrite(fact, axis(2, 1.5), prompt)])
    (match,) = store.search(axis(2, -3.0), namespace=namespace, as_of=NOW)
    assert (match.fact, match.similarity) == (fact, -4.5)
    read = store.prompt(match)
    assert read is not None
    assert read.dtype == np.float16
    assert read.shape == PROMPT_SHAPE
    assert read.tobytes() == prompt.tobytes()
    assert match.prompt_sha256 == hashlib.sha256(prompt.tobytes()).hexdigest()


def test_the_prompt_of_a_revision_that_has_been_replaced_is_not_there(store: PointStore, namespace: str) -> None:
    store.write([make_write(make_fact(namespace, "f", 1, 0))])
    (match,) = store.search(axis(0), namespace=namespace, as_of=NOW)
    store.write([make_write(make_fact(namespace, "f", 2, 1))])
    assert store.prompt(match) is None
    (newest,) = store.search(axis(0), namespace=namespace, as_of=NOW)
    store.write([make_write(make_fact(namespace, "f", 3, 2, retracted=True))])
    assert store.prompt(newest) is None


def test_similarity_is_the_inner_product_not_the_cosine(store: PointStore, namespace: str) -> None:
    store.write([make_write(make_fact(namespace, "parallel", 1, 0), axis(0))])
    store.write([make_write(make_fact(namespace, "long", 1, 1), np.full(KEY_SIZE, 10, np.float32))])
    matches = store.search(axis(0, 2.0), namespace=namespace, as_of=NOW, limit=2)
    assert [(m.fact.fact_id, m.similarity) for m in matches] == [("long", 20.0), ("parallel", 2.0)]


def test_a_small_base_is_searched_exactly(store: PointStore, namespace: str) -> None:
    rng = np.random.default_rng(0)
    keys = rng.normal(size=(200, KEY_SIZE)).astype(np.float32)
    store.write([make_write(make_fact(namespace, str(n), 1, n), key) for n, key in enumerate(keys)])
    for query in rng.normal(size=(20, KEY_SIZE)).astype(np.float32):
        best = np.argsort(-(keys @ query))[:10]
        matches = store.search(query, namespace=namespace, as_of=NOW, limit=10)
        assert [m.fact.fact_id for m in matches] == [str(n) for n in best]


# Hitting


def hit(
    store: PointStore, namespace: str, query: NDArray[np.float32], threshold: float, crowd: float = 0.0
) -> str | None:
    """Id of the fact that a query hits."""
    match = store.hit(query, namespace=namespace, as_of=NOW, threshold=threshold, crowd_weight=crowd)
    return None if match is None else match.fact.fact_id


def test_only_a_similarity_strictly_above_the_threshold_hits(store: PointStore, namespace: str) -> None:
    store.write([make_write(make_fact(namespace, "f", 1, 0), axis(0, 2.0))])
    just_below = float(np.nextafter(np.float32(6.0), np.float32(0.0)))
    just_above = float(np.nextafter(np.float32(6.0), np.float32(9.0)))
    hits = [hit(store, namespace, axis(0, 3.0), threshold) for threshold in (just_below, 6.0, just_above)]
    assert hits == ["f", None, None]


def test_the_threshold_may_be_negative_or_zero(store: PointStore, namespace: str) -> None:
    store.write([make_write(make_fact(namespace, "f", 1, 0), axis(0, -1.0))])
    assert [hit(store, namespace, axis(0), threshold) for threshold in (-2.0, -1.0, 0.0)] == ["f", None, None]


def test_a_miss_reads_no_fact(store: PointStore, namespace: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store.write([make_write(make_fact(namespace, "f", 1, 0), axis(5, 200.0))])  # far from the facts of other tests
    reads: list[Sequence[str]] = []
    fetch = store._fetch

    def noted(ids: Sequence[str], part: Part = Part.WITHOUT_PROMPT) -> Mapping[str, Payload]:
        reads.append(ids)
        return fetch(ids, part)

    monkeypatch.setattr(store, "_fetch", noted)
    monkeypatch.setattr(store, "_nearest", None)
    assert [hit(store, namespace, axis(5), threshold, 1.0) for threshold in (200.0, 199.0)] == [None, "f"]
    assert reads == [[point_id(namespace, "f")]]


UNIT = KEY_SIZE**0.5  # of similarities


def stating(namespace: str, fact_id: str, **changes: Any) -> Fact:
    """A fact that states something of its own."""
    return make_fact(namespace, fact_id, 1, 0, statement=f"The state of {fact_id} is unknown.", **changes)


@pytest.mark.parametrize("rivals", [1, 4, CROWD_FACTS - 1, 2 * CROWD_FACTS])
def test_a_fact_in_a_crowd_must_beat_the_threshold_by_more(store: PointStore, namespace: str, rivals: int) -> None:
    facts = [stating(namespace, str(number)) for number in range(rivals + 1)]
    store.write([make_write(facts[0], axis(0, 5.0)), *(make_write(fact, axis(0, 4.5)) for fact in facts[1:])])
    counted = min(rivals, CROWD_FACTS - 1)
    rise = 2.0 * UNIT * math.log(1 + counted * math.exp(-0.5 / UNIT))

    hits = [hit(store, namespace, axis(0), 5.0 - rise + step, 2.0) for step in (-0.01, 0.01)]

    assert hits == ["0", None]
    assert hit(store, namespace, axis(0), 4.99) == "0"  # where a crowd does not matter


def test_what_is_much_less_similar_is_no_crowd(store: PointStore, namespace: str) -> None:
    far = 10.0 - (CROWD_WIDTH + 0.01) * UNIT
    facts = [stating(namespace, str(number)) for number in range(9)]
    store.write([make_write(facts[0], axis(0, 10.0)), *(make_write(fact, axis(0, far)) for fact in facts[1:])])
    assert hit(store, namespace, axis(0), 9.99, 2.0) == "0"


def test_only_facts_that_could_answer_otherwise_are_rivals(store: PointStore, namespace: str) -> None:
    best = stating(namespace, "best")
    others = [
        *(stating(f"{namespace}-other", str(number)) for number in range(3)),
        *(stating(namespace, f"expired {number}", valid_until=NOW) for number in range(3)),
        *(stating(namespace, f"to come {number}", valid_from=NOW + MICROSECOND) for number in range(3)),
        *(replace(best, fact_id=f"the same {number}") for number in range(3)),
    ]
    store.write([make_write(best, axis(0, 5.0)), *(make_write(fact, axis(0, 4.9)) for fact in others)])
    assert hit(store, namespace, axis(0), 4.99, 2.0) == "best"
    store.write([make_write(stating(namespace, "rival"), axis(0, 4.9))])
    assert hit(store, namespace, axis(0), 4.99, 2.0) is None


def test_facts_that_do_not_count_hide_no_rivals(store: PointStore, namespace: str) -> None:
    best = stating(namespace, "best")
    expired = [stating(namespace, f"expired {number}", valid_until=NOW) for number in range(2 * CROWD_FACTS)]
    rivals = [stating(namespace, f"rival {number}") for number in range(2 * CROWD_FACTS)]
    store.write([make_write(best, axis(0, 5.0))])
    store.write([make_write(fact, axis(0, 4.95)) for fact in expired])
    store.write([make_write(fact, axis(0, 4.9)) for fact in rivals])
    rise = 2.0 * UNIT * math.log(1 + (CROWD_FACTS - 1) * math.exp(-0.1 / UNIT))
    assert [hit(store, namespace, axis(0), 5.0 - rise + step, 2.0) for step in (-0.01, 0.01)] == ["best", None]


def test_a_crowd_around_a_fact_that_does_not_count_is_none_of_the_next_one(store: PointStore, namespace: str) -> None:
    expired = [stating(namespace, f"expired {number}", valid_until=NOW) for number in range(4)]
    store.write([make_write(fact, axis(0, 6.0)) for fact in expired])
    store.write([make_write(stating(namespace, "valid"), axis(0, 5.0))])
    assert hit(store, namespace, axis(0), 4.99, 2.0) == "valid"


def test_validity_includes_its_start_and_excludes_its_end(store: PointStore, namespace: str) -> None:
    end = NOW + timedelta(days=1)
    store.write([make_write(make_fact(namespace, "f", 1, 0, valid_from=NOW, valid_until=end))])
    moments = (NOW - MICROSECOND, NOW, end - MICROSECOND, end)
    assert [len(found(store, namespace, as_of)) for as_of in moments] == [0, 1, 1, 0]


def test_facts_that_are_not_valid_take_no_valid_facts_place(store: PointStore, namespace: str) -> None:
    store.write(
        [
            make_write(make_fact(namespace, "expired", 1, 0, valid_until=NOW), axis(0, 4.0)),
            make_write(make_fact(namespace, "not yet", 1, 1, valid_from=NOW + MICROSECOND), axis(0, 3.0)),
            make_write(make_fact(namespace, "retracted", 1, 2, retracted=True)),
            make_write(make_fact(namespace, "valid", 1, 3), axis(0, -1.0)),
        ]
    )
    assert found(store, namespace, limit=1) == ["valid"]


def test_many_facts_that_are_not_valid_hide_no_valid_one(store: PointStore, namespace: str) -> None:
    facts = [make_fact(namespace, str(number), 1, number, valid_until=NOW) for number in range(8)]
    store.write([make_write(fact, axis(0, 4.0)) for fact in facts])
    store.write([make_write(make_fact(namespace, "valid", 1, 99), axis(0, 2.0))])
    assert found(store, namespace, limit=1) == ["valid"]


def test_many_facts_of_another_namespace_hide_none(store: PointStore, namespace: str) -> None:
    others = [make_fact(f"{namespace}-other", str(number), 1, number) for number in range(8)]
    store.write([make_write(fact, axis(0, 4.0)) for fact in others])
    store.write([make_write(make_fact(namespace, "own", 1, 99), axis(0, 2.0))])
    assert found(store, namespace, limit=1) == ["own"]
    assert found(store, f"{namespace}-none", limit=1) == []


@pytest.mark.parametrize("many", [False, True])
def test_only_of_many_points_are_other_namespaces_left_out_first(
    store: PointStore, namespace: str, many: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(point_store, "MANY_POINTS", 1 if many else 1_000_000)
    asked: list[Where | None] = []
    near = store._nearest_by_leading

    def noted(query: NDArray[np.float32], where: Where | None, threshold: float) -> Sequence[tuple[str, float]]:
        asked.append(where)
        return near(query, where, threshold)

    monkeypatch.setattr(store, "_nearest_by_leading", noted)
    store.write([make_write(make_fact(namespace, "mine", 1, 0), axis(0))])
    store.write([make_write(make_fact(f"{namespace}-other", "theirs", 1, 1), axis(0))])

    assert hit(store, namespace, axis(0), 0.5) == "mine"
    assert asked == [in_namespace(namespace) if many else None]


def test_many_near_facts_of_another_namespace_hide_none(store: PointStore, namespace: str) -> None:
    others = [make_fact(f"{namespace}-other", str(number), 1, number) for number in range(2 * LEADING_CANDIDATES)]
    store.write([make_write(fact, axis(0, 2.0)) for fact in others])
    store.write([make_write(make_fact(namespace, "own", 1, 999), axis(0, 1.9))])
    assert hit(store, namespace, axis(0), 1.5) == "own"


def test_points_are_counted_anew_after_a_while(
    store: PointStore, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(point_store, "RECOUNT_SECONDS", 0.0)
    monkeypatch.setattr(point_store, "MANY_POINTS", 1)
    if store._points() == 0:  # a server may hold those of others
        assert not store._holds_many()
    store.write([make_write(make_fact(namespace, "f", 1, 0))])
    assert store._holds_many()


def test_positions_in_the_log_are_no_facts(store: PointStore, namespace: str) -> None:
    store.advance([LogPosition("updates", 0, 7)])
    store.write([make_write(make_fact(namespace, "f", 1, 0), axis(0, -1.0))])
    assert found(store, namespace) == ["f"]


def test_an_open_end_of_validity_has_no_bound(store: PointStore, namespace: str) -> None:
    store.write(
        [
            make_write(make_fact(namespace, "always", 1, 0)),
            make_write(make_fact(namespace, "since", 1, 1, valid_from=NOW)),
            make_write(make_fact(namespace, "until", 1, 2, valid_until=NOW)),
        ]
    )
    long_ago, far_ahead = datetime(1900, 1, 1, tzinfo=UTC), datetime(2200, 1, 1, tzinfo=UTC)
    assert sorted(found(store, namespace, long_ago)) == ["always", "until"]
    assert sorted(found(store, namespace, far_ahead)) == ["always", "since"]


def test_a_fact_that_changes_between_scoring_and_reading_is_no_match(
    store: PointStore, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed = [
        make_fact(namespace, "retracted", 1, 0, retracted=True),
        make_fact(namespace, "expired", 1, 1, valid_until=NOW),
        make_fact(namespace, "not yet", 1, 2, valid_from=NOW + MICROSECOND),
        make_fact(namespace, "still valid", 1, 3, valid_from=NOW, valid_until=NOW + MICROSECOND),
    ]
    store.write([make_write(fact) for fact in changed])
    scored = [(point_id(namespace, fact.fact_id), 1.0) for fact in changed]
    monkeypatch.setattr(store, "_nearest", lambda *_: scored)
    assert found(store, namespace) == ["still valid"]


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("data", encode_prompt(prompt_of(2.0))["data"], "its SHA-256 does not match its data"),
        ("data", "AAAA", "it holds 3 bytes, not 16"),
        ("data", "*not base64*", "its data is not base64"),
        ("sha256", "0" * 64, "its SHA-256 does not match its data"),
        ("dtype", "float32", "its dtype is 'float32', not 'float16'"),
        ("shape", [4, 2], r"its shape is \[4, 2\], not \[2, 4\]"),
    ],
)
def test_a_corrupted_prompt_is_refused(
    backend: Backend, namespace: str, field: str, value: object, reason: str
) -> None:
    backend.store.write([make_write(make_fact(namespace, "f", 1, 0))])
    backend.tamper(namespace, "f", {"prompt": {**encode_prompt(prompt_of(0.0)), field: value}})
    with pytest.raises(CorruptPromptError, match=f"fact 'f' in namespace '{namespace}' is corrupt: {reason}"):
        read_prompt(backend.store, namespace)


def test_a_missing_prompt_is_refused(backend: Backend, namespace: str) -> None:
    backend.store.write([make_write(make_fact(namespace, "f", 1, 0))])
    backend.tamper(namespace, "f", {"prompt": None})
    with pytest.raises(CorruptPromptError, match="it holds no data"):
        read_prompt(backend.store, namespace)


def read_prompt(store: PointStore, namespace: str) -> None:
    (match,) = store.search(axis(0), namespace=namespace, as_of=NOW)
    store.prompt(match)


# Which revision stands


def test_a_newer_revision_replaces_key_prompt_and_text(store: PointStore, namespace: str) -> None:
    store.write([make_write(make_fact(namespace, "f", 1, 10), axis(0))])
    newer = make_fact(namespace, "f", 2, 3, statement="The capital of Testland is Sample Town.")
    store.write([make_write(newer, axis(1))])
    (match,) = store.search(axis(1), namespace=namespace, as_of=NOW)
    assert (match.fact, match.similarity) == (newer, 1.0)
    np.testing.assert_array_equal(store.prompt(match), prompt_of(3))
    assert store.count(namespace) == 1


def test_an_older_revision_is_ignored_wherever_it_stands_in_the_log(store: PointStore, namespace: str) -> None:
    newer = make_fact(namespace, "f", 2, 10)
    store.write([make_write(newer)])
    store.write([make_write(make_fact(namespace, "f", 1, 11), axis(1))])
    assert store.get(namespace, "f") == newer


@pytest.mark.parametrize(("first", "second"), [(5, 6), (6, 5)])
def test_of_one_revision_the_later_in_the_log_wins(store: PointStore, namespace: str, first: int, second: int) -> None:
    store.write([make_write(make_fact(namespace, "f", 1, first))])
    store.write([make_write(make_fact(namespace, "f", 1, second))])
    assert store.get(namespace, "f") == make_fact(namespace, "f", 1, 6)


def test_a_duplicate_changes_nothing(store: PointStore, namespace: str) -> None:
    fact = make_fact(namespace, "f", 1, 5)
    store.write([make_write(fact)])
    store.write([make_write(fact), make_write(fact)])
    store.write([make_write(replace(fact, statement="another text at the same place in the log"))])
    assert store.get(namespace, "f") == fact
    assert store.count(namespace) == 1


@pytest.mark.parametrize("revisions", [(2**53, 2**53 + 1), (2**63 - 2, 2**63 - 1), (2**32 - 1, 2**32)])
def test_large_revisions_are_compared_exactly(store: PointStore, namespace: str, revisions: tuple[int, int]) -> None:
    older, newer = revisions
    store.write([make_write(make_fact(namespace, "f", older, 1))])
    store.write([make_write(make_fact(namespace, "f", newer, 0))])
    store.write([make_write(make_fact(namespace, "f", older, 2))])
    assert store.get(namespace, "f") == make_fact(namespace, "f", newer, 0)


def test_unrevisioned_facts_go_by_the_log(store: PointStore, namespace: str) -> None:
    for offset in (4, 6, 5):
        store.write([make_write(make_fact(namespace, "f", 0, offset))])
    assert store.get(namespace, "f") == make_fact(namespace, "f", 0, 6)


def test_an_unrevisioned_event_takes_over_the_stored_revision(store: PointStore, namespace: str) -> None:
    store.write([make_write(make_fact(namespace, "f", 7, 4))])
    store.write([make_write(make_fact(namespace, "f", 0, 5))])
    assert store.get(namespace, "f") == replace(make_fact(namespace, "f", 0, 5), revision=7)
    store.write([make_write(make_fact(namespace, "f", 6, 6))])
    fact = store.get(namespace, "f")
    assert fact is not None
    assert fact.event_id == "event-0-5"


def test_a_tombstone_retracts_a_revisioned_fact(store: PointStore, namespace: str) -> None:
    store.write([make_write(make_fact(namespace, "f", 7, 4))])
    tombstone = make_fact(namespace, "f", 0, 5, retracted=True)
    store.write([make_write(tombstone)])
    assert store.get(namespace, "f") == replace(tombstone, revision=7)
    assert (found(store, namespace), store.count(namespace)) == ([], 0)


def test_a_replayed_tombstone_does_not_retract_what_came_after_it(store: PointStore, namespace: str) -> None:
    events = [
        make_write(make_fact(namespace, "f", 7, 4)),
        make_write(make_fact(namespace, "f", 0, 5, retracted=True)),
    ]
    store.write([*events, make_write(make_fact(namespace, "f", 8, 6))])
    store.write(events[1:])
    assert store.get(namespace, "f") == make_fact(namespace, "f", 8, 6)


def test_a_tombstone_of_an_unknown_fact_leaves_a_marker(store: PointStore, namespace: str) -> None:
    tombstone = make_fact(namespace, "f", 0, 5, retracted=True)
    store.write([make_write(tombstone)])
    assert store.get(namespace, "f") == tombstone


def test_a_retraction_marker_keeps_a_replayed_older_event_out(store: PointStore, namespace: str) -> None:
    original = make_write(make_fact(namespace, "f", 1, 1))
    retraction = make_fact(namespace, "f", 2, 2, retracted=True)
    store.write([original])
    store.write([make_write(retraction)])
    store.write([original])
    assert store.get(namespace, "f") == retraction
    assert (found(store, namespace), store.count(namespace)) == ([], 0)


def test_a_newer_revision_revives_a_retracted_fact(store: PointStore, namespace: str) -> None:
    store.write([make_write(make_fact(namespace, "f", 2, 2, retracted=True))])
    revived = make_fact(namespace, "f", 3, 3)
    store.write([make_write(revived)])
    assert store.get(namespace, "f") == revived
    assert (found(store, namespace), store.count(namespace)) == (["f"], 1)


# History


def test_the_history_of_a_fact_is_every_revision_newest_first(store: PointStore, namespace: str) -> None:
    facts = [
        make_fact(namespace, "f", 1, 0, statement="old", labels={"a": "b"}),
        make_fact(namespace, "f", 2, 1, statement="new", valid_until=NOW),
        make_fact(namespace, "f", 3, 2, retracted=True),
    ]
    for fact in facts:
        store.write([make_write(fact)])
    assert store.history(namespace, "f") == facts[::-1]


def test_a_fact_never_written_has_no_history(store: PointStore, namespace: str) -> None:
    store.write([make_write(make_fact(namespace, "f", 1, 0))])
    assert store.history(namespace, "g") == []
    assert store.history(f"{namespace}-other", "f") == []


def test_an_event_that_comes_too_late_stands_where_its_revision_belongs(store: PointStore, namespace: str) -> None:
    for revision, offset in ((3, 0), (1, 1), (2, 2)):
        store.write([make_write(make_fact(namespace, "f", revision, offset))])
    assert [fact.revision for fact in store.history(namespace, "f")] == [3, 2, 1]


def test_revisions_of_one_batch_are_all_kept(store: PointStore, namespace: str) -> None:
    facts = [make_fact(namespace, "f", 0, offset) for offset in range(4)]
    store.write([make_write(fact) for fact in facts])
    assert store.history(namespace, "f") == facts[::-1]


def test_what_was_superseded_is_neither_found_nor_listed_nor_counted(store: PointStore, namespace: str) -> None:
    for revision in range(1, 4):
        store.write([make_write(make_fact(namespace, "f", revision, revision))])
    assert found(store, namespace) == ["f"]
    assert [fact.revision for fact in store.list(namespace, limit=10)[0]] == [3]
    assert store.count(namespace) == 1


def test_a_long_history_is_whole(store: PointStore, namespace: str) -> None:
    store.write([make_write(make_fact(namespace, "f", revision, revision)) for revision in range(1, 251)])
    assert [fact.revision for fact in store.history(namespace, "f")] == list(range(250, 0, -1))


# How far the log is applied


def test_the_applied_position_of_a_partition_only_moves_forward(store: PointStore, namespace: str) -> None:
    topic = namespace
    assert store.applied(topic, 0) is None
    store.advance([LogPosition(topic, 0, 4), LogPosition(topic, 0, 7), LogPosition(topic, 1, 2)])
    assert (store.applied(topic, 0), store.applied(topic, 1), store.applied(topic, 2)) == (7, 2, None)
    store.advance([LogPosition(topic, 0, 5), LogPosition(topic, 1, 3)])
    assert (store.applied(topic, 0), store.applied(topic, 1)) == (7, 3)


def test_an_applied_position_is_no_fact(store: PointStore, namespace: str) -> None:
    store.write([make_write(make_fact(namespace, "f", 1, 0))])
    store.advance([LogPosition(namespace, 0, 4)])
    assert found(store, namespace) == ["f"]
    assert store.count("") == 0


def test_a_marker_does_not_match_a_query_that_scores_below_zero(store: PointStore, namespace: str) -> None:
    store.write([make_write(make_fact(namespace, "live", 1, 0), axis(0))])
    store.write([make_write(make_fact(namespace, "gone", 1, 1, retracted=True))])
    matches = store.search(axis(0, -1.0), namespace=namespace, as_of=NOW, limit=5)
    assert [(m.fact.fact_id, m.similarity) for m in matches] == [("live", -1.0)]


def test_writers_and_readers_in_threads_agree_on_the_newest(store: PointStore, namespace: str) -> None:
    facts, revisions = 4, 30
    done = threading.Event()

    def write(part: int) -> None:
        for revision in range(1 + part, revisions + 1, 2):
            store.write([make_write(make_fact(namespace, f"f{n}", revision, revision)) for n in range(facts)])

    def read() -> None:
        while not done.is_set():
            for match in store.search(axis(0), namespace=namespace, as_of=NOW, limit=facts):
                assert match.similarity == 1.0
            store.count(namespace)

    with ThreadPoolExecutor(4) as pool:
        readers = [pool.submit(read) for _ in range(2)]
        writers = [pool.submit(write, part) for part in range(2)]
        wait(writers)
        done.set()
    for work in writers + readers:
        work.result()
    newest = [store.get(namespace, f"f{n}") for n in range(facts)]
    assert newest == [make_fact(namespace, f"f{n}", revisions, revisions) for n in range(facts)]


# What is refused


def violated(error: pytest.ExceptionInfo[InvalidArgumentError]) -> list[str]:
    return [violation.field for violation in error.value.violations]


def test_a_write_that_does_not_fit_is_refused_whole(store: PointStore, namespace: str) -> None:
    good = make_write(make_fact(namespace, "good", 1, 0))
    bad = [
        FactWrite(make_fact(namespace, "f", 1, 0), np.zeros(KEY_SIZE + 1, np.float32), prompt_of(0)),
        FactWrite(make_fact(namespace, "f", 1, 0), np.zeros(KEY_SIZE, np.float64), prompt_of(0)),
        FactWrite(make_fact(namespace, "f", 1, 0), np.full(KEY_SIZE, np.nan, np.float32), prompt_of(0)),
        FactWrite(make_fact(namespace, "f", 1, 0), axis(0), np.zeros((4, 2), np.float16)),
        FactWrite(make_fact(namespace, "f", 1, 0), axis(0), np.zeros(PROMPT_SHAPE, np.float32)),
        FactWrite(make_fact(namespace, "f", 1, 0), None, None),
        FactWrite(make_fact(namespace, "f", 1, 0, retracted=True), axis(0), prompt_of(0)),
        make_write(make_fact(namespace, "f", -1, 0)),
        make_write(make_fact(namespace, "f", 2**63, 0)),
        make_write(make_fact(namespace, "f", 1, -1)),
    ]
    with pytest.raises(InvalidArgumentError) as error:
        store.write([good, *bad])
    assert violated(error) == [
        *("key", "key", "key", "prompt", "prompt", "retracted", "retracted"),
        *("revision", "revision", "position.offset"),
    ]
    assert store.get(namespace, "good") is None


def test_a_time_without_a_zone_is_refused(store: PointStore, namespace: str) -> None:
    fact, naive = make_fact(namespace, "f", 1, 0), datetime(2025, 1, 1)
    faulty = {
        "valid_from": replace(fact, valid_from=naive),
        "valid_until": replace(fact, valid_until=naive),
        "event_time": replace(fact, event_time=naive),
    }
    for field, fact in faulty.items():
        with pytest.raises(InvalidArgumentError) as error:
            store.write([make_write(fact)])
        assert violated(error) == [field]


def test_a_query_that_does_not_fit_is_refused(store: PointStore, namespace: str) -> None:
    for query in (np.zeros(3, np.float32), np.full(KEY_SIZE, np.inf, np.float32)):
        with pytest.raises(InvalidArgumentError) as error:
            store.search(query, namespace=namespace, as_of=NOW, limit=0)
        assert violated(error) == ["query", "limit"]
    with pytest.raises(InvalidArgumentError) as error:
        store.search(axis(0), namespace=namespace, as_of=datetime(2025, 1, 1))
    assert violated(error) == ["as_of"]
    with pytest.raises(InvalidArgumentError) as error:
        store.hit(axis(0), namespace=namespace, as_of=datetime(2025, 1, 1), threshold=0.0, crowd_weight=0.0)
    assert violated(error) == ["as_of"]
    with pytest.raises(InvalidArgumentError) as error:
        store.hit(np.zeros(3, np.float32), namespace=namespace, as_of=NOW, threshold=0.0, crowd_weight=0.0)
    assert violated(error) == ["query"]


def test_a_page_that_does_not_exist_is_refused(store: PointStore, namespace: str) -> None:
    with pytest.raises(InvalidArgumentError) as error:
        store.list(namespace, limit=0)
    assert violated(error) == ["limit"]
    with pytest.raises(InvalidArgumentError) as error:
        store.list(namespace, limit=1, page_token="page 2")
    assert violated(error) == ["page_token"]


def test_point_ids_never_change() -> None:
    # Another id would orphan every fact stored so far.
    assert point_id("world", "capital-of-testland") == "f5f8c118-3698-5fbd-9b84-073d20c33058"
