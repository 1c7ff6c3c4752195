"""The whole product in one process: broker, encoder, retriever and generator on 127.0.0.1."""

import asyncio
import tempfile
import uuid
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

from kafka.errors import KafkaError
from prometheus_client import CollectorRegistry

from recipe_client.editor_beside_llm import EditorBesideLlm
from recipe_client.topics import topic_specs
from recipe_common.embedded_broker import EmbeddedBroker, create_topics
from recipe_common.errors import UnavailableError
from recipe_common.lifecycle import run_abandonable, stop_event
from recipe_common.metrics_server import start_metrics_server
from recipe_common.settings import without_environment
from recipe_encoder.metrics import EncoderMetrics
from recipe_encoder.settings import EncoderSettings
from recipe_encoder.worker import Worker
from recipe_generator.server import GeneratorServer, load_engine
from recipe_generator.settings import GeneratorSettings
from recipe_model.editor import RecipeEditor
from recipe_retriever.server import RetrieverServer
from recipe_retriever.settings import RetrieverSettings
from recipe_store.edge_store import open_edge_store
from recipe_store.store import KnowledgeStore

_POLL_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class EmbeddedOptions:
    """What `recipe up` can be told; every port 0 takes a free one."""

    kafka: str | None = None  # bootstrap servers; None starts the broker in memory
    kafka_port: int = 9092
    retriever_port: int = 50051
    generator_port: int = 50052
    metrics_ports: tuple[int, int, int] = (9101, 9102, 9103)  # encoder, retriever, generator
    checkpoint: Path | None = None


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where the parts of a running stack listen."""

    kafka: str
    retriever: str
    generator: str
    metrics: tuple[str, str, str]


class EmbeddedStack:
    """Starts and stops the parts in order; made in the running event loop.

    The knowledge base lives in a temporary folder and is built from the log at every start: the broker in memory
    forgets its log when it stops, and a base that remembered more than the log would contradict it.
    """

    def __init__(self, options: EmbeddedOptions, report: Callable[[str], None]) -> None:
        self._options = options
        self._report = report
        self._parts = AsyncExitStack()
        self._encoder_failed: asyncio.Future[Exception] = asyncio.get_running_loop().create_future()

    async def start(self) -> Addresses:
        """Start everything; what was started is stopped again if a later part fails."""
        try:
            return await self._start()
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Stop everything, last started first."""
        await self._parts.aclose()

    async def encoder_failure(self) -> UnavailableError:
        """Waits until the encoder stops by itself, if ever; the error says why."""
        error = await self._encoder_failed
        return UnavailableError(f"the encoder stopped, so nothing new would be learnt: {error}")

    async def _start(self) -> Addresses:
        options = self._options
        kafka = await self._start_broker()
        self._report("loading the RECIPE checkpoint and its text encoder")
        editor = await run_abandonable(lambda: EditorBesideLlm.load(options.checkpoint))
        folder = Path(self._parts.enter_context(tempfile.TemporaryDirectory(prefix="recipe-facts-")))
        store = open_edge_store(folder, editor.model_version, editor.vector_size, editor.prompt_width)
        self._parts.callback(store.close)
        worker, encoder_metrics = await self._start_encoder(kafka, editor, store, folder)
        self._report("loading the LLM (the first start converts it, which takes about 20 s)")
        settings = without_environment(GeneratorSettings)(
            port=options.generator_port,
            metrics_port=options.metrics_ports[2],
            checkpoint=options.checkpoint,
            drain_seconds=1,
        )
        engine, checkpoint = await run_abandonable(lambda: load_engine(settings))
        self._report("reading the log")
        await self._until_caught_up(worker)
        await run_abandonable(store.index)
        retriever, retriever_address = await self._start_retriever(editor, store)
        settings = settings.model_copy(update={"retriever": retriever_address})
        ports = ("--generator-port", "--metrics-port")
        generator = GeneratorServer(settings, engine, checkpoint, port_settings=ports)
        self._parts.push_async_callback(generator.stop)
        generator_address = f"127.0.0.1:{await generator.start()}"
        metrics = (encoder_metrics, retriever.metrics_port, generator.metrics_port)
        first, second, third = (f"http://127.0.0.1:{port}/metrics" for port in metrics)
        return Addresses(kafka, retriever_address, generator_address, (first, second, third))

    async def _start_broker(self) -> str:
        if self._options.kafka is not None:
            return await asyncio.to_thread(_use_broker, self._options.kafka)
        self._report("starting the broker")
        broker = EmbeddedBroker(self._options.kafka_port, topics=topic_specs(partitions=1), port_setting="--kafka-port")
        await asyncio.to_thread(broker.start)
        self._parts.push_async_callback(asyncio.to_thread, broker.stop)
        return broker.bootstrap_servers

    async def _start_retriever(self, editor: RecipeEditor, store: KnowledgeStore) -> tuple[RetrieverServer, str]:
        """Start the retriever; returns it and its address."""
        settings = without_environment(RetrieverSettings)(
            port=self._options.retriever_port, metrics_port=self._options.metrics_ports[1], drain_seconds=1
        )
        ports = ("--retriever-port", "--metrics-port")
        retriever = RetrieverServer(settings, editor, store, port_settings=ports)
        self._parts.push_async_callback(retriever.stop)
        return retriever, f"127.0.0.1:{await retriever.start()}"

    async def _start_encoder(
        self, kafka: str, editor: RecipeEditor, store: KnowledgeStore, folder: Path
    ) -> tuple[Worker, int]:
        """Start the encoder's worker; returns it and the port of its metrics."""
        settings = without_environment(EncoderSettings)(
            kafka_bootstrap_servers=kafka,
            group_id=f"recipe-embedded-{uuid.uuid4()}",  # of its own, so that the log is read from its start
            assignment="manual",
            store_path=folder,
        )
        registry = CollectorRegistry()
        worker = Worker(settings, editor, store, EncoderMetrics(registry), on_failure=self._report_encoder_failure)
        metrics = start_metrics_server(
            registry,
            port=self._options.metrics_ports[0],
            port_setting="--metrics-port",
            not_ready=worker.not_ready,
        )
        self._parts.push_async_callback(asyncio.to_thread, metrics.stop)
        worker.start()
        self._parts.push_async_callback(asyncio.to_thread, worker.stop)
        return worker, metrics.port

    async def _until_caught_up(self, worker: Worker) -> None:
        """Waits until all that the log held is known; raises the encoder's error if that stops it."""
        while not worker.caught_up.is_set():
            if self._encoder_failed.done():
                raise await self.encoder_failure()
            await asyncio.sleep(_POLL_SECONDS)

    def _report_encoder_failure(self, error: Exception) -> None:
        """Called in the worker's thread."""
        failed = self._encoder_failed
        failed.get_loop().call_soon_threadsafe(failed.set_result, error)


def _use_broker(kafka: str) -> str:
    """Make sure that a broker answers and has the topics. Raises UnavailableError."""
    try:
        create_topics(kafka, topic_specs())
    except (KafkaError, ValueError) as error:
        reason = str(error) or type(error).__name__
        raise UnavailableError(f"Kafka at {kafka} cannot be used ({reason}); correct --kafka") from error
    return kafka


async def run_until_stopped(
    options: EmbeddedOptions, report: Callable[[str], None], ready: Callable[[Addresses], None]
) -> None:
    """Run the stack until SIGINT or SIGTERM; raises the encoder's error if that stops first."""
    stop = stop_event()
    stopping = asyncio.create_task(stop.wait())
    stack = EmbeddedStack(options, report)
    starting = asyncio.create_task(stack.start())
    await asyncio.wait([starting, stopping], return_when=asyncio.FIRST_COMPLETED)
    if not starting.done():
        starting.cancel()
        await asyncio.wait([starting])
        return
    try:
        ready(starting.result())
        failing = asyncio.create_task(stack.encoder_failure())
        await asyncio.wait([stopping, failing], return_when=asyncio.FIRST_COMPLETED)
        if failing.done():
            raise failing.result()
    finally:
        report("stopping")
        await stack.stop()
