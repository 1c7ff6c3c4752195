"""The topics must exist before anything is read or written.

An encoder never creates them: a misspelt name would make an empty topic with the broker's defaults and go
unnoticed. kafka-python's `allow_auto_create_topics` does not prevent that (3.0.12 ignores it), so the
topics are looked up first, in a way that creates nothing.
"""

import time
from collections.abc import Sequence
from typing import Final

from kafka import KafkaAdminClient

from recipe_common.errors import UnavailableError

_POLL_SECONDS: Final = 0.2


class MissingTopicError(UnavailableError):
    """A topic does not exist."""

    def __init__(self, topic: str) -> None:
        super().__init__(f"the topic {topic!r} does not exist; create it or correct its name")
        self.topic = topic


def await_topics(bootstrap_servers: str, topics: Sequence[str], timeout_seconds: float) -> None:
    """Returns when all topics exist, and raises MissingTopicError for one that does not in time.

    Raises kafka.errors.KafkaError if no broker answers.
    """
    deadline = time.monotonic() + timeout_seconds
    with KafkaAdminClient(bootstrap_servers=bootstrap_servers) as admin:
        while missing := [topic for topic in topics if topic not in admin.list_topics()]:
            if time.monotonic() > deadline:
                raise MissingTopicError(missing[0])
            time.sleep(_POLL_SECONDS)
