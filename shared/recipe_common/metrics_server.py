"""The `/metrics` endpoint of a service, and `/ready` of one that has no gRPC health."""

from collections.abc import Callable, Iterable
from threading import Thread
from typing import TYPE_CHECKING
from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, ProcessCollector, make_wsgi_app, start_http_server

from recipe_common.errors import AddressUnavailableError

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

NotReady = Callable[[], str | None]


class MetricsServer:
    """An HTTP server in a thread of its own.

    `port` is the port it is bound to, also when port 0 was asked for.
    """

    def __init__(self, server: WSGIServer, thread: Thread) -> None:
        self.port = server.server_port
        self._server = server
        self._thread = thread

    def stop(self) -> None:
        """Closes the port and waits for the thread to end."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def start_metrics_server(
    registry: CollectorRegistry,
    *,
    host: str = "127.0.0.1",
    port: int,
    port_setting: str,
    not_ready: NotReady | None = None,
) -> MetricsServer:
    """Serves the metrics of `registry`, with those of this process, and `/ready` to probes if `not_ready` is given.

    `not_ready` says what keeps the service from doing its work, None if nothing does: 503 with that text, or 200.
    It is called in a thread of the server. `port_setting` is the name of the setting that chooses the port. Raises
    AddressUnavailableError, which names it, if the server cannot listen there.
    """
    try:
        server, thread = start_http_server(port, addr=host, registry=registry)
    except OSError as error:
        raise AddressUnavailableError(host, port, port_setting) from error
    ProcessCollector(registry=registry)
    if not_ready is not None:
        server.set_app(_with_readiness(make_wsgi_app(registry), not_ready))
    return MetricsServer(server, thread)


def _with_readiness(metrics: "WSGIApplication", not_ready: NotReady) -> "WSGIApplication":
    def app(environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        if environ["PATH_INFO"] != "/ready":
            return metrics(environ, start_response)
        reason = not_ready()
        status = "200 OK" if reason is None else "503 Service Unavailable"
        start_response(status, [("Content-Type", "text/plain; charset=utf-8"), ("Cache-Control", "no-store")])
        return [f"{reason or 'ready'}\n".encode()]

    return app
