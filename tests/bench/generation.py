"""Answers under load: what an edit costs, what each engine writes per second, and what a full queue does.

`python -m bench.generation --report report.json` writes the figures, and a plot beside them. Everything is real: the
default models, a retriever with stored facts, and one generator for each engine, each in processes of its own behind
gRPC. All comparisons are interleaved. Texts are of equal length, as no engine is told where the LLM would end one.
"""

import argparse
import asyncio
import json
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, TypeAlias

import grpc
import numpy as np
import psutil
from matplotlib.figure import Figure

from bench.base_of_facts import NAMESPACE, statements
from bench.generation_server import ONE_BY_ONE, TRANSFORMERS, VLLM
from recipe_common.errors import ResourceExhaustedError
from recipe_common.grpc_errors import to_domain_error
from recipe_protos.generator.v1 import generator_pb2 as pb
from recipe_protos.generator.v1 import generator_pb2_grpc
from recipe_protos.retriever.v1 import retriever_pb2, retriever_pb2_grpc
from recipe_trainer.datasets import Edit
from recipe_trainer.in_context import DEMONSTRATIONS, demonstrated, stated

FACTS = [Edit(each.prompt, each.answer) for each in statements()]
EXAMPLES = FACTS[-DEMONSTRATIONS:]  # which are never stored
FACTS_AT_MOST = len(FACTS) - DEMONSTRATIONS
NEW_TOKENS = 32
ASKED = 64  # facts that are asked for
CLIENTS = (1, 8, 32)
EDITED, UNEDITED = "edited", "unedited"
TEXT, RETRIEVED, DEMONSTRATED = "text_in_prompt", "retrieved_text_in_prompt", "demonstrated_text_in_prompt"
REST = 0.3  # seconds before each measurement: workers of the engine before it spin for up to 0.2 s on the same cores
SHORT = 8  # tokens of a request while the queue is full
DEADLINE = 60.0  # seconds, of such a request

Retriever: TypeAlias = "retriever_pb2_grpc.RetrieverServiceAsyncStub"


@dataclass(frozen=True, slots=True)
class Server:
    """A generator in a process of its own."""

    name: str
    process: psutil.Process
    start_seconds: float
    address: str
    channel: grpc.aio.Channel

    @property
    def stub(self) -> "generator_pb2_grpc.GeneratorServiceAsyncStub":
        return generator_pb2_grpc.GeneratorServiceStub(self.channel)

    def resident_mebibytes(self) -> float:
        """Of the process and its children; memory that several share is divided among them."""
        family = [self.process, *self.process.children(recursive=True)]
        return float(sum(each.memory_full_info().pss for each in family)) / 2**20


@asynccontextmanager
async def child(python: str, module: str, *arguments: str) -> AsyncIterator[tuple[psutil.Process, int, float]]:
    """A module that prints its port and runs until its input ends: its process, port and seconds until it served."""
    begun = time.monotonic()
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(python, "-m", module, *arguments, stdin=pipe, stdout=pipe)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        async for line in process.stdout:
            if line.startswith(b'{"port"'):
                break
        else:
            raise RuntimeError(f"{module} {' '.join(arguments)} did not start; see its output above")
        yield psutil.Process(process.pid), json.loads(line)["port"], time.monotonic() - begun
    finally:
        process.stdin.close()
        await process.wait()


@asynccontextmanager
async def generator(python: str, engine: str, retriever: str) -> AsyncIterator[Server]:
    """One engine's generator."""
    print(f"starting {engine}", file=sys.stderr, flush=True)
    async with child(python, "bench.generation_server", engine, retriever) as (process, port, seconds):
        address = f"127.0.0.1:{port}"
        async with grpc.aio.insecure_channel(address) as channel:
            yield Server(engine, process, seconds, address, channel)


def question(number: int) -> str:
    """What is asked about a stored fact."""
    return FACTS[number].prompt


async def answerable(retriever: Retriever, facts: int) -> list[int]:
    """Some facts that are found by their questions."""
    found = []
    for number in range(facts):
        query = retriever_pb2.RetrieveRequest(namespace=NAMESPACE, query=question(number))
        if (await retriever.Retrieve(query)).fact.fact_id == str(number):
            found.append(number)
        if len(found) == ASKED:
            break
    if not found:
        raise RuntimeError(f"none of {facts} facts is found by its question")
    return found


def request(number: int, mode: str, tokens: int = NEW_TOKENS, fact: str = "") -> pb.GenerateRequest:
    """A question about a stored fact: with the fact as an edit, without it, or with it as text in front."""
    return pb.GenerateRequest(
        namespace=NAMESPACE,
        prompt=fact + question(number),
        knowledge=pb.KNOWLEDGE_MODE_ON if mode == EDITED else pb.KNOWLEDGE_MODE_OFF,
        max_new_tokens=tokens,
    )


def require(answer: pb.GenerateResponse, mode: str) -> None:
    """Raises unless the answer is what is measured."""
    status = pb.KNOWLEDGE_STATUS_EDITED if mode == EDITED else pb.KNOWLEDGE_STATUS_UNEDITED_OFF
    if answer.knowledge.status != status or answer.generated_tokens != NEW_TOKENS:
        raise RuntimeError(f"not a measurement of {mode}: {answer}")


async def fact_as_text(retriever: Retriever, number: int, mode: str) -> str:
    """What is put in front of the question: the fact, known beforehand or searched for first, as an edit's is."""
    if mode == TEXT:
        return stated(FACTS[number].statement)
    if mode == DEMONSTRATED:
        return demonstrated(FACTS[number].statement, EXAMPLES)
    if mode == RETRIEVED:
        query = retriever_pb2.RetrieveRequest(namespace=NAMESPACE, query=question(number))
        return stated((await retriever.Retrieve(query)).fact.statement)
    return ""


async def timed(server: Server, retriever: Retriever, number: int, mode: str) -> tuple[float, float]:
    """Seconds to the first piece of text, and to the end."""
    begun = time.perf_counter()
    first = 0.0
    fact = await fact_as_text(retriever, number, mode)
    streamed = pb.GenerateStreamRequest(request=request(number, mode, fact=fact))
    async for part in server.stub.GenerateStream(streamed):
        if part.HasField("text") and not first:
            first = time.perf_counter() - begun
    require(part.answer, mode)
    return first, time.perf_counter() - begun


async def latency(servers: list[Server], retriever: Retriever, numbers: list[int], repeats: int) -> dict[str, Any]:
    """One client: what an edit costs, with its retrieval, and what the fact as text does, without and with one."""
    modes = (EDITED, UNEDITED, TEXT, RETRIEVED, DEMONSTRATED)
    times: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for repeat in range(-1, repeats):
        for turn in range(len(modes)):
            mode = modes[(turn + repeat) % len(modes)]
            for server in servers:
                await asyncio.sleep(REST)
                seconds = await timed(server, retriever, numbers[repeat % len(numbers)], mode)
                if repeat >= 0:  # the first round warms up
                    times.setdefault((server.name, mode), []).append(seconds)
    return {server.name: _compared({mode: times[server.name, mode] for mode in modes}) for server in servers}


def _compared(times: dict[str, list[tuple[float, float]]]) -> dict[str, Any]:
    ends = {mode: [end for _, end in each] for mode, each in times.items()}

    def ratio(mode: str) -> float:
        return median(edited / other for edited, other in zip(ends[EDITED], ends[mode], strict=True))

    return {
        "edited_over_unedited": ratio(UNEDITED),
        "edited_over_text_in_prompt": ratio(TEXT),
        "edited_over_retrieved_text_in_prompt": ratio(RETRIEVED),
        "edited_over_demonstrated_text_in_prompt": ratio(DEMONSTRATED),
        **{
            mode: {
                "first_token_ms": 1000 * median(first for first, _ in each),
                "per_token_ms": 1000 * median((end - first) / (NEW_TOKENS - 1) for first, end in each),
                "whole_ms": 1000 * median(ends[mode]),
                "fastest_ms": 1000 * min(ends[mode]),
            }
            for mode, each in times.items()
        },
    }


async def tokens_per_second(server: Server, numbers: list[int], clients: int, mode: str) -> float:
    """So many clients, each asking again when it is answered: once each, or a few times if they are few."""
    each = max(1, 4 // clients)

    async def client(place: int) -> None:
        for turn in range(each):
            number = numbers[(each * place + turn) % len(numbers)]
            require(await server.stub.Generate(request(number, mode)), mode)

    begun = time.perf_counter()
    await asyncio.gather(*(client(place) for place in range(clients)))
    return clients * each * NEW_TOKENS / (time.perf_counter() - begun)


async def throughput(
    servers: list[Server], numbers: list[int], rounds: int, mode: str = UNEDITED
) -> dict[str, dict[str, float]]:
    """The median of the rounds, by engine and clients."""
    figures: dict[tuple[str, int], list[float]] = {}
    for _ in range(rounds):
        for clients in CLIENTS:
            for server in servers:
                await asyncio.sleep(REST)
                rate = await tokens_per_second(server, numbers, clients, mode)
                figures.setdefault((server.name, clients), []).append(rate)
    return {
        server.name: {str(clients): median(figures[server.name, clients]) for clients in CLIENTS} for server in servers
    }


@asynccontextmanager
async def health_checks(server: Server) -> AsyncIterator[list[float]]:
    """How long health checks take meanwhile, in ms, one after the other; told at the end."""
    found: list[float] = []
    pipe = asyncio.subprocess.PIPE
    command = (sys.executable, "-m", "bench.health_probe", server.address)
    process = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe)
    assert process.stdout is not None
    await process.stdout.readline()
    try:
        yield found
    finally:
        told, _ = await process.communicate(b"")  # which ends its input
        found += json.loads(told)


async def pressure(server: Server, numbers: list[int], clients: int) -> dict[str, Any]:
    """More clients at once than a generator lets in: who is refused, how, and whether others are answered in time."""
    outcomes: Counter[str] = Counter()
    advised = 0
    longest = 0.0

    async def client(place: int) -> None:
        nonlocal advised, longest
        begun = time.perf_counter()
        try:
            await server.stub.Generate(request(numbers[place % len(numbers)], EDITED, SHORT), timeout=DEADLINE)
        except grpc.aio.AioRpcError as error:
            outcomes[error.code().name] += 1
            advised += isinstance(to_domain_error(error, server.name), ResourceExhaustedError)
            return
        outcomes["OK"] += 1
        longest = max(longest, time.perf_counter() - begun)

    async with health_checks(server) as health_ms:
        await asyncio.gather(*(client(place) for place in range(clients)))
    require(await server.stub.Generate(request(numbers[0], EDITED)), EDITED)  # it lives
    return {
        "clients": clients,
        "accepted": outcomes["OK"],
        "refused": outcomes["RESOURCE_EXHAUSTED"],
        "refused_with_a_time_to_retry": advised,
        "other_errors": {code: n for code, n in outcomes.items() if code not in {"OK", "RESOURCE_EXHAUSTED"}},
        "longest_accepted_seconds": longest,
        "deadline_seconds": DEADLINE,
        "health_checks": len(health_ms),
        "health_ms": {f"p{share}": float(np.percentile(health_ms, share)) for share in (50, 99, 100)},
    }


async def measure(vllm: Path | None, facts: int, repeats: int, rounds: int, clients: int) -> dict[str, Any]:
    """All figures."""
    async with AsyncExitStack() as started:
        running = child(sys.executable, "bench.generation_retriever", str(facts))
        address = f"127.0.0.1:{(await started.enter_async_context(running))[1]}"
        channel = await started.enter_async_context(grpc.aio.insecure_channel(address))
        retriever: Retriever = retriever_pb2_grpc.RetrieverServiceStub(channel)
        numbers = await answerable(retriever, facts)
        pythons = {ONE_BY_ONE: sys.executable, TRANSFORMERS: sys.executable}
        if vllm is not None:
            pythons[VLLM] = str(vllm)
        servers = [
            await started.enter_async_context(generator(python, engine, address)) for engine, python in pythons.items()
        ]
        ours = servers[1:]
        print("measuring what an edit costs", file=sys.stderr, flush=True)
        compared = await latency(ours, retriever, numbers, repeats)
        print("measuring tokens per second", file=sys.stderr, flush=True)
        rates = await throughput(servers, numbers, rounds)
        edited = await throughput(ours, numbers, 1, EDITED)
        print("filling the queue", file=sys.stderr, flush=True)
        return {
            "new_tokens": NEW_TOKENS,
            "facts": facts,
            **{name: figure for name, figure in compared[TRANSFORMERS].items() if name.startswith("edited_over_")},
            "latency": compared,
            "tokens_per_second": rates,
            "tokens_per_second_edited": edited,
            "over_one_by_one": _over_one_by_one(rates),
            "pressure": {server.name: await pressure(server, numbers, clients) for server in ours},
            "resident_mb": {server.name: server.resident_mebibytes() for server in servers},
            "start_seconds": {server.name: server.start_seconds for server in servers},
            "missing": [] if vllm is not None else ["vllm: run 'make vllm' first"],
        }


def _over_one_by_one(rates: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    plain = rates[ONE_BY_ONE]
    return {
        engine: {clients: rate / plain[clients] for clients, rate in by_clients.items()}
        for engine, by_clients in rates.items()
        if engine != ONE_BY_ONE
    }


def plot(report: dict[str, Any], file: Path) -> None:
    """Tokens per second by clients, what an edit costs, and memory."""
    figure = Figure(figsize=(14, 3.6), layout="constrained")
    rate, cost, memory = figure.subplots(1, 3)
    for engine, by_clients in report["tokens_per_second"].items():
        rate.plot(list(by_clients), list(by_clients.values()), "o-", label=engine)
    rate.set(title="tokens per second", xlabel="clients", yscale="log")
    rate.legend()
    for place, (engine, modes) in enumerate(report["latency"].items()):
        names = [mode for mode, figures in modes.items() if isinstance(figures, dict)]
        places = [index + 0.4 * place for index in range(len(names))]
        cost.barh(places, [modes[mode]["whole_ms"] for mode in names], 0.4, label=engine)
        cost.set_yticks(places, [name.replace("_", " ") for name in names])
    cost.set(title=f"{report['new_tokens']} tokens, one client", xlabel="ms")
    cost.legend(loc="lower right")
    memory.barh(list(report["resident_mb"]), list(report["resident_mb"].values()))
    memory.set(title="resident memory", xlabel="MiB")
    figure.savefig(file, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--report", type=Path, default=Path("generation.json"))
    parser.add_argument("--vllm", type=Path, help="Python of the environment with vLLM; left out if there is none")
    parser.add_argument(
        "--facts", type=int, default=1_000, help=f"facts in the retriever's base, at most {FACTS_AT_MOST}"
    )
    parser.add_argument("--repeats", type=int, default=32, help="answers of each kind that are compared")
    parser.add_argument("--rounds", type=int, default=1, help="measurements of each engine's tokens per second")
    parser.add_argument("--pressure", type=int, default=160, help="clients at once; a generator lets 96 in")
    arguments = parser.parse_args()
    if not 0 < arguments.facts <= FACTS_AT_MOST:
        parser.error(f"--facts: {arguments.facts} are not from 1 to {FACTS_AT_MOST}")
    arguments.report.parent.mkdir(parents=True, exist_ok=True)
    vllm = arguments.vllm if arguments.vllm is not None and arguments.vllm.exists() else None
    report = asyncio.run(measure(vllm, arguments.facts, arguments.repeats, arguments.rounds, arguments.pressure))
    arguments.report.write_text(json.dumps(report, indent=1) + "\n")
    plot(report, arguments.report.with_suffix(".png"))
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
