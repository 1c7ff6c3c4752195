"""Health checks of a server from a process of its own, whose event loop nothing else delays.

`python -m bench.health_probe ADDRESS` checks until its input ends, and then prints how long each check took, in ms.
"""

import json
import sys
import threading
import time

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

EVERY_SECONDS = 0.05


def main() -> None:
    """Check, one after the other; a line of `ready` follows the first check, which is not counted."""
    ended = threading.Event()

    def wait() -> None:
        sys.stdin.read()
        ended.set()

    threading.Thread(target=wait, daemon=True).start()
    with grpc.insecure_channel(sys.argv[1]) as channel:
        check = health_pb2_grpc.HealthStub(channel).Check  # type: ignore[attr-defined]  # its types lack it
        check(health_pb2.HealthCheckRequest(), wait_for_ready=True)
        print("ready", flush=True)
        milliseconds = []
        while not ended.wait(EVERY_SECONDS):
            begun = time.perf_counter()
            check(health_pb2.HealthCheckRequest())
            milliseconds.append(1000 * (time.perf_counter() - begun))
    print(json.dumps(milliseconds), flush=True)


if __name__ == "__main__":
    main()
