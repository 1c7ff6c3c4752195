"""A retriever that listens: gRPC and metrics around one Retriever."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

from prometheus_client import CollectorRegistry

from recipe_common.admission import Admission
from recipe_common.grpc_server import GrpcServer, build_server
from recipe_common.metrics_server import MetricsServer, start_metrics_server
from recipe_protos.retriever.v1 import retriever_pb2, retriever_pb2_grpc
from recipe_retriever.batching import QueryBatches
from recipe_retriever.metrics import RetrieverMetrics
from recipe_retriever.prompt_cache import MEBIBYTE
from recipe_retriever.retrieval import QueryEncoder, Retriever, Thresholds
from recipe_retriever.service import RetrieverService
from recipe_retriever.settings import ENV_PREFIX, RetrieverSettings
from recipe_store.store import KnowledgeStore

SERVICE = retriever_pb2.DESCRIPTOR.services_by_name["RetrieverService"].full_name


class RetrieverServer:
    """Serves one model and one store until it is stopped.

    `port_settings` are the names of what chooses the two ports, for the error when one is taken.
    """

    def __init__(
        self,
        settings: RetrieverSettings,
        encoder: QueryEncoder,
        store: KnowledgeStore,
        port_settings: tuple[str, str] = (f"{ENV_PREFIX}PORT", f"{ENV_PREFIX}METRICS_PORT"),
    ) -> None:
        self._settings = settings
        self._port_settings = port_settings
        self._encoder = encoder
        self._store = store
        self._encoding = ThreadPoolExecutor(1, thread_name_prefix="encode")
        self._searching = ThreadPoolExecutor(settings.workers, thread_name_prefix="search")
        self.metrics_port = 0  # known once `start` has returned
        self._grpc: GrpcServer | None = None
        self._metrics: MetricsServer | None = None

    async def start(self) -> int:
        """Bind, warm the model up, report SERVING; returns the gRPC port. Raises AddressUnavailableError."""
        registry = CollectorRegistry()
        metrics = RetrieverMetrics(registry)
        retriever = self._retriever(metrics)
        batches = QueryBatches(retriever.encode, self._encoding, metrics)
        admission = Admission(self._settings.max_inside, metrics)
        service = RetrieverService(retriever, batches, admission, self._searching, metrics)
        self._grpc = build_server(
            host=self._settings.host,
            port=self._settings.port,
            port_setting=self._port_settings[0],
            service_names=[SERVICE],
            register=lambda server: retriever_pb2_grpc.add_RetrieverServiceServicer_to_server(service, server),
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
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._encoding, retriever.warm_up)
        await self._grpc.set_serving(True)
        return self._grpc.port

    def _retriever(self, metrics: RetrieverMetrics) -> Retriever:
        settings = self._settings
        return Retriever(
            self._encoder,
            self._store,
            metrics,
            cache_bytes=settings.prompt_cache_mb * MEBIBYTE,
            thresholds=Thresholds(settings.min_confidence, settings.namespace_min_confidence),
        )

    async def stop(self) -> None:
        """Drain and close; safe to call after a failed start."""
        if self._grpc is not None:
            await self._grpc.stop(self._settings.drain_seconds)
        if self._metrics is not None:
            await asyncio.get_running_loop().run_in_executor(None, self._metrics.stop)
        self._encoding.shutdown()
        self._searching.shutdown()
