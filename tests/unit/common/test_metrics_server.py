import socket
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
from prometheus_client import CollectorRegistry, Counter, Histogram

from recipe_common.errors import AddressUnavailableError
from recipe_common.metrics_server import start_metrics_server


def test_serves_the_registry_until_stopped() -> None:
    registry = CollectorRegistry()
    Counter("facts", "Facts seen.", registry=registry).inc(3)
    server = start_metrics_server(registry, port=0, port_setting="PORT")
    with urlopen(f"http://127.0.0.1:{server.port}/metrics") as response:
        lines = response.read().decode().splitlines()
    assert "facts_total 3.0" in lines
    assert any(line.startswith("process_resident_memory_bytes ") for line in lines)
    server.stop()
    with socket.create_server(("127.0.0.1", server.port)):
        pass


def test_who_asks_for_openmetrics_gets_exemplars() -> None:
    registry = CollectorRegistry()
    seconds = Histogram("some_seconds", "Some.", buckets=(1,), registry=registry)
    seconds.observe(0.5, {"trace_id": "0af7651916cd43dd8448eb211c80319c"})
    server = start_metrics_server(registry, port=0, port_setting="PORT", not_ready=lambda: None)
    request = Request(f"http://127.0.0.1:{server.port}/metrics", headers={"Accept": "application/openmetrics-text"})
    with urlopen(request) as response:
        kind, lines = response.headers["Content-Type"], response.read().decode().splitlines()
    server.stop()
    assert kind.startswith("application/openmetrics-text; version=1.")
    (bucket,) = [line for line in lines if line.startswith('some_seconds_bucket{le="1.0"}')]
    assert bucket.startswith('some_seconds_bucket{le="1.0"} 1.0 # {trace_id="0af7651916cd43dd8448eb211c80319c"} 0.5 ')
    assert lines[-1] == "# EOF"


def test_readiness_is_a_status_with_its_reason() -> None:
    reasons: list[str | None] = [None, "partition 3 is stuck"]
    registry = CollectorRegistry()
    Counter("facts", "Facts seen.", registry=registry)
    server = start_metrics_server(registry, port=0, port_setting="PORT", not_ready=lambda: reasons.pop(0))
    url = f"http://127.0.0.1:{server.port}"
    with urlopen(f"{url}/ready") as response:
        assert (response.status, response.read()) == (200, b"ready\n")
    with pytest.raises(HTTPError) as raised:
        urlopen(f"{url}/ready")
    with raised.value as error:
        assert (error.status, error.read()) == (503, b"partition 3 is stuck\n")
    with urlopen(f"{url}/metrics") as response:
        assert b"facts_total 0.0" in response.read()
    server.stop()


def test_taken_port_is_named_together_with_its_setting() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(AddressUnavailableError) as raised:
            start_metrics_server(CollectorRegistry(), port=port, port_setting="RECIPE_ENCODER_METRICS_PORT")
    assert str(raised.value) == (
        f"cannot listen on 127.0.0.1:{port}: the port is taken or not this machine's to use; "
        "set RECIPE_ENCODER_METRICS_PORT to a free port"
    )
