"""What every backend of the knowledge base must do; one suite for all of them."""

import hashlib
import threading
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone

import numpy as np
import pytest
from numpy.typing import NDArray

from contract.store.backends import Backend
from contract.store.samples import (
    PROMPT_WIDTH,
    VECTOR_SIZE,
    axis,
    make_fact,
    make_write,
    prompt_of,
    same_tokens,
    similar,
    tokens_of,
)
from recipe_common.errors import InvalidArgumentError
from recipe_common.token_states import ROLE_ALIAS, ROLE_ANSWER, ROLE_QUESTION, TokenStates
from recipe_store import CorruptPromptError, CorruptTokensError, DamagedMatch, FactWrite, LogPosition, Match
from recipe_store.filters import Where, in_namespace
from recipe_store.payload import Part, Payload, point_id
from recipe_store.point_store import PointStore
from recipe_store.prompt_codec import MAX_PROMPT_TOKENS, encode_prompt
from recipe_store.token_codec import encode_tokens

NOW = datetime(2025, 6, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)


def near(
    store: PointStore,
    namespace: str,
    vector: NDArray[np.float32] | None = None,
    *,
    as_of: datetime | None = NOW,
    limit: int = 10,
    min_similarity: float | None = None,
) -> list[Match]:
    """What a search finds, by default along the first axis."""
    vector = axis(0) if vector is None else vector
    return store.search(vector, namespace=namespace, as_of=as_of, limit=limit, min_similarity=min_similarity)


def found(store: PointStore, namespace: str, as_of: datetime | None = NOW, limit: int = 10) -> list[str]:
    """Ids of the facts that a vector along all axes finds."""
    matches = near(store, namespace, np.ones(VECTOR_SIZE, np.float32), as_of=as_of, limit=limit)
    return [match.fact.fact_id for match in matches]


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


HALVES = np.array([0x0001, 0x3C01, 0x7BFF, 0x8000, 0xFBFF, 0x03FF, 0x0400, 0x5555], np.uint16).view(np.float16)


def test_search_gives_similarity_fact_tokens_and_prompt_bit_exactly(store: PointStore, namespace: str) -> None:
    prompt = HALVES.reshape(2, PROMPT_WIDTH)
    ids = np.array([0, 30_521, 2**31 - 1], np.int32)
    roles = np.array([ROLE_QUESTION, ROLE_ANSWER, ROLE_ALIAS], np.uint8)
    tokens = TokenStates(ids, roles, np.stack([HALVES, HALVES[::-1], -HALVES]))
    fact = make_fact(namespace, "f", 1, 0)
    store.write([FactWrite(fact, axis(2), tokens, prompt)])
    (match,) = near(store, namespace, axis(2, -1.0))
    assert (match.fact, match.similarity) == (fact, -1.0)
    assert same_tokens(match.tokens, tokens)
    read = store.prompt(match)
    assert read is not None
    assert read.dtype == np.float16
    assert read.shape == prompt.shape
    assert read.tobytes() == prompt.tobytes()
    assert match.prompt_sha256 == hashlib.sha256(prompt.tobytes()).hexdigest()


@pytest.mark.parametrize("length", [1, 17, MAX_PROMPT_TOKENS])
def test_a_prompt_and_a_text_are_as_long_as_they_need_to_be(store: PointStore, namespace: str, length: int) -> None:
    store.write([make_write(make_fact(namespace, "other", 1, 0), axis(1))])
    tokens, prompt = tokens_of(0.5, length), prompt_of(0.25, length)
    store.write([FactWrite(make_fact(namespace, "f", 1, 0), axis(0), tokens, prompt)])
    (match,) = near(store, namespace, min_similarity=0.5)
    assert same_tokens(match.tokens, tokens)
    np.testing.assert_array_equal(store.prompt(match), prompt)


def test_tokens_come_back_the_same_each_time_and_cannot_be_changed(store: PointStore, namespace: str) -> None:
    store.write([make_write(make_fact(namespace, "f", 1, 3))])
    for _ in range(2):
        (match,) = near(store, namespace)
        assert same_tokens(match.tokens, tokens_of(3))
        for part in (match.tokens.ids, match.tokens.roles, match.tokens.states):
            assert not part.flags.writeable


def test_the_prompt_of_a_revision_that_has_been_replaced_is_not_there(store: PointStore, namespace: str) -> None:
    store.write([make_write(make_fact(namespace, "f", 1, 0))])
    (match,) = near(store, namespace)
    store.write([make_write(make_fact(namespace, "f", 2, 1))])
    assert store.prompt(match) is None
    (newest,) = near(store, namespace)
    store.write([make_write(make_fact(namespace, "f", 3, 2, retracted=True))])
    assert store.prompt(newest) is None


def test_similarity_is_the_cosine_however_long_the_vectors(store: PointStore, namespace: str) -> None:
    store.write([make_write(make_fact(namespace, "parallel", 1, 0), axis(0))])
    store.write([make_write(make_fact(namespace, "long", 1, 1), similar(0.6) * 10)])
    matches = near(store, namespace, axis(0) * 2)
    assert [m.fact.fact_id for m in matches] == ["parallel", "long"]
    assert [m.similarity for m in matches] == pytest.approx([1.0, 0.6], abs=1e-6)


def test_a_small_base_is_searched_exactly(store: PointStore, namespace: str) -> None:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(200, VECTOR_SIZE)).astype(np.float32)
    store.write([make_write(make_fact(namespace, str(n), 1, n), vector) for n, vector in enumerate(vectors)])
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    for query in rng.normal(size=(20, VECTOR_SIZE)).astype(np.float32):
        cosines = units @ query / np.linalg.norm(query)
        best = np.argsort(-cosines)[:10]
        matches = near(store, namespace, query)
        assert [m.fact.fact_id for m in matches] == [str(n) for n in best]
        assert [m.similarity for m in matches] == pytest.approx(cosines[best], abs=1e-6)


def test_what_is_less_similar_than_asked_for_is_not_found(store: PointStore, namespace: str) -> None:
    for number, similarity in enumerate((1.0, 0.8, 0.5, 0.0, -0.5)):
        store.write([make_write(make_fact(namespace, str(similarity), 1, number), similar(similarity))])

    def at_least(similarity: float | None) -> list[str]:
        return [match.fact.fact_id for match in near(store, namespace, min_similarity=similarity)]

    assert at_least(None) == at_least(-1.0) == ["1.0", "0.8", "0.5", "0.0", "-0.5"]
    assert at_least(-0.1) == ["1.0", "0.8", "0.5", "0.0"]
    assert at_least(0.49) == ["1.0", "0.8", "0.5"]
    assert at_least(0.51) == ["1.0", "0.8"]
    assert at_least(1.0) == ["1.0"]


def test_where_nothing_is_near_no_payload_is_read(
    store: PointStore, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.write([make_write(make_fact(namespace, "f", 1, 0), similar(0.8))])
    reads: list[int] = []
    find = store._nearest

    def noted(
        vector: NDArray[np.float32], where: Where, limit: int, above: float | None
    ) -> list[tuple[Payload, float]]:
        payloads = find(vector, where, limit, above)
        reads.append(len(payloads))
        return list(payloads)

    monkeypatch.setattr(store, "_nearest", noted)
    monkeypatch.setattr(store, "_fetch", None)
    assert near(store, namespace, min_similarity=0.9) == []
    assert reads == [0]


def test_search_does_not_read_prompts(store: PointStore, namespace: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store.write([make_write(make_fact(namespace, "f", 1, 0))])
    (payload, _), *_ = store._nearest(axis(0), Where(), 1, None)
    assert "data" in payload["tokens"]
    assert set(payload["prompt"]) == {"shape", "dtype", "sha256"}
    for part, present in ((Part.FACT, set()), (Part.WITH_PROMPT, {"prompt"})):
        (payload,) = store._fetch([point_id(namespace, "f")], part).values()
        assert payload.keys() & {"tokens", "prompt"} == present


def test_validity_includes_its_start_and_excludes_its_end(store: PointStore, namespace: str) -> None:
    end = NOW + timedelta(days=1)
    store.write([make_write(make_fact(namespace, "f", 1, 0, valid_from=NOW, valid_until=end))])
    moments = (NOW - MICROSECOND, NOW, end - MICROSECOND, end)
    assert [len(found(store, namespace, as_of)) for as_of in moments] == [0, 1, 1, 0]


def test_facts_that_are_not_valid_take_no_valid_facts_place(store: PointStore, namespace: str) -> None:
    store.write(
        [
            make_write(make_fact(namespace, "expired", 1, 0, valid_until=NOW), similar(0.9)),
            make_write(make_fact(namespace, "not yet", 1, 1, valid_from=NOW + MICROSECOND), similar(0.8)),
            make_write(make_fact(namespace, "retracted", 1, 2, retracted=True)),
            make_write(make_fact(namespace, "valid", 1, 3), axis(0, -1.0)),
        ]
    )
    assert found(store, namespace, limit=1) == ["valid"]


@pytest.mark.parametrize("limit", [1, 3, 8])
def test_many_facts_that_are_not_valid_hide_no_valid_one(store: PointStore, namespace: str, limit: int) -> None:
    expired = [make_fact(namespace, f"expired {n}", 1, n, valid_until=NOW) for n in range(100)]
    to_come = [make_fact(namespace, f"to come {n}", 1, n, valid_from=NOW + MICROSECOND) for n in range(100)]
    store.write([make_write(fact, similar(0.99 - n / 1e4)) for n, fact in enumerate(expired + to_come)])
    gone = [make_fact(namespace, f"gone {n}", 2, n, retracted=True) for n in range(20)]
    store.write([make_write(replace(fact, revision=1, retracted=False), axis(0)) for fact in gone])
    store.write([make_write(fact) for fact in gone])
    valid = [make_fact(namespace, str(n), 1, n, valid_until=NOW + MICROSECOND) for n in range(8)]
    store.write([make_write(fact, similar(0.9 - n / 10)) for n, fact in enumerate(valid)])

    matches = near(store, namespace, limit=limit, min_similarity=0.05)

    assert [match.fact for match in matches] == valid[:limit]
    at_any_time = near(store, namespace, as_of=None, limit=limit)
    assert [match.fact for match in at_any_time] == expired[:limit]


def test_some_facts_that_are_not_valid_among_the_nearest_leave_no_gap(store: PointStore, namespace: str) -> None:
    facts = [make_fact(namespace, str(n), 1, n, valid_until=NOW if n % 2 else None) for n in range(12)]
    store.write([make_write(fact, similar(0.95 - n / 20)) for n, fact in enumerate(facts)])
    assert [match.fact.fact_id for match in near(store, namespace, limit=4)] == ["0", "2", "4", "6"]
    assert [match.fact.fact_id for match in near(store, namespace, limit=9)] == ["0", "2", "4", "6", "8", "10"]


def test_many_facts_of_another_namespace_hide_none(store: PointStore, namespace: str) -> None:
    others = [make_fact(f"{namespace}-other", str(number), 1, number) for number in range(100)]
    store.write([make_write(fact) for fact in others])
    store.write([make_write(make_fact(namespace, "own", 1, 99), similar(0.5))])
    assert found(store, namespace) == ["own"]
    assert found(store, f"{namespace}-none") == []


def test_each_of_many_namespaces_finds_its_own_among_many_points(store: PointStore, namespace: str) -> None:
    rng = np.random.default_rng(0)
    names = [f"{namespace}-{number}" for number in range(30)]
    vectors = rng.normal(size=(len(names), 14, VECTOR_SIZE)).astype(np.float32)
    for start in range(0, len(names), 15):
        part = range(start, start + 15)
        facts = ((name, n) for name in part for n in range(14))
        store.write([make_write(make_fact(names[name], str(n), 1, n), vectors[name, n]) for name, n in facts])
    units = vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
    for name in range(0, len(names), 10):
        query = rng.normal(size=VECTOR_SIZE).astype(np.float32)
        matches = near(store, names[name], query, limit=8)
        assert {match.fact.namespace for match in matches} == {names[name]}
        assert [match.fact.fact_id for match in matches] == [str(n) for n in np.argsort(-units[name] @ query)[:8]]


def test_markers_and_positions_in_the_log_are_never_found(store: PointStore, namespace: str) -> None:
    store.advance([LogPosition(namespace, number, 7) for number in range(50)])
    store.write([make_write(make_fact(namespace, f"new {n}", 1, n, retracted=True)) for n in range(50)])
    store.write([make_write(make_fact(namespace, f"gone {n}", 1, n)) for n in range(50)])
    store.write([make_write(make_fact(namespace, f"gone {n}", 2, n, retracted=True)) for n in range(50)])
    store.write([make_write(make_fact(namespace, "f", 1, 0), axis(0, -1.0))])
    for as_of in (NOW, None):
        assert found(store, namespace, as_of) == ["f"]
        assert near(store, "", as_of=as_of) == []
    assert len(store._nearest(np.ones(VECTOR_SIZE, np.float32), in_namespace(namespace), 10, None)) == 1


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
    payloads = store._fetch([point_id(namespace, fact.fact_id) for fact in changed], Part.WITH_TOKENS)
    scored = [(payload, 1.0) for payload in payloads.values()]
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
        ("shape", [4, 2], r"its shape is \[4, 2\], not \[1 to 256, 4\]"),
        ("shape", [0, 4], r"its shape is \[0, 4\], not \[1 to 256, 4\]"),
        ("shape", [257, 4], r"its shape is \[257, 4\], not \[1 to 256, 4\]"),
        ("shape", [3, 4], "it holds 16 bytes, not 24"),
        ("shape", "all", r"its shape is all, not \[1 to 256, 4\]"),
    ],
)
def test_a_corrupted_prompt_is_refused(
    backend: Backend, namespace: str, field: str, value: object, reason: str
) -> None:
    backend.store.write([make_write(make_fact(namespace, "f", 1, 0))])
    backend.tamper(namespace, "f", {"prompt": {**encode_prompt(prompt_of(0.0)), field: value}})
    with pytest.raises(
        CorruptPromptError, match=f"stored prompt of fact 'f' in namespace '{namespace}' is corrupt: {reason}"
    ):
        read_prompt(backend.store, namespace)


def test_a_missing_prompt_is_refused(backend: Backend, namespace: str) -> None:
    backend.store.write([make_write(make_fact(namespace, "f", 1, 0))])
    backend.tamper(namespace, "f", {"prompt": None})
    with pytest.raises(CorruptPromptError, match="it holds no data"):
        read_prompt(backend.store, namespace)


def read_prompt(store: PointStore, namespace: str) -> None:
    (match,) = near(store, namespace)
    store.prompt(match)


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("data", encode_tokens(tokens_of(2.0))["data"], "its SHA-256 does not match its data"),
        ("data", "AAAA", "it holds 3 bytes, not 63"),
        ("data", "*not base64*", "its data is not base64"),
        ("data", "é", "its data is not base64"),
        ("data", None, "it holds no data"),
        ("sha256", "0" * 64, "its SHA-256 does not match its data"),
        ("sha256", encode_tokens(tokens_of(2.0))["sha256"], "its SHA-256 does not match its data"),
        ("sha256", None, "its SHA-256 does not match its data"),
        ("dtype", "float16", "its dtype is 'float16', not"),
        ("shape", [3, 7], "it holds 63 bytes, not 57"),
        ("shape", [0, 8], r"its shape is \[0, 8\], not \[1 or more, 8\]"),
        ("shape", [4, 8], "it holds 63 bytes, not 84"),
    ],
)
def test_corrupted_tokens_are_refused(backend: Backend, namespace: str, field: str, value: object, reason: str) -> None:
    backend.store.write([make_write(make_fact(namespace, "f", 1, 0))])
    backend.tamper(namespace, "f", {"tokens": {**encode_tokens(tokens_of(0.0)), field: value}})
    with pytest.raises(
        CorruptTokensError, match=f"stored token data of fact 'f' in namespace '{namespace}' .*{reason}"
    ):
        near(backend.store, namespace)


def test_who_asks_for_damaged_facts_gets_the_others_all_the_same(backend: Backend, namespace: str) -> None:
    facts = {name: make_fact(namespace, name, 1, number) for number, name in enumerate("abcd")}
    backend.store.write([make_write(fact) for fact in facts.values()])
    for name in "bd":
        backend.tamper(namespace, name, {"tokens": {**encode_tokens(tokens_of(0.0)), "sha256": "0" * 64}})
    damaged: list[DamagedMatch] = []
    matches = backend.store.search(axis(0), namespace=namespace, as_of=NOW, limit=4, damaged=damaged.append)
    assert {match.fact.fact_id for match in matches} == {"a", "c"}
    assert sorted((each.fact.fact_id, each.similarity) for each in damaged) == [("b", 1.0), ("d", 1.0)]
    assert all(each.fact == facts[each.fact.fact_id] for each in damaged)
    assert {each.error.fact_id for each in damaged} == {"b", "d"}


def test_tokens_that_are_not_there_are_refused_and_can_be_mended(backend: Backend, namespace: str) -> None:
    store = backend.store
    store.write([make_write(make_fact(namespace, "f", 1, 0))])
    backend.tamper(namespace, "f", {"tokens": None})
    with pytest.raises(CorruptTokensError, match="it holds no data"):
        near(store, namespace)
    assert store.get(namespace, "f") is not None
    store.write([make_write(make_fact(namespace, "f", 2, 1))])
    (match,) = near(store, namespace)
    assert same_tokens(match.tokens, tokens_of(1))


def test_the_digest_of_another_facts_tokens_does_not_make_them_this_ones(backend: Backend, namespace: str) -> None:
    store = backend.store
    store.write([make_write(make_fact(namespace, "other", 1, 2)), make_write(make_fact(namespace, "f", 1, 0))])
    near(store, namespace)  # so that the store may have both at hand
    stored = {**encode_tokens(tokens_of(0.0)), "sha256": encode_tokens(tokens_of(2.0))["sha256"]}
    backend.tamper(namespace, "f", {"tokens": stored})
    with pytest.raises(CorruptTokensError, match="its SHA-256 does not match its data"):
        near(store, namespace)


# Which revision stands


def test_a_newer_revision_replaces_vector_tokens_prompt_and_text(store: PointStore, namespace: str) -> None:
    store.write([make_write(make_fact(namespace, "f", 1, 10), axis(0))])
    newer = make_fact(namespace, "f", 2, 3, statement="The capital of Testland is Sample Town.")
    store.write([make_write(newer, axis(1))])
    (match,) = near(store, namespace, axis(1))
    assert (match.fact, match.similarity) == (newer, 1.0)
    assert same_tokens(match.tokens, tokens_of(3))
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
    matches = near(store, namespace, axis(0, -1.0))
    assert [(m.fact.fact_id, m.similarity) for m in matches] == [("live", -1.0)]


def test_writers_and_readers_in_threads_agree_on_the_newest(store: PointStore, namespace: str) -> None:
    facts, revisions = 4, 30
    done = threading.Event()

    def write(part: int) -> None:
        for revision in range(1 + part, revisions + 1, 2):
            store.write([make_write(make_fact(namespace, f"f{n}", revision, revision)) for n in range(facts)])

    def read() -> None:
        while not done.is_set():
            for match in near(store, namespace):
                assert match.similarity == 1.0
                assert same_tokens(match.tokens, tokens_of(match.fact.revision))
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
    fact, gone = make_fact(namespace, "f", 1, 0), make_fact(namespace, "f", 1, 0, retracted=True)
    tokens, prompt = tokens_of(0), prompt_of(0)
    bad = [
        FactWrite(fact, np.ones(VECTOR_SIZE + 1, np.float32), tokens, prompt),
        FactWrite(fact, np.ones(VECTOR_SIZE, np.float64), tokens, prompt),
        FactWrite(fact, np.full(VECTOR_SIZE, np.nan, np.float32), tokens, prompt),
        FactWrite(fact, np.zeros(VECTOR_SIZE, np.float32), tokens, prompt),
        FactWrite(fact, axis(0), tokens, np.zeros((4, PROMPT_WIDTH + 1), np.float16)),
        FactWrite(fact, axis(0), tokens, np.zeros((2, PROMPT_WIDTH), np.float32)),
        FactWrite(fact, axis(0), tokens, np.zeros((0, PROMPT_WIDTH), np.float16)),
        FactWrite(fact, axis(0), tokens, np.zeros((MAX_PROMPT_TOKENS + 1, PROMPT_WIDTH), np.float16)),
        FactWrite(fact, axis(0), tokens, np.zeros(PROMPT_WIDTH, np.float16)),
        FactWrite(fact, None, None, None),
        FactWrite(fact, axis(0), None, prompt),
        FactWrite(gone, axis(0), tokens, prompt),
        FactWrite(gone, None, tokens, None),
        make_write(make_fact(namespace, "f", -1, 0)),
        make_write(make_fact(namespace, "f", 2**63, 0)),
        make_write(make_fact(namespace, "f", 1, -1)),
    ]
    with pytest.raises(InvalidArgumentError) as error:
        store.write([good, *bad])
    assert violated(error) == [
        *(["vector"] * 4 + ["prompt"] * 5 + ["retracted"] * 4),
        *("revision", "revision", "position.offset"),
    ]
    assert store.get(namespace, "good") is None


NO_TOKENS = TokenStates(np.zeros(0, np.int32), np.zeros(0, np.uint8), np.zeros((0, VECTOR_SIZE), np.float16))


@pytest.mark.parametrize(
    ("field", "tokens"),
    [
        ("tokens.ids", replace(tokens_of(0), ids=np.zeros(3, np.int64))),
        ("tokens.roles", replace(tokens_of(0), roles=np.zeros(2, np.uint8))),
        ("tokens.roles", replace(tokens_of(0), roles=np.zeros(3, np.int8))),
        ("tokens.states", replace(tokens_of(0), states=np.zeros((3, VECTOR_SIZE), np.float32))),
        ("tokens.states", replace(tokens_of(0), states=np.zeros((2, VECTOR_SIZE), np.float16))),
        ("tokens.states", tokens_of(np.nan)),
        ("tokens.states", tokens_of(np.inf)),
        ("tokens", NO_TOKENS),
    ],
)
def test_tokens_that_do_not_fit_are_refused(store: PointStore, namespace: str, field: str, tokens: TokenStates) -> None:
    with pytest.raises(InvalidArgumentError) as error:
        store.write([FactWrite(make_fact(namespace, "f", 1, 0), axis(0), tokens, prompt_of(0))])
    assert violated(error) == [field]


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


def test_a_search_that_does_not_fit_is_refused(store: PointStore, namespace: str) -> None:
    infinite = np.full(VECTOR_SIZE, np.inf, np.float32)
    for vector in (np.ones(3, np.float32), infinite, np.zeros(VECTOR_SIZE, np.float32)):
        with pytest.raises(InvalidArgumentError) as error:
            near(store, namespace, vector, limit=0, min_similarity=1.5)
        assert violated(error) == ["vector", "limit", "min_similarity"]
    with pytest.raises(InvalidArgumentError) as error:
        near(store, namespace, min_similarity=float("nan"))
    assert violated(error) == ["min_similarity"]
    with pytest.raises(InvalidArgumentError) as error:
        near(store, namespace, as_of=datetime(2025, 1, 1))
    assert violated(error) == ["as_of"]


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
