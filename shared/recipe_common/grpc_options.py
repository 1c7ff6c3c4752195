"""What both ends of a gRPC connection agree on: message sizes, keepalive and retries."""

import json
from typing import Final

MAX_REQUEST_BYTES: Final = 1 << 20  # texts have at most 32,000 characters, of four bytes at most
MAX_RESPONSE_BYTES: Final = 32 << 20  # a page of facts is the largest answer
_KEEPALIVE_MS: Final = 30_000
_KEEPALIVE_TIMEOUT_MS: Final = 10_000

Options = list[tuple[str, int | str]]

SERVER_OPTIONS: Final[Options] = [
    # Without this one a second server shares the port silently and gets half of the calls.
    ("grpc.so_reuseport", 0),
    ("grpc.max_receive_message_length", MAX_REQUEST_BYTES),
    ("grpc.max_send_message_length", MAX_RESPONSE_BYTES),
    ("grpc.keepalive_time_ms", _KEEPALIVE_MS),
    ("grpc.keepalive_timeout_ms", _KEEPALIVE_TIMEOUT_MS),
    # Else a client's keepalive, sent while a long answer is computed, counts as an attack.
    ("grpc.http2.min_ping_interval_without_data_ms", _KEEPALIVE_MS // 2),
]


def client_options(service: str) -> Options:
    """Options of a channel to a service, by its full name, whose methods all change nothing.

    Only for such a service is it safe to repeat a call that ended with UNAVAILABLE. Two repetitions, within the call's
    deadline, bridge a restart or the way to another replica; gRPC gives them up while most calls fail.
    """
    policy = {
        "maxAttempts": 3,
        "initialBackoff": "0.1s",
        "maxBackoff": "1s",
        "backoffMultiplier": 3,
        "retryableStatusCodes": ["UNAVAILABLE"],
    }
    config = {
        "methodConfig": [{"name": [{"service": service}], "retryPolicy": policy}],
        "retryThrottling": {"maxTokens": 10, "tokenRatio": 0.1},
    }
    return [
        # A name may stand for several servers; without this option all calls would go to one of them.
        ("grpc.lb_policy_name", "round_robin"),
        ("grpc.service_config", json.dumps(config)),
        ("grpc.max_send_message_length", MAX_REQUEST_BYTES),
        ("grpc.max_receive_message_length", MAX_RESPONSE_BYTES),
        ("grpc.keepalive_time_ms", _KEEPALIVE_MS),
        ("grpc.keepalive_timeout_ms", _KEEPALIVE_TIMEOUT_MS),
    ]
