"""A generator that listens: gRPC and metrics around one engine."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

import grpc
from prometheus_client import CollectorRegistry

from recipe_common.grpc_server import GrpcServer, build_server
from recipe_common.metrics_server import MetricsServer, start_metrics_server
from recipe_generator.engine import Engine, TransformersEngine
from recipe_generator.knowledge import KnowledgeSource
from recipe_generator.metrics import GeneratorMetrics
from recipe_generator.service import GeneratorService
from recipe_generator.settings import ENV_PREFIX, GeneratorSettings
from recipe_model.checkpoint import Checkpoint, read_checkpoint
from recipe_model.language_model import LanguageModel
from recipe_protos.generator.v1 import generator_pb2, generator_pb2_grpc

SERVICE = generator_pb2.DESCRIPTOR.services_by_name["GeneratorService"].full_name


def load_engine(settings: GeneratorSettings) -> tuple[TransformersEngine, Checkpoint]:
    """Load the LLM and the checkpoint it must fit. Raises CheckpointError or ModelUnavailableError."""
    checkpoint = read_checkpoint(settings.checkpoint)
    llm = LanguageModel.load(settings.llm or checkpoint.config.llm.model_id, settings.precision)
    checkpoint.require_llm(llm.identity)
    return TransformersEngine(llm), checkpoint


class GeneratorServer:
    """Serves one engine until it is stopped.

    `port_settings` are the names of what chooses the two ports, for the error when one is taken.
    """

    def __init__(
        self,
        settings: GeneratorSettings,
        engine: Engine,
        checkpoint: Checkpoint,
        port_settings: tuple[str, str] = (f"{ENV_PREFIX}PORT", f"{ENV_PREFIX}METRICS_PORT"),
    ) -> None:
        self._settings = settings
        self._port_settings = port_settings
        self._engine = engine
        self._checkpoint = checkpoint
        # The engine takes one call at a time: more threads would only make all of them slower.
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="generate")
        self._channel: grpc.aio.Channel | None = None
        self.metrics_port = 0  # known once `start` has returned
        self._grpc: GrpcServer | None = None
        self._metrics: MetricsServer | None = None

    async def start(self) -> int:
        """Bind, warm the LLM up, report SERVING; returns the gRPC port. Raises AddressUnavailableError."""
        registry = CollectorRegistry()
        # A name may stand for several retrievers; without this option all calls would go to one of them.
        balanced = [("grpc.lb_policy_name", "round_robin")]
        self._channel = grpc.aio.insecure_channel(self._settings.retriever, balanced)
        service = self._service(self._channel, GeneratorMetrics(registry))
        self._grpc = build_server(
            host=self._settings.host,
            port=self._settings.port,
            port_setting=self._port_settings[0],
            service_names=[SERVICE],
            register=lambda server: generator_pb2_grpc.add_GeneratorServiceServicer_to_server(service, server),
        )
        self._metrics = start_metrics_server(
            registry,
            host=self._settings.metrics_host,
            port=self._settings.metrics_port,
            port_setting=self._port_settings[1],
        )
        self.metrics_port = self._metrics.port
        await self._grpc.start()
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._executor, self._engine.generate, None, "Warm up", 1)
        await self._grpc.set_serving(True)
        return self._grpc.port

    async def stop(self) -> None:
        """Drain and close; safe to call after a failed start."""
        if self._grpc is not None:
            await self._grpc.stop(self._settings.drain_seconds)
        self._engine.stop()
        if self._channel is not None:
            await self._channel.close()
        if self._metrics is not None:
            await asyncio.get_running_loop().run_in_executor(None, self._metrics.stop)
        self._executor.shutdown()

    def _service(self, channel: grpc.aio.Channel, metrics: GeneratorMetrics) -> GeneratorService:
        sizes = self._checkpoint.config.sizes
        source = KnowledgeSource(
            channel,
            self._checkpoint.model_version,
            (sizes.prompt_tokens, sizes.llm_hidden),
            self._settings.retriever_timeout_seconds,
        )
        return GeneratorService(self._engine, source, metrics, self._executor, self._settings.max_new_tokens)
