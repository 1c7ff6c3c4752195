import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from recipe_common import grpc_server
from recipe_common.errors import AddressUnavailableError, UnavailableError
from recipe_common.grpc_options import MAX_REQUEST_BYTES, client_options
from recipe_common.grpc_server import GrpcServer, build_server
from recipe_common.interceptors import ErrorInterceptor
from recipe_protos.retriever.v1 import retriever_pb2, retriever_pb2_grpc

Context = grpc.aio.ServicerContext[Any, Any]
HealthWatch = grpc.aio.UnaryStreamCall[Message, health_pb2.HealthCheckResponse]

SERVICE = retriever_pb2.DESCRIPTOR.services_by_name["RetrieverService"].full_name
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class SlowServicer(retriever_pb2_grpc.RetrieverServiceServicer):
    """Retrieve says that it has begun and answers when it is told to."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.finish = asyncio.Event()

    async def Retrieve(  # noqa: N802
        self, request: retriever_pb2.RetrieveRequest, context: Context
    ) -> retriever_pb2.RetrieveResponse:
        self.begun.set()
        await self.finish.wait()
        return retriever_pb2.RetrieveResponse(model_version="slow")

    async def GetFact(  # noqa: N802
        self, request: retriever_pb2.GetFactRequest, context: Context
    ) -> retriever_pb2.GetFactResponse:
        return retriever_pb2.GetFactResponse()

    async def RetrieveBatch(  # noqa: N802
        self, request: retriever_pb2.RetrieveBatchRequest, context: Context
    ) -> retriever_pb2.RetrieveBatchResponse:
        return retriever_pb2.RetrieveBatchResponse()

    async def Explain(  # noqa: N802
        self, request: retriever_pb2.ExplainRequest, context: Context
    ) -> retriever_pb2.ExplainResponse:
        return retriever_pb2.ExplainResponse()

    async def GetFactHistory(  # noqa: N802
        self, request: retriever_pb2.GetFactHistoryRequest, context: Context
    ) -> retriever_pb2.GetFactHistoryResponse:
        return retriever_pb2.GetFactHistoryResponse()

    async def ListFacts(  # noqa: N802
        self, request: retriever_pb2.ListFactsRequest, context: Context
    ) -> retriever_pb2.ListFactsResponse:
        return retriever_pb2.ListFactsResponse()


@asynccontextmanager
async def running(servicer: SlowServicer) -> AsyncIterator[tuple[GrpcServer, grpc.aio.Channel]]:
    server = build_server(
        port=0,
        port_setting="PORT",
        service_names=[SERVICE],
        register=lambda grpc_server: retriever_pb2_grpc.add_RetrieverServiceServicer_to_server(servicer, grpc_server),
    )
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
            yield server, channel
    finally:
        await server.stop(0)


async def health_of(channel: grpc.aio.Channel, service: str) -> int:
    check = channel.unary_unary(
        "/grpc.health.v1.Health/Check",
        request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
        response_deserializer=health_pb2.HealthCheckResponse.FromString,
    )
    return (await check(health_pb2.HealthCheckRequest(service=service))).status


def watch_health(channel: grpc.aio.Channel, service: str) -> HealthWatch:
    watch = channel.unary_stream(
        "/grpc.health.v1.Health/Watch",
        request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
        response_deserializer=health_pb2.HealthCheckResponse.FromString,
    )
    return watch(health_pb2.HealthCheckRequest(service=service))


async def next_status(watch: HealthWatch) -> int:
    response = await watch.read()
    assert isinstance(response, health_pb2.HealthCheckResponse)
    return response.status


def test_health_follows_set_serving() -> None:
    async def scenario() -> list[tuple[int, int]]:
        async with running(SlowServicer()) as (server, channel):
            seen = [(await health_of(channel, ""), await health_of(channel, SERVICE))]
            for serving in (True, False):
                await server.set_serving(serving)
                seen.append((await health_of(channel, ""), await health_of(channel, SERVICE)))
            return seen

    assert asyncio.run(scenario()) == [
        (NOT_SERVING, NOT_SERVING),
        (SERVING, SERVING),
        (NOT_SERVING, NOT_SERVING),
    ]


def test_health_of_an_unknown_service_is_not_found() -> None:
    async def scenario() -> None:
        async with running(SlowServicer()) as (_, channel):
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                await health_of(channel, "another.Service")
            assert raised.value.code() is grpc.StatusCode.NOT_FOUND

    asyncio.run(scenario())


def test_stop_lets_a_running_call_finish_and_ends_health_watches_as_not_serving() -> None:
    async def scenario() -> tuple[str, int]:
        servicer = SlowServicer()
        async with running(servicer) as (server, channel):
            await server.set_serving(True)
            watch = watch_health(channel, SERVICE)
            assert await next_status(watch) == SERVING
            stub = retriever_pb2_grpc.RetrieverServiceStub(channel)
            call = stub.Retrieve(retriever_pb2.RetrieveRequest())
            await servicer.begun.wait()
            stopping = asyncio.create_task(server.stop(grace_seconds=60))
            last_health = await next_status(watch)
            watch.cancel()
            servicer.finish.set()
            version = (await call).model_version
            await stopping
            return version, last_health

    assert asyncio.run(scenario()) == ("slow", NOT_SERVING)


def test_an_old_connection_is_given_up_without_cutting_off_a_running_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grpc_server, "CONNECTION_AGE_MS", 100)

    async def scenario() -> str:
        servicer = SlowServicer()
        async with running(servicer) as (server, channel):
            await server.set_serving(True)
            call = retriever_pb2_grpc.RetrieverServiceStub(channel).Retrieve(retriever_pb2.RetrieveRequest())
            await servicer.begun.wait()
            await asyncio.wait_for(channel.wait_for_state_change(grpc.ChannelConnectivity.READY), timeout=30)
            servicer.finish.set()
            return (await call).model_version

    assert asyncio.run(scenario()) == "slow"


def test_reflection_lists_the_services() -> None:
    async def scenario() -> list[str]:
        async with running(SlowServicer()) as (_, channel):
            reflect = channel.stream_stream(
                "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
                request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
                response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
            )
            call = reflect(iter([reflection_pb2.ServerReflectionRequest(list_services="")]))
            response = await call.read()
            assert isinstance(response, reflection_pb2.ServerReflectionResponse)
            return [service.name for service in response.list_services_response.service]

    assert asyncio.run(scenario()) == [
        "grpc.health.v1.Health",
        "grpc.reflection.v1alpha.ServerReflection",
        SERVICE,
    ]


def test_taken_port_is_named_together_with_its_setting() -> None:
    async def scenario(port: int) -> None:
        build_server(port=port, port_setting="RECIPE_RETRIEVER_PORT", service_names=[], register=lambda _: None)

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(AddressUnavailableError) as raised:
            asyncio.run(scenario(port))
    assert isinstance(raised.value, UnavailableError)
    assert str(raised.value) == (
        f"cannot listen on 127.0.0.1:{port}: the port is taken or not this machine's to use; "
        "set RECIPE_RETRIEVER_PORT to a free port"
    )


def test_two_servers_never_share_a_port() -> None:
    async def scenario() -> None:
        async with running(SlowServicer()) as (server, _):
            with pytest.raises(AddressUnavailableError):
                build_server(port=server.port, port_setting="PORT", service_names=[], register=lambda _: None)

    asyncio.run(scenario())


def test_a_message_that_is_larger_than_either_side_allows_is_refused() -> None:
    async def scenario(size: int, **limits: int) -> grpc.StatusCode:
        servicer = SlowServicer()
        servicer.finish.set()
        options = [option for option in client_options(SERVICE) if option[0].removeprefix("grpc.") not in limits]
        options += [(f"grpc.{name}", value) for name, value in limits.items()]
        async with running(servicer) as (server, _):
            await server.set_serving(True)
            async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}", options=options) as channel:
                stub = retriever_pb2_grpc.RetrieverServiceStub(channel)
                try:
                    await stub.Retrieve(retriever_pb2.RetrieveRequest(query="x" * size))
                except grpc.aio.AioRpcError as error:
                    return error.code()
                return grpc.StatusCode.OK

    too_large = MAX_REQUEST_BYTES + 1
    assert asyncio.run(scenario(MAX_REQUEST_BYTES - 100)) is grpc.StatusCode.OK
    assert asyncio.run(scenario(too_large)) is grpc.StatusCode.RESOURCE_EXHAUSTED  # by the client
    by_the_server = asyncio.run(scenario(too_large, max_send_message_length=-1))
    assert by_the_server is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_a_client_repeats_what_a_server_that_starts_refuses() -> None:
    async def scenario() -> str:
        servicer = SlowServicer()
        servicer.finish.set()
        async with running(servicer) as (server, _):
            options = client_options(SERVICE)
            async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}", options=options) as channel:
                stub = retriever_pb2_grpc.RetrieverServiceStub(channel)
                await channel.channel_ready()
                asked = asyncio.ensure_future(stub.Retrieve(retriever_pb2.RetrieveRequest()))
                await refused.wait()
                await server.set_serving(True)
                return (await asked).model_version

    refused = asyncio.Event()
    require = ErrorInterceptor._require_serving

    def noticed(interceptor: ErrorInterceptor) -> None:
        try:
            require(interceptor)
        finally:
            refused.set()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ErrorInterceptor, "_require_serving", noticed)
        assert asyncio.run(scenario()) == "slow"


def test_calls_are_refused_while_the_server_does_not_serve() -> None:
    async def scenario() -> list[grpc.StatusCode]:
        codes = []
        async with running(SlowServicer()) as (server, channel):
            stub = retriever_pb2_grpc.RetrieverServiceStub(channel)
            for serving in (False, True, False):
                await server.set_serving(serving)
                try:
                    await stub.ListFacts(retriever_pb2.ListFactsRequest())
                except grpc.aio.AioRpcError as error:
                    codes.append(error.code())
                else:
                    codes.append(grpc.StatusCode.OK)
        return codes

    unavailable = grpc.StatusCode.UNAVAILABLE
    assert asyncio.run(scenario()) == [unavailable, grpc.StatusCode.OK, unavailable]
