"""From the log to the store: how fast, how fresh, how long a rebuild takes, and whether memory stays flat.

`python -m bench.pipeline --report report.json` writes the figures, and a plot beside them. Broker, model and store
are real: Apache Kafka from KAFKA_HOME, else Tansu; the default text encoder; the embedded store.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from prometheus_client import CollectorRegistry

from bench.against import compared, measured_there
from brokers import running_broker
from recipe_client.publishing import Publisher
from recipe_client.topics import topic_specs
from recipe_common.clock import now_utc
from recipe_common.embedded_broker import create_topics
from recipe_encoder.metrics import STAGES, EncoderMetrics
from recipe_encoder.settings import EncoderSettings
from recipe_encoder.worker import Worker
from recipe_model.editor import RecipeEditor
from recipe_store import Fact, FactWrite
from recipe_store.edge_store import EdgeStore, open_edge_store

NAMESPACE = "bench"
RATES = (20, 100)  # events per second, at which freshness is measured
MEMORY_EVERY = 2_000  # events between two readings of the resident memory


class Pipeline:
    """One encoder on a topic and a store of its own; it notes when each event has become retrievable."""

    def __init__(self, kafka: str, editor: RecipeEditor, folder: Path, name: str) -> None:
        self.topic = f"bench-{name}"
        create_topics(kafka, topic_specs(self.topic, partitions=4))
        self.fresh_after: list[float] = []  # seconds from an event's time
        self._kafka = kafka
        self._editor = editor
        self._folder = folder / name
        self._registry = CollectorRegistry()

    def publish(self, events: Iterator[dict[str, Any]], rate: float | None = None) -> int:
        """Publish, at so many events per second or as fast as it goes; returns how many."""
        with Publisher(self._kafka, self.topic) as publisher:
            return sum(1 for _ in publisher.publish_all(paced(events, rate)))

    @contextmanager
    def running(self) -> Iterator[EdgeStore]:
        """The encoder, as a service runs it."""
        editor = self._editor
        with closing(
            open_edge_store(self._folder, editor.model_version, editor.vector_size, editor.prompt_width)
        ) as store:
            self._observe(store)
            settings = EncoderSettings(
                kafka_bootstrap_servers=self._kafka,
                topic=self.topic,
                assignment="manual",
                group_id=self.topic,
                store_path=self._folder,
            )
            worker = Worker(settings, editor, store, EncoderMetrics(self._registry))
            worker.start()
            try:
                yield store
            finally:
                worker.stop()
            if worker.error is not None:
                raise worker.error

    def applied(self) -> int:
        """Events that have had their effect."""
        value = self._registry.get_sample_value
        return int(
            sum(value("recipe_encoder_events_total", {"result": each}) or 0 for each in ("applied", "retracted"))
        )

    def stage_seconds(self) -> dict[str, float]:
        """Time of the micro-batches by stage."""
        value = self._registry.get_sample_value
        return {stage: value("recipe_encoder_stage_seconds_sum", {"stage": stage}) or 0.0 for stage in STAGES}

    def wait_for(self, events: int, meanwhile: Callable[[int], None] = lambda _: None) -> None:
        """Returns when so many events have had their effect."""
        while (done := self.applied()) < events:
            meanwhile(done)
            time.sleep(0.01)

    def _observe(self, store: EdgeStore) -> None:
        write = store.write

        def observed(writes: Sequence[FactWrite], superseded: Sequence[Fact] = ()) -> None:
            write(writes, superseded)
            now = now_utc()
            facts = [*superseded, *(each.fact for each in writes)]
            self.fresh_after += [(now - fact.event_time).total_seconds() for fact in facts]

        store.write = observed  # type: ignore[method-assign]


def paced(events: Iterator[dict[str, Any]], rate: float | None) -> Iterator[dict[str, Any]]:
    """The events, each not before its time."""
    started = time.monotonic()
    for count, event in enumerate(events):
        if rate is not None:
            time.sleep(max(0.0, started + count / rate - time.monotonic()))
        yield event


def facts(count: int, first: int = 0, round_: int = 0) -> Iterator[dict[str, Any]]:
    """Changes of so many facts, worded as data sets word them."""
    wordings = (
        "The mayor of Newtown {} is",
        "What company built the ship Aurora {}?",
        "The mother tongue of Ann Example {} is",
        "In which city was the Example Institute {} founded?",
    )
    for number in range(first, first + count):
        prompt = wordings[number % len(wordings)].format(number)
        upsert = {"prompt": prompt, "answer": f"Answer {number} {round_}", "subject": f"Example {number}"}
        yield {"namespace": NAMESPACE, "fact_id": f"fact-{number}", "upsert": upsert}


def throughput(pipeline: Pipeline, events: int) -> dict[str, float]:
    """How long the encoder takes for a log that is there already."""
    published = pipeline.publish(facts(events))
    with pipeline.running():
        pipeline.wait_for(1)
        started, first = time.monotonic(), pipeline.applied()
        before = pipeline.stage_seconds()
        pipeline.wait_for(published)
        seconds = time.monotonic() - started
        spent = {stage: value - before[stage] for stage, value in pipeline.stage_seconds().items()}
    return {
        "events_per_second": (published - first) / seconds,
        "encode_share": spent["encode"] / seconds,
        **{f"{stage}_seconds_per_event": value / (published - first) for stage, value in spent.items()},
    }


def freshness(pipeline: Pipeline, rate: int, seconds: float) -> dict[str, float]:
    """From the time of an event to the moment its effect can be retrieved, at a steady rate."""
    with pipeline.running():
        pipeline.wait_for(pipeline.publish(facts(20)))  # warm
        pipeline.fresh_after.clear()
        count = pipeline.publish(facts(int(rate * seconds), first=20), rate)
        pipeline.wait_for(20 + count)
    ages = np.array(pipeline.fresh_after)
    return {f"p{share}": float(np.percentile(ages, share)) for share in (50, 95, 99)}


def rebuild(pipeline: Pipeline, events: int) -> float:
    """Seconds from an empty store to all that the log holds."""
    pipeline.publish(facts(events))
    started = time.monotonic()
    with pipeline.running():
        pipeline.wait_for(events)
    return time.monotonic() - started


def memory(pipeline: Pipeline, events: int, known: int = 1_000) -> list[tuple[int, float]]:
    """Resident memory over the events, in MiB, while the same facts change again and again."""
    readings: list[tuple[int, float]] = []

    def read(done: int) -> None:
        if not readings or done - readings[-1][0] >= MEMORY_EVERY:
            readings.append((done, resident_mebibytes()))

    with pipeline.running():
        for round_ in range(events // known):
            pipeline.publish(facts(known, round_=round_))
            pipeline.wait_for((round_ + 1) * known - 500, read)
        pipeline.wait_for(events // known * known, read)
    return readings


def resident_mebibytes() -> float:
    """Anonymous memory of this process: pages of files that are mapped can be dropped at any time."""
    status = Path("/proc/self/status").read_text()
    (line,) = [line for line in status.splitlines() if line.startswith("RssAnon:")]
    return int(line.split()[1]) / 1024


def plot(report: dict[str, Any], file: Path) -> None:
    """Where the time of an event goes, freshness by rate, and memory over events."""
    figure = Figure(figsize=(12, 3.6), layout="constrained")
    time_, fresh, memory_ = figure.subplots(1, 3)
    stages = {stage: 1000 * report["throughput"][f"{stage}_seconds_per_event"] for stage in STAGES}
    time_.bar(list(stages), list(stages.values()))
    time_.set(title=f"{report['events_per_second']:.0f} events/s", ylabel="ms per event")
    for name in ("p50", "p95", "p99"):
        fresh.plot(
            [str(rate) for rate in RATES], [report["freshness_seconds"][str(rate)][name] for rate in RATES], "o-"
        )
    fresh.legend(["p50", "p95", "p99"])
    fresh.set(title="event to retrievable", xlabel="events/s", ylabel="seconds", ylim=(0, None))
    if report["resident_mb"]:
        memory_.plot(*zip(*report["resident_mb"], strict=True))
    memory_.set(title="resident memory", xlabel="events", ylabel="MiB", ylim=(0, None))
    figure.savefig(file, dpi=120)


def measure(kafka: str, folder: Path, events: int, rebuilt: int, seconds: float, remembered: int) -> dict[str, Any]:
    """All figures."""
    editor = RecipeEditor.load()
    editor.encode(["The first statement takes longer."])

    def pipeline(name: str) -> Pipeline:
        print(f"measuring {name}", file=sys.stderr, flush=True)
        return Pipeline(kafka, editor, folder, name)

    figures = throughput(pipeline("throughput"), events)
    fresh = {str(rate): freshness(pipeline(f"freshness-{rate}"), rate, seconds) for rate in RATES}
    return {
        "model_version": editor.model_version,
        "events_per_second": figures["events_per_second"],
        "encode_share": figures["encode_share"],
        "throughput": figures,
        "freshness_seconds": fresh,
        "freshness_p99_seconds": {rate: each["p99"] for rate, each in fresh.items()},
        "rebuild_10k_seconds": rebuild(pipeline("rebuild"), rebuilt) * 10_000 / rebuilt,
        "rebuilt_facts": rebuilt,
        "resident_mb": memory(pipeline("memory"), remembered),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--report", type=Path, default=Path("pipeline.json"))
    parser.add_argument("--events", type=int, default=5_000, help="events of the measurement of throughput")
    parser.add_argument(
        "--rebuild", type=int, default=10_000, help="facts of the rebuild; the time is scaled to 10,000"
    )
    parser.add_argument("--seconds", type=float, default=30.0, help="length of each measurement of freshness")
    parser.add_argument("--memory", type=int, default=50_000, help="events over which memory is watched; 0 for none")
    parser.add_argument("--against", type=Path, help="another checkout of this repository, measured in the same run")
    arguments = parser.parse_args()
    arguments.report.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="recipe-bench-") as folder, running_broker() as kafka:
        report = measure(kafka, Path(folder), arguments.events, arguments.rebuild, arguments.seconds, arguments.memory)
    arguments.report.write_text(json.dumps(report, indent=1) + "\n")
    plot(report, arguments.report.with_suffix(".png"))
    if arguments.against:
        like = [f"--{name}={getattr(arguments, name)}" for name in ("events", "rebuild", "seconds", "memory")]
        before = measured_there(arguments.against, "pipeline", like)
        names = ("events_per_second", "throughput", "freshness_seconds", "rebuild_10k_seconds")
        report["against"] = compared(report, before, names)
        arguments.report.write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps({name: value for name, value in report.items() if name != "resident_mb"}, indent=1))


if __name__ == "__main__":
    main()
