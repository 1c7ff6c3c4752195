"""Retrieval under load: latency by stage, against other ways to search, growth, memory.

`python -m bench.retrieval --report retrieval.json` writes the figures, and a plot beside them. The retrievers run in
one process and the clients in another, on the same machine; stores are the embedded engine. Compare figures of one run
only.
"""

import argparse
import asyncio
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final

import grpc
import numpy as np
import psutil
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from matplotlib.figure import Figure
from prometheus_client.parser import text_string_to_metric_families

from bench.against import compared, measured_there
from bench.base_of_facts import MISSES, MIXED, NAMESPACE, statements
from bench.served_bases import ENCODED, WRITES_PER_SECOND, serve
from recipe_protos.retriever.v1 import retriever_pb2 as pb
from recipe_protos.retriever.v1 import retriever_pb2_grpc

SIZES: Final = (1_000, 10_000, 100_000)
CLIENTS: Final = (1, 8, 32)
STAGES: Final = ("queue", "encode", "search", "verify", "fetch", "count")
CALL: Final = "recipe_protos.retriever.v1.RetrieverService.Retrieve"
AGREEMENT_TURNS: Final = 4
MEBIBYTE: Final = 1 << 20
# What a service has loaded when it is ready, without its broker, server of vectors, and traffic.
SERVICES: Final = {
    "retriever": "import recipe_retriever.__main__\nfrom recipe_model.editor import QueryEncoder\n"
    "loaded = QueryEncoder.load()\nloaded.query(['Is it warm?'])",
    "encoder": "import recipe_encoder.__main__\nfrom recipe_model.editor import RecipeEditor\n"
    "loaded = RecipeEditor.load()\nloaded.encode(['It is warm.'])",
    "generator": "import recipe_generator.__main__\nfrom recipe_generator.server import load_engine\n"
    "from recipe_generator.settings import GeneratorSettings\nloaded = load_engine(GeneratorSettings())",
}
UP: Final = "from recipe_client.cli import main\nmain()"

Milliseconds = list[float]


class Served:
    """One base behind its retriever."""

    def __init__(self, pipe: Connection, size: int, ports: tuple[int, int]) -> None:
        self.size = size
        self.address = f"127.0.0.1:{ports[0]}"
        self._metrics = f"http://127.0.0.1:{ports[1]}/metrics"
        self._pipe = pipe

    @contextmanager
    def written(self, on: bool) -> Iterator[None]:
        """While facts are replaced, if `on`."""
        if not on:
            yield
            return
        self._tell(self.size)
        try:
            yield
        finally:
            self._tell("stop")

    def stages(self) -> dict[str, tuple[float, float]]:
        """Seconds and retrievals by stage, since the start."""
        with urllib.request.urlopen(self._metrics) as response:
            text = response.read().decode()
        found: dict[str, dict[str, float]] = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples if family.name == "recipe_retriever_stage_seconds" else ():
                found.setdefault(sample.labels["stage"], {})[sample.name.rpartition("_")[2]] = sample.value
        return {stage: (values["sum"], values["count"]) for stage, values in found.items()}

    def _tell(self, what: object) -> None:
        self._pipe.send(what)
        self._pipe.recv()


class Load:
    """What some clients measured, in several turns."""

    def __init__(self) -> None:
        self.ms: Milliseconds = []
        self.seconds = 0.0
        self._spent = dict.fromkeys((*STAGES, "total"), 0.0)

    def run(self, served: Served, clients: int, seconds: float, *, written: bool) -> None:
        """One more turn."""
        with served.written(written):
            before = served.stages()
            begun = time.monotonic()
            self.ms += asyncio.run(ask(served.address, clients, seconds))
            self.seconds += time.monotonic() - begun
            for stage, (spent, _) in served.stages().items():
                self._spent[stage] += spent - before[stage][0]

    def figures(self) -> dict[str, Any]:
        """Percentiles in ms, retrievals per second, and mean ms by stage; gRPC is what the server did not see."""
        stages = {stage: 1000 * spent / len(self.ms) for stage, spent in self._spent.items()}
        total = stages.pop("total")
        other = {"threads": total - sum(stages.values()), "grpc": float(np.mean(self.ms)) - total}
        return {
            **{f"p{share}": float(np.percentile(self.ms, share)) for share in (50, 95, 99)},
            "per_second": len(self.ms) / self.seconds,
            "stages_ms": stages | other,
        }


def requests() -> list[pb.RetrieveRequest]:
    """Queries, of which half hit."""
    hits = [statement.prompt for statement in statements()][:ENCODED:7]
    texts = [text for pair in zip(hits, MISSES * 5, strict=False) for text in pair]
    return [pb.RetrieveRequest(namespace=NAMESPACE, query=text) for text in texts]


async def ask(address: str, clients: int, seconds: float) -> Milliseconds:
    """So many clients, each of which asks again as soon as it is answered; the time of each call."""
    queries = requests()
    found: Milliseconds = []
    async with grpc.aio.insecure_channel(address) as channel:
        stub: retriever_pb2_grpc.RetrieverServiceAsyncStub = retriever_pb2_grpc.RetrieverServiceStub(channel)
        await asyncio.gather(*(stub.Retrieve(query) for query in queries[:clients]))
        end = time.perf_counter() + seconds

        async def client(first: int) -> None:
            number = first
            while (begun := time.perf_counter()) < end:
                await stub.Retrieve(queries[number % len(queries)])
                found.append(1000 * (time.perf_counter() - begun))
                number += clients

        await asyncio.gather(*(client(number) for number in range(clients)))
    return found


def ghz(address: str, clients: int, seconds: float) -> Milliseconds:
    """The same load by ghz, which is written in another language by other people."""
    with tempfile.NamedTemporaryFile("w", suffix=".json") as data, tempfile.NamedTemporaryFile() as protoset:
        # Its own parser of .proto files, and its reflection, know no optional fields.
        protoset.write(descriptors(pb.DESCRIPTOR).SerializeToString())
        protoset.flush()
        queries = [{"namespace": query.namespace, "query": query.query} for query in requests()]
        data.write(json.dumps(queries))
        data.flush()
        command = ["ghz", "--insecure", "--call", CALL, "--data-file", data.name, "-c", str(clients)]
        command += ["--protoset", protoset.name]
        command += ["-z", f"{seconds}s", "--duration-stop", "wait", "--format", "json", address]
        report = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True).stdout)
    return [detail["latency"] / 1e6 for detail in report["details"] if detail["status"] == "OK"]


def descriptors(file: FileDescriptor) -> FileDescriptorSet:
    """A .proto file behind all that it imports."""
    found = FileDescriptorSet()
    for dependency in file.dependencies:
        found.MergeFrom(descriptors(dependency))
    file.CopyToProto(found.file.add())  # type: ignore[no-untyped-call]
    return found


def agreement(served: Served, seconds: float) -> dict[str, Any]:
    """Median and rate by ghz and by the clients of this benchmark, in turns."""
    figures = {}
    for clients in CLIENTS:
        theirs: Milliseconds = []
        ours = Load()
        for _ in range(AGREEMENT_TURNS):
            theirs += ghz(served.address, clients, seconds / AGREEMENT_TURNS)
            ours.run(served, clients, seconds / AGREEMENT_TURNS, written=False)
        both = {"ghz_p50_ms": float(np.median(theirs)), "p50_ms": float(np.median(ours.ms))}
        figures[str(clients)] = both | {"ratio": both["p50_ms"] / both["ghz_p50_ms"]}
    return figures


def resident_mebibytes(process: psutil.Process) -> float:
    """Resident memory of a process and its children; pages of files that they share are counted in each."""
    return sum(float(each.memory_info().rss) for each in (process, *process.children(recursive=True))) / MEBIBYTE


def started(code: str, *arguments: str) -> dict[str, float]:
    """Seconds until a process has written a line, and its memory then. Raises RuntimeError if it ends without one."""
    begun = time.monotonic()
    with subprocess.Popen(
        [sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        if not process.stdout.readline():
            raise RuntimeError(f"It ended before it was ready:\n{code}")
        seconds = time.monotonic() - begun
        figures = {"mb": resident_mebibytes(psutil.Process(process.pid)), "seconds": seconds}
        process.terminate()
    return figures


def starts() -> dict[str, dict[str, float]]:
    """Memory and start-up of each service and of the whole product in one process."""
    wait = "\nimport sys\nprint('ready', flush=True)\nsys.stdin.read()"
    figures = {name: started(code + wait) for name, code in SERVICES.items()}
    ports = [f"--{port}-port=0" for port in ("kafka", "retriever", "generator", "metrics")]
    return figures | {"recipe up": started(UP, "up", "--json", *ports)}


def measure_load(served: Mapping[int, Served], seconds: float, rounds: int) -> dict[bool, dict[str, Any]]:
    """Each size with each number of clients, with and without writes, in turns."""
    loads = {(on, size, clients): Load() for on in (False, True) for size in served for clients in CLIENTS}
    for _ in range(rounds):
        for (on, size, clients), load in loads.items():
            load.run(served[size], clients, seconds / rounds, written=on)
    return {
        on: {str(size): {str(clients): loads[on, size, clients].figures() for clients in CLIENTS} for size in served}
        for on in (False, True)
    }


def growth(small: Mapping[str, Any], large: Mapping[str, Any]) -> dict[str, Any]:
    """How many times a small base's figures those of a large one are, named alike; None where a small one's is 0."""

    def grown(before: Any, after: Any) -> Any:
        if isinstance(before, Mapping):
            return growth(before, after)
        return after / before if before else None

    return {name: grown(figure, large[name]) for name, figure in small.items()}


def goals(report: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The goals for two cores; those in ms are for orientation."""
    one = report["retrieve_ms"].get("10000", {}).get("1")
    largest = max(report["search_speedup_vs_full_scan"], key=int)
    wanted: dict[str, tuple[float, float, bool]] = {
        "search_speedup": (report["search_speedup_vs_full_scan"][largest], 10, True),
        "recall": (report["recall"][largest], 0.99, True),
        "growth": (report["growth"]["retrieve_ms"]["1"]["p50"], 1.5, False),
        "recipe_up_mb": (report["resident_mb"]["recipe up"], 1536, False),
    }
    if one is not None:
        part = (one["stages_ms"]["search"] + one["stages_ms"]["fetch"]) / one["p50"]
        wanted |= {
            "p50_ms": (one["p50"], 8, False),
            "p99_ms": (one["p99"], 20, False),
            "search_and_fetch_part": (part, 0.25, False),
        }
    return {
        name: {"value": value, "goal": goal, "met": value >= goal if more else value <= goal}
        for name, (value, goal, more) in wanted.items()
    }


def plot(report: Mapping[str, Any], file: Path) -> None:
    """Latency by size and clients, where a lone query's time goes, and search against other ways."""
    figure = Figure(figsize=(13, 3.8), layout="constrained")
    latency, parts, searches = figure.subplots(1, 3)
    sizes = list(report["retrieve_ms"])
    for clients in map(str, CLIENTS):
        for name, style in (("p50", "o-"), ("p99", "o:")):
            values = [report["retrieve_ms"][size][clients][name] for size in sizes]
            latency.plot([f"{int(size):,}" for size in sizes], values, style, label=f"{clients} clients, {name}")
    latency.set(title="Retrieve", xlabel="facts", ylabel="ms", yscale="log")
    latency.legend(fontsize=7)
    bottom = np.zeros(len(sizes))
    for stage in (*STAGES, "threads", "grpc"):
        heights = np.array([report["retrieve_ms"][size]["1"]["stages_ms"][stage] for size in sizes])
        parts.bar([f"{int(size):,}" for size in sizes], heights, bottom=bottom, label=stage)
        bottom += heights
    parts.set(title="one client, mean by stage", xlabel="facts", ylabel="ms")
    parts.legend(fontsize=7)
    for way in ("store", "full_scan", "local_mode"):
        values = [report["search_ms"][size][way] for size in sizes]
        searches.plot([f"{int(size):,}" for size in sizes], values, "o-", label=way.replace("_", " "))
    searches.set(title="search alone, p50", xlabel="facts", ylabel="ms", yscale="log")
    searches.legend(fontsize=7)
    figure.savefig(file, dpi=120)


def measure(folder: Path, sizes: Sequence[int], seconds: float, rounds: int) -> dict[str, Any]:
    """All figures."""
    resident = starts()
    _say("building the bases")
    ours, theirs = multiprocessing.get_context("spawn").Pipe()
    process = multiprocessing.get_context("spawn").Process(target=serve, args=(theirs, folder, sizes))
    process.start()
    try:
        built = ours.recv()
        served = {size: Served(ours, size, ports) for size, ports in ours.recv().items()}
        _say("measuring under load")
        loads = measure_load(served, seconds, rounds)
        middle = served[sorted(sizes)[len(sizes) // 2]]
        agreed = agreement(middle, seconds) if shutil.which("ghz") else None
        serving = resident_mebibytes(psutil.Process(process.pid))
    finally:
        ours.send(None)
        process.join()
    compared = {str(size): figures for size, figures in built["sizes"].items()}
    report = {
        "model_version": built["model_version"],
        "processors": os.cpu_count(),
        "vectors": f"{ENCODED} facts were encoded. {MIXED}",
        "writes_per_second": WRITES_PER_SECOND,
        "retrieve_ms": loads[False],
        "retrieve_ms_with_writes": loads[True],
        "search_ms": {size: each["search_ms"] for size, each in compared.items()},
        "search_speedup_vs_full_scan": _speedups(compared, "full_scan"),
        "search_speedup_vs_local_mode": _speedups(compared, "local_mode"),
        "recall": {size: each["recall"] for size, each in compared.items()},
        "bases": compared,
        "ghz_agreement": agreed,
        "resident_mb": {name: each["mb"] for name, each in resident.items()} | {"bases of this benchmark": serving},
        "start_seconds": {name: each["seconds"] for name, each in resident.items()},
    }
    by_size = ("retrieve_ms", "retrieve_ms_with_writes", "search_ms")
    report["growth"] = {name: growth(report[name][str(min(sizes))], report[name][str(max(sizes))]) for name in by_size}
    return report | {"goals": goals(report)}


def _speedups(compared: Mapping[str, Any], other: str) -> dict[str, float]:
    return {size: each["search_ms"][other] / each["search_ms"]["store"] for size, each in compared.items()}


def _say(what: str) -> None:
    print(what, file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--report", type=Path, default=Path("retrieval.json"))
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="facts of each base, 1,000 at least")
    parser.add_argument("--seconds", type=float, default=10.0, help="length of each measurement under load")
    parser.add_argument("--rounds", type=int, default=2, help="turns that each measurement is cut into")
    parser.add_argument("--against", type=Path, help="another checkout of this repository, measured in the same run")
    arguments = parser.parse_args()
    arguments.report.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="recipe-bench-") as folder:
        report = measure(Path(folder), arguments.sizes, arguments.seconds, arguments.rounds)
    arguments.report.write_text(json.dumps(report, indent=1) + "\n")
    plot(report, arguments.report.with_suffix(".png"))
    if arguments.against:
        sizes = map(str, arguments.sizes)
        like = ["--sizes", *sizes, "--seconds", str(arguments.seconds), "--rounds", str(arguments.rounds)]
        before = measured_there(arguments.against, "retrieval", like)
        names = ("retrieve_ms", "retrieve_ms_with_writes", "search_ms", "resident_mb")
        report["against"] = compared(report, before, names)
        arguments.report.write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps({"goals": report["goals"], "ghz_agreement": report["ghz_agreement"]}, indent=1))


if __name__ == "__main__":
    main()
