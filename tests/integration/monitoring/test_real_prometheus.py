"""Prometheus itself with the shipped rules, against running services with small models, through good times and bad.

Its clock is 60 times as fast: what is an hour in the rules is a minute here. RECIPE_OVERVIEW_PNG names a file to
draw the overview's panels to.
"""

import json
import math
import os
import re
import shutil
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest
from kafka import KafkaProducer
from prometheus_client import CollectorRegistry

from brokers import Topics, broker_kind
from encoder_harness import OutageStore
from generation_harness import MODEL_VERSION
from monitoring import PROMETHEUS, alerts, dashboards, expressions
from recipe_client.canary import Canary, CanaryMetrics, fly_until
from recipe_client.client import RecipeClient
from recipe_client.publishing import Publisher
from recipe_common.embedded_broker import TiedProcess, claim_port
from recipe_common.metrics_server import start_metrics_server
from recipe_encoder.metrics import EncoderMetrics
from recipe_encoder.settings import EncoderSettings
from recipe_encoder.worker import Worker
from recipe_store.edge_store import open_edge_store
from small_deployment import PROMPT_WIDTH, VECTOR_SIZE, Editor, answering, in_background
from tracing import Spans, trace_of
from waiting import wait_for

SPEED = 60
NORMAL_SECONDS = 80  # more than the baseline's hour
BASELINE_SAMPLES = 10
LATE_EVENTS, LATE_SECONDS = 60, 5  # in the outage; later than what is promised
PAUSE_SECONDS = 0.2  # between two questions

# Of each service one that names traces.
DURATIONS = [
    "recipe_encoder_freshness_seconds",
    "recipe_retriever_stage_seconds",
    "recipe_generator_first_token_seconds",
    "recipe_canary_round_trip_seconds",
]

Samples = list[tuple[float, float]]

pytestmark = pytest.mark.skipif(
    shutil.which("prometheus") is None, reason="prometheus is not on PATH; Debian's package of that name has it"
)


class Prometheus:
    """A running Prometheus."""

    def __init__(self, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}"

    def is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self._url}/-/ready") as response:
                return bool(response.status == 200)
        except OSError:
            return False

    def get(self, path: str, **parameters: object) -> Any:
        with urllib.request.urlopen(f"{self._url}/api/v1/{path}?{urllib.parse.urlencode(parameters)}") as response:
            return json.load(response)["data"]

    def value(self, expression: str) -> float:
        """The only value of an expression now, 0 if there is none."""
        found = self.get("query", query=expression)["result"]
        return float(found[0]["value"][1]) if found else 0.0

    def series(self, expression: str, begin: float) -> dict[str, Samples]:
        """What a panel shows: numbers since `begin` by their labels."""
        expression = expression.replace("$__rate_interval", "5s")
        found = self.get("query_range", query=expression, start=begin, end=time.time(), step=1)["result"]
        named = {labels(each["metric"]): each["values"] for each in found}
        numbers = {name: [(at, float(value)) for at, value in values] for name, values in named.items()}
        finite = {name: [each for each in values if math.isfinite(each[1])] for name, values in numbers.items()}
        return {name: values for name, values in finite.items() if values}

    def exemplars(self, series: str, begin: float) -> set[str]:
        """The traces that the samples of a series name since `begin`."""
        found = self.get("query_exemplars", query=series, start=begin, end=time.time())
        return {exemplar["labels"]["trace_id"] for each in found for exemplar in each["exemplars"]}

    def raised(self) -> set[str]:
        """The alerts that are pending or firing, but for those about this machine's speed and about what its LLM says.

        A tiny LLM of random weights never says what was published.
        """
        raised = [alert["labels"] for alert in self.get("alerts")["alerts"]]
        return {labels["alertname"] for labels in raised if labels.get("slo") not in ("retrieval", "stated")}


def labels(metric: dict[str, str]) -> str:
    """The values of a series' labels."""
    return ", ".join(value for label, value in metric.items() if label != "__name__") or "all"


def faster(text: str) -> str:
    """Rules and configuration with every duration shortened, to a second at least."""
    unit = {"s": 1, "m": 60, "h": 3600, "d": 86400}

    def shorten(match: re.Match[str]) -> str:
        return f"{max(1, int(match[1]) * unit[match[2]] // SPEED)}s"

    return re.sub(r"(?<=[\[ ])(\d+)([smhd])(?=[\])\s]|$)", shorten, text)


@contextmanager
def prometheus(folder: Path, targets: dict[str, int]) -> Iterator[Prometheus]:
    """The shipped configuration in `folder`, run on the ports at which each job is here."""
    port = claim_port(0)
    (folder / "rules").mkdir()
    for path in (PROMETHEUS / "rules").glob("*.yml"):
        text = faster(path.read_text()).replace(">= 720", f">= {BASELINE_SAMPLES}")
        (folder / "rules" / path.name).write_text(text)
    configuration = faster((PROMETHEUS / "prometheus.yml").read_text())
    for job, here in ({"127.0.0.1": port} | targets).items():
        configuration, replaced = re.subn(rf'"{job}:\d+"', f'"127.0.0.1:{here}"', configuration)
        assert replaced == 1
    (folder / "prometheus.yml").write_text(configuration)
    command = [
        "prometheus",
        f"--config.file={folder}/prometheus.yml",
        f"--storage.tsdb.path={folder}/data",
        f"--web.listen-address=127.0.0.1:{port}",
        "--enable-feature=exemplar-storage",
        "--log.level=warn",
    ]
    process = TiedProcess(command, dict(os.environ))
    try:
        running = Prometheus(port)
        wait_for(running.is_ready, "Prometheus")
        yield running
    finally:
        process.stop(5.0)


class Deployment:
    """All services, with their knobs."""

    def __init__(self, publisher: Publisher, client: RecipeClient, outage: OutageStore, poison: Any) -> None:
        self.outage = outage
        self.poison: Callable[[], None] = poison
        self._publisher = publisher
        self._client = client
        self.metrics_ports: dict[str, int] = {}

    def publish(self) -> None:
        """A fact that every known question is about."""
        self._publisher.publish({"fact_id": "f", "upsert": {"statement": "The river of Aville is Dee"}})

    def ask(self, question: str) -> None:
        self._client.ask(question, max_new_tokens=4)


@pytest.fixture
def deployment(broker: str, topics: Topics, tmp_path: Path) -> Iterator[Deployment]:
    store = open_edge_store(tmp_path / "store", MODEL_VERSION, VECTOR_SIZE, PROMPT_WIDTH)
    outage: Any = OutageStore(store)
    settings = EncoderSettings(
        kafka_bootstrap_servers=broker,
        topic=topics.updates,
        assignment="manual" if broker_kind() == "tansu" else "group",
        retry_max_seconds=1,
        store_path=Path("unused"),
    )
    encoded, flown, stop = CollectorRegistry(), CollectorRegistry(), Event()
    worker = Worker(settings, Editor(), outage, EncoderMetrics(encoded))
    producer = KafkaProducer(bootstrap_servers=broker)
    with (
        in_background(answering(store)) as (retriever, generator_, address),
        Publisher(broker, topics.updates) as publisher,
        RecipeClient(generator=address, timeout_seconds=3) as client,
    ):
        made = Deployment(publisher, client, outage, lambda: producer.send(topics.updates, b"a/b", b"nonsense").get(9))
        canary = Canary(publisher, client, CanaryMetrics(flown), "canary")
        servers = [start_metrics_server(registry, port=0, port_setting="PORT") for registry in (encoded, flown)]
        ports = (servers[0].port, retriever.metrics_port, generator_.metrics_port, servers[1].port)
        made.metrics_ports = dict(zip(("encoder", "retriever", "generator", "canary"), ports, strict=True))
        flying = Thread(target=fly_until, args=(stop, canary, 1.0))
        worker.start()
        flying.start()
        try:
            yield made
        finally:
            stop.set()
            outage.is_down = False
            flying.join()
            worker.stop(30)
            producer.close(timeout=5)
            for server in servers:
                server.stop()
    store.close()


def use(deployment: Deployment, questions: Sequence[str], until: Callable[[], bool]) -> None:
    """Asks the questions again and again."""
    deadline = time.monotonic() + NORMAL_SECONDS * 2
    while not until():
        assert time.monotonic() < deadline, "what was waited for did not happen"
        for question in questions:
            deployment.ask(question)
            time.sleep(PAUSE_SECONDS)


KNOWN, UNKNOWN = "The river of Aville is", "The unknown river of Beton is"
USUAL = [KNOWN, KNOWN, KNOWN, UNKNOWN]


def test_dashboards_show_and_alerts_tell_what_happens(spans: Spans, deployment: Deployment, tmp_path: Path) -> None:
    with prometheus(tmp_path, deployment.metrics_ports) as watching:
        wait_for(lambda: watching.value("sum(up)") == 5, "all to be scraped")
        begin = time.time()
        deployment.publish()

        normal_until = time.monotonic() + NORMAL_SECONDS
        use(deployment, USUAL, lambda: time.monotonic() > normal_until)
        assert watching.raised() == set()

        deployment.poison()
        use(deployment, USUAL, lambda: "RecipeDeadLetters" in watching.raised())

        deployment.outage.is_down = True
        for _ in range(LATE_EVENTS):
            deployment.publish()
        late = time.monotonic() + LATE_SECONDS
        use(deployment, USUAL, lambda: time.monotonic() > late and "RecipeEncoderPaused" in watching.raised())
        deployment.outage.is_down = False
        use(deployment, USUAL, lambda: "RecipeErrorBudgetBurnsFast" in watching.raised())
        assert not {"RecipeServiceDown", "RecipeModelVersionsDiffer"} & watching.raised()

        use(deployment, [UNKNOWN], lambda: "RecipeHitShareDrifts" in watching.raised())

        assert {each for each in expressions() if not watching.series(each, begin)} == set()
        assert watching.raised() <= alerts().keys()
        traces = {f"{trace_of(span):032x}" for span in spans.all()}
        for series in DURATIONS:
            named = watching.exemplars(f"{series}_bucket", begin)
            assert named
            assert named <= traces
        draw_overview(watching, begin, Path(os.environ.get("RECIPE_OVERVIEW_PNG", tmp_path / "overview.png")))


def draw_overview(watching: Prometheus, begin: float, path: Path) -> None:
    """The panels of the overview as Grafana would lay them out, more or less."""
    import matplotlib as mpl  # noqa: PLC0415 (seconds, and only here)

    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415

    panels = [panel for panel in dashboards()["overview"]["panels"] if panel["type"] != "row"]
    columns = 3
    figure, axes = plt.subplots(math.ceil(len(panels) / columns), columns, figsize=(15, 14), layout="constrained")
    for axis in axes.flat[len(panels) :]:
        axis.remove()
    for axis, panel in zip(axes.flat, panels, strict=False):
        for target in panel["targets"]:
            for named, samples in watching.series(target["expr"], begin).items():
                label = named if named != "all" else target["legendFormat"]
                axis.plot([at - begin for at, _ in samples], [value for _, value in samples], label=label)
        axis.set_title(f"{panel['title']} ({panel['fieldConfig']['defaults']['unit']})", fontsize=10)
        axis.legend(fontsize=6)
        axis.grid(alpha=0.3)
    figure.savefig(path, dpi=70)
    plt.close(figure)
