import asyncio

import pytest

from recipe_common.embedded_broker import claim_port
from recipe_common.grpc_server import build_server
from recipe_common.health_probe import main


def test_the_probe_tells_serving_from_not_serving(capsys: pytest.CaptureFixture[str]) -> None:
    async def scenario() -> tuple[int, int]:
        server = build_server(port=0, port_setting="PORT", service_names=[], register=lambda _: None)
        await server.start()
        address = f"127.0.0.1:{server.port}"
        before = await asyncio.to_thread(main, address)
        await server.set_serving(True)
        after = await asyncio.to_thread(main, address)
        await server.stop(0)
        return before, after

    assert asyncio.run(scenario()) == (1, 0)
    assert capsys.readouterr().err.endswith(": NOT_SERVING\n")


def test_the_probe_says_why_nobody_answers(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(f"127.0.0.1:{claim_port(0)}") == 1
    assert ": UNAVAILABLE: " in capsys.readouterr().err
