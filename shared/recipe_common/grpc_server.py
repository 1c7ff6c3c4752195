"""A grpc.aio server with what every service has: traces, error mapping, health, reflection, a clear bind error."""

from collections.abc import Callable, Sequence
from threading import Event
from typing import Final

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from prometheus_client import Counter

from recipe_common.errors import AddressUnavailableError
from recipe_common.grpc_options import SERVER_OPTIONS
from recipe_common.interceptors import ErrorInterceptor, TracingInterceptor

# A client looks for new servers behind a name only when a connection ends; running calls are not cut off.
CONNECTION_AGE_MS: Final = 60_000


class GrpcServer:
    """A server that is bound but not started. Its health is NOT_SERVING until `set_serving(True)`.

    `port` is the port it is bound to, also when port 0 was asked for.
    """

    def __init__(
        self,
        server: grpc.aio.Server,
        port: int,
        health_servicer: health.aio.HealthServicer,
        names: Sequence[str],
        serving: Event,
    ) -> None:
        self.port = port
        self._server = server
        self._health = health_servicer
        self._names = tuple(names)
        self._serving = serving

    async def start(self) -> None:
        """Accepts calls, with health NOT_SERVING."""
        await self.set_serving(False)
        await self._server.start()

    async def set_serving(self, serving: bool) -> None:
        """Sets the health of every service of this server and of the server as a whole (the empty name).

        While it is not serving, every other call ends with UNAVAILABLE.
        """
        if serving:
            self._serving.set()
        else:
            self._serving.clear()
        response = health_pb2.HealthCheckResponse
        status = response.SERVING if serving else response.NOT_SERVING
        for name in ("", *self._names):
            await self._health.set(name, status)

    async def stop(self, grace_seconds: float) -> None:
        """Drains: health is NOT_SERVING for good, new calls are refused, running ones get `grace_seconds`."""
        await self._health.enter_graceful_shutdown()
        await self._server.stop(grace_seconds)


def build_server(
    *,
    host: str = "127.0.0.1",
    port: int,
    port_setting: str,
    service_names: Sequence[str],
    register: Callable[[grpc.aio.Server], None],
    calls: Counter | None = None,
) -> GrpcServer:
    """Binds a server to `host:port` (0 = any free port); call it in the running event loop.

    `register` adds the servicers; `service_names` are their full names, for health and reflection; `calls` counts
    their calls by method and code, and not those of health and reflection; `port_setting` is the name of the
    setting that chooses the port. Raises AddressUnavailableError, which names it, if the server cannot listen there.
    """
    serving = Event()
    options = [*SERVER_OPTIONS, ("grpc.max_connection_age_ms", CONNECTION_AGE_MS)]
    interceptors = [TracingInterceptor(), ErrorInterceptor(serving.is_set, calls)]
    server = grpc.aio.server(interceptors=interceptors, options=options)
    register(server)
    health_servicer = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(health_servicer, server)
    reflection.enable_server_reflection([*service_names, health.SERVICE_NAME, reflection.SERVICE_NAME], server)
    try:
        bound_port = server.add_insecure_port(f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
    except RuntimeError as error:
        raise AddressUnavailableError(host, port, port_setting) from error
    return GrpcServer(server, bound_port, health_servicer, service_names, serving)
