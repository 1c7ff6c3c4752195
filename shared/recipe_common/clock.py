"""The current time, and datetimes to and from protobuf. Every datetime here is aware and in UTC."""

from datetime import UTC, datetime

from google.protobuf.timestamp_pb2 import Timestamp

from recipe_common.errors import FieldViolation, InvalidArgumentError


def now_utc() -> datetime:
    """The current time."""
    return datetime.now(UTC)


def to_timestamp(moment: datetime) -> Timestamp:
    """The protobuf form of an aware datetime. Raises ValueError for a naive one."""
    if moment.tzinfo is None:
        raise ValueError(f"the datetime {moment} has no time zone: give it one, for example UTC")
    timestamp = Timestamp()
    timestamp.FromDatetime(moment)
    return timestamp


def from_timestamp(timestamp: Timestamp, field: str) -> datetime:
    """The datetime of a protobuf timestamp, cut to microseconds.

    Raises InvalidArgumentError for `field`, the path of the timestamp in its message, if it is out of range.
    """
    try:
        return timestamp.ToDatetime(tzinfo=UTC)
    except (ValueError, OverflowError) as error:
        violation = FieldViolation(field, "must lie in the years 1 to 9999, with nanos from 0 to 999999999")
        raise InvalidArgumentError([violation]) from error
