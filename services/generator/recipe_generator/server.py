"""A generator that listens: gRPC and metrics around one engine."""

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import grpc
from prometheus_client import CollectorRegistry

from recipe_common.admission import Admission
from recipe_common.errors import RecipeError
from recipe_common.grpc_options import client_options
from recipe_common.grpc_server import GrpcServer, build_server
from recipe_common.metrics_server import MetricsServer, start_metrics_server
from recipe_generator.engine import Decoding, Engine
from recipe_generator.knowledge import KnowledgeSource
from recipe_generator.metrics import GeneratorMetrics
from recipe_generator.service import GeneratorService, Limits
from recipe_generator.settings import ENV_PREFIX, GeneratorSettings
from recipe_generator.transformers_engine import TransformersEngine
from recipe_model.checkpoint import Checkpoint, read_checkpoint
from recipe_model.errors import ModelUnavailableError
from recipe_model.language_model import LanguageModel
from recipe_model.outside_llm import OutsideLlm
from recipe_protos.generator.v1 import generator_pb2, generator_pb2_grpc
from recipe_protos.retriever.v1 import retriever_pb2

logger = logging.getLogger(__name__)

SERVICE = generator_pb2.DESCRIPTOR.services_by_name["GeneratorService"].full_name
RETRIEVER = retriever_pb2.DESCRIPTOR.services_by_name["RetrieverService"].full_name
_PROBE_SECONDS = 1.0  # between two looks at an LLM that has failed
_CLOSE_SECONDS = 1.0  # for what is left when no request is: health watches, refusals


def load_engine(settings: GeneratorSettings) -> tuple[Engine, Checkpoint]:
    """Load the LLM and the checkpoint it must fit. Raises CheckpointError or ModelUnavailableError."""
    checkpoint = read_checkpoint(settings.checkpoint)
    llm_id = settings.llm or checkpoint.config.llm.model_id
    if settings.engine == "vllm":
        outside = OutsideLlm.load(llm_id, settings.precision)
        checkpoint.require_llm(outside.identity)
        return start_vllm(outside, settings.max_rows, settings.kv_cache_gib), checkpoint
    llm = LanguageModel.load(llm_id, settings.precision, device=settings.device)
    checkpoint.require_llm(llm.identity)
    return TransformersEngine(llm, settings.max_rows, settings.kv_cache_gib), checkpoint


def start_vllm(llm: OutsideLlm, max_rows: int, kv_cache_gib: float) -> Engine:
    """The engine that few installations have. Raises ModelUnavailableError without it, or if it cannot run the LLM."""
    try:
        from recipe_generator.vllm_engine import VllmEngine  # noqa: PLC0415 (loads vLLM)
    except ModuleNotFoundError as error:
        raise ModelUnavailableError(
            f"{ENV_PREFIX}ENGINE: vllm needs the package {error.name}; 'make vllm' sets up an environment with it"
        ) from error
    return VllmEngine(llm, max_rows, kv_cache_gib)


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
        self._tokenizing = ThreadPoolExecutor(1, thread_name_prefix="tokenize")
        self._channel: grpc.aio.Channel | None = None
        self.metrics_port = 0  # known once `start` has returned
        self._grpc: GrpcServer | None = None
        self._metrics: MetricsServer | None = None
        self._admission: Admission | None = None
        self._health: asyncio.Task[None] | None = None

    async def start(self) -> int:
        """Bind, warm the LLM up, report SERVING; returns the gRPC port. Raises AddressUnavailableError."""
        registry = CollectorRegistry()
        metrics = GeneratorMetrics(registry)
        metrics.model_info.labels(self._checkpoint.model_version).set(1)
        metrics.kv_tokens.set(self._engine.kv_tokens)
        metrics.kv_tokens_taken.set_function(lambda: self._engine.kv_tokens_taken)
        self._channel = grpc.aio.insecure_channel(self._settings.retriever, options=client_options(RETRIEVER))
        self._admission = Admission(self._settings.max_rows + self._settings.max_waiting, metrics)
        service = self._service(self._channel, metrics, self._admission)
        self._grpc = build_server(
            host=self._settings.host,
            port=self._settings.port,
            port_setting=self._port_settings[0],
            service_names=[SERVICE],
            register=lambda server: generator_pb2_grpc.add_GeneratorServiceServicer_to_server(service, server),
            calls=metrics.calls,
        )
        self._metrics = start_metrics_server(
            registry,
            host=self._settings.metrics_host,
            port=self._settings.metrics_port,
            port_setting=self._port_settings[1],
        )
        self.metrics_port = self._metrics.port
        await self._grpc.start()
        await self._write_something()
        await self._grpc.set_serving(True)
        self._health = asyncio.create_task(self._follow_llm(self._grpc))
        return self._grpc.port

    async def stop(self) -> None:
        """Refuse new requests, let those inside end, close; safe to call after a failed start."""
        if self._health is not None:
            self._health.cancel()
        if self._grpc is not None and self._admission is not None:
            await self._grpc.set_serving(False)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._admission.until_empty(), self._settings.drain_seconds)
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(None, self._engine.stop)  # whoever is still inside is told
        if self._grpc is not None:
            await self._grpc.stop(_CLOSE_SECONDS)
        if self._channel is not None:
            await self._channel.close()
        if self._metrics is not None:
            await loop.run_in_executor(None, self._metrics.stop)
        self._tokenizing.shutdown()

    async def _follow_llm(self, server: GrpcServer) -> None:
        """Serves only while the LLM works: after a failure it must write something again."""
        while True:
            await self._engine.failure()
            while not await self._works():
                await server.set_serving(False)
                await asyncio.sleep(_PROBE_SECONDS)
            await server.set_serving(True)

    async def _works(self) -> bool:
        """Whether it writes something in the time that a request has; it may have to wait for its turn, as those do."""
        try:
            async with asyncio.timeout(self._settings.request_seconds):
                await self._write_something()
        except (RecipeError, TimeoutError):
            logger.warning("the LLM does not work; health is NOT_SERVING until it does")
            return False
        return True

    async def _write_something(self) -> None:
        ids = await asyncio.get_running_loop().run_in_executor(self._tokenizing, self._engine.token_ids, "Warm up")
        async for _ in self._engine.write(None, ids, Decoding(max_new_tokens=2)):
            pass

    def _service(self, channel: grpc.aio.Channel, metrics: GeneratorMetrics, admission: Admission) -> GeneratorService:
        settings, sizes = self._settings, self._checkpoint.config.sizes
        source = KnowledgeSource(
            channel,
            self._checkpoint.model_version,
            sizes.llm_hidden,
            settings.retriever_timeout_seconds,
        )
        limits = Limits(settings.max_new_tokens, settings.request_seconds)
        return GeneratorService(self._engine, source, metrics, admission, self._tokenizing, limits)
