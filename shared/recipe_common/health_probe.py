"""`python -m recipe_common.health_probe HOST:PORT`: exit code 0 if the gRPC server there is serving.

For containers, whose health checks are commands.
"""

import sys

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from recipe_common.grpc_errors import describe_rpc_error

TIMEOUT_SECONDS = 3.0


def main(address: str) -> int:
    """Ask once; says on standard error why the answer is 1."""
    with grpc.insecure_channel(address) as channel:
        try:
            check = health_pb2_grpc.HealthStub(channel).Check  # type: ignore[attr-defined]  # its types lack it
            answer = check(health_pb2.HealthCheckRequest(), timeout=TIMEOUT_SECONDS)
        except grpc.RpcError as error:
            print(f"{address}: {describe_rpc_error(error)}", file=sys.stderr)
            return 1
    if answer.status != health_pb2.HealthCheckResponse.SERVING:
        print(f"{address}: {health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
