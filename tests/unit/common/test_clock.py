from datetime import UTC, datetime, timedelta, timezone

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st

from recipe_common.clock import from_timestamp, now_utc, to_timestamp
from recipe_common.errors import FieldViolation, InvalidArgumentError


def test_now_is_in_utc() -> None:
    before = datetime.now(UTC)
    now = now_utc()
    assert before <= now <= datetime.now(UTC)
    assert now.tzinfo is UTC


@given(st.datetimes(timezones=st.just(UTC)))
def test_timestamp_round_trip(moment: datetime) -> None:
    assert from_timestamp(to_timestamp(moment), "as_of") == moment


def test_other_time_zones_become_utc() -> None:
    moment = datetime(2026, 1, 2, 1, 30, 0, 250_000, tzinfo=timezone(timedelta(hours=2)))
    timestamp = to_timestamp(moment)
    assert (timestamp.seconds, timestamp.nanos) == (1_767_310_200, 250_000_000)
    assert from_timestamp(timestamp, "as_of") == datetime(2026, 1, 1, 23, 30, 0, 250_000, tzinfo=UTC)
    assert from_timestamp(timestamp, "as_of").tzinfo is UTC


def test_nanoseconds_are_cut_to_microseconds() -> None:
    assert from_timestamp(Timestamp(nanos=1_999), "as_of") == datetime(1970, 1, 1, 0, 0, 0, 1, tzinfo=UTC)


def test_naive_datetime_is_refused() -> None:
    with pytest.raises(ValueError, match="has no time zone"):
        to_timestamp(datetime(2026, 1, 1))


@pytest.mark.parametrize(
    "timestamp",
    [
        Timestamp(seconds=253_402_300_800),
        Timestamp(seconds=-62_135_596_801),
        Timestamp(seconds=2**63 - 1),
        Timestamp(nanos=-1),
        Timestamp(nanos=1_000_000_000),
    ],
)
def test_timestamp_out_of_range_names_its_field(timestamp: Timestamp) -> None:
    with pytest.raises(InvalidArgumentError) as raised:
        from_timestamp(timestamp, "upsert.valid_from")
    assert raised.value.violations == (
        FieldViolation("upsert.valid_from", "must lie in the years 1 to 9999, with nanos from 0 to 999999999"),
    )
