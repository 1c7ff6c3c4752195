"""The `/metrics` endpoint of a service."""

from threading import Thread
from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, start_http_server

from recipe_common.errors import AddressUnavailableError


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
    registry: CollectorRegistry, *, host: str = "127.0.0.1", port: int, port_setting: str
) -> MetricsServer:
    """Serves the metrics of `registry` to Prometheus.

    `port_setting` is the name of the setting that chooses the port. Raises AddressUnavailableError, which
    names it, if the server cannot listen there.
    """
    try:
        server, thread = start_http_server(port, addr=host, registry=registry)
    except OSError as error:
        raise AddressUnavailableError(host, port, port_setting) from error
    return MetricsServer(server, thread)
