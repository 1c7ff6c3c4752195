"""How the calls of a gRPC service end, as a metric."""

from typing import Final

from google.protobuf.descriptor import ServiceDescriptor
from prometheus_client import CollectorRegistry, Counter

# What the services end calls with; see recipe_common.grpc_errors. CANCELLED: the client has gone, or given up waiting.
CODES: Final = (
    "OK",
    "CANCELLED",
    "DATA_LOSS",
    "DEADLINE_EXCEEDED",
    "FAILED_PRECONDITION",
    "INTERNAL",
    "INVALID_ARGUMENT",
    "NOT_FOUND",
    "RESOURCE_EXHAUSTED",
    "UNAVAILABLE",
)


def call_counter(name: str, service: ServiceDescriptor, registry: CollectorRegistry) -> Counter:
    """A counter of the calls to each method by their status code, with all series there from the start."""
    calls = Counter(
        name, "Calls by method and gRPC status code, refused ones too.", ["method", "code"], registry=registry
    )
    for method in service.methods:
        for code in CODES:
            calls.labels(method.name, code)
    return calls
