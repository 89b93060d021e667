"""However many connections others keep open, a router accepts new requests, and busy clients keep theirs."""

from __future__ import annotations

import contextlib
import resource
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import httpx
import psutil
import pytest
import tritonclient.grpc as triton
from tritonclient.grpc import service_pb2, service_pb2_grpc

from support.ports import free_port
from support.redis import RedisServer
from support.router import EASY, RouterProcess, inputs_of, make_plan, on_hold, publish
from support.triton import TritonServer
from support.waiting import PATIENCE_S, wait_for

pytestmark = pytest.mark.contract

GET = b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n"
FILES = 256


@pytest.fixture
def few_files(redis_server: RedisServer, shared_triton: TritonServer, tmp_path: Path) -> Iterator[RouterProcess]:
    """A router that may have few files open, with an address for health alone beside."""
    publish(redis_server, make_plan({each: [shared_triton.endpoint] for each in ("shapes-light", "shapes-heavy")}))
    router = RouterProcess(redis_server.url, tmp_path, health_address=f"127.0.0.1:{free_port()}")
    router.ulimit = f"-n {FILES}"
    try:
        yield router.start().wait_ready()
    finally:
        router.stop()
    assert "Traceback" not in router.log.read_text()


@contextlib.contextmanager
def held(address: str, count: int, *, said: bytes = b"") -> Iterator[list[socket.socket]]:
    """So many connections that are open at once, each after it said something."""
    host, _, port = address.removeprefix("http://").rpartition(":")
    with contextlib.ExitStack() as stack:
        connections = []
        for _ in range(count):
            connection = stack.enter_context(socket.create_connection((host, int(port)), timeout=PATIENCE_S))
            with contextlib.suppress(ConnectionError):
                connection.sendall(said)
                if said:
                    connection.recv(1000)
            connections.append(connection)
        yield connections


def assert_answers(router: RouterProcess) -> None:
    """Over connections that are new, by either protocol and at the address of health."""
    assert httpx.get(router.http_url + "/healthz", timeout=PATIENCE_S).status_code == 200
    health = router.environment["CASCADE_ROUTER_HEALTH_ADDRESS"]
    assert httpx.get(f"http://{health}/readyz", timeout=PATIENCE_S).status_code == 200
    with triton.InferenceServerClient(router.grpc) as client:
        assert client.infer("shapes", inputs_of(EASY), client_timeout=PATIENCE_S).as_numpy("image") is not None


@pytest.mark.parametrize("said", [b"", GET], ids=["silent", "kept alive"])
def test_idle_http_connections_give_way_to_new_ones(few_files: RouterProcess, said: bytes) -> None:
    with held(few_files.http_url, 2 * FILES, said=said):
        for _ in range(3):
            assert_answers(few_files)


def test_the_longest_idle_one_goes_first(few_files: RouterProcess) -> None:
    def own_address(client: httpx.Client) -> object:
        return client.get("/healthz").extensions["network_stream"].get_extra_info("client_addr")

    with (
        held(few_files.http_url, FILES // 2 - 2, said=GET) as others,
        httpx.Client(base_url=few_files.http_url, timeout=PATIENCE_S) as client,
    ):
        before = own_address(client)
        with held(few_files.http_url, FILES // 4):
            while others[0].recv(1000):
                pass  # until the router closes it
            assert own_address(client) == before


def test_while_all_are_busy_a_new_one_is_told_so_and_health_and_grpc_go_on(few_files: RouterProcess) -> None:
    waits = b"POST /v1/images/generations HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    with held(few_files.http_url, FILES // 2) as busy:
        for connection in busy:
            connection.sendall(waits + b"content-length: 100\r\nexpect: 100-continue\r\n\r\n")
            assert connection.recv(1000).startswith(b"HTTP/1.1 100 ")
        reply = httpx.get(few_files.http_url + "/healthz", timeout=PATIENCE_S)
        assert reply.status_code == 503
        assert reply.json()["error"]["type"] == "server_error"
        health = few_files.environment["CASCADE_ROUTER_HEALTH_ADDRESS"]
        assert httpx.get(f"http://{health}/readyz", timeout=PATIENCE_S).status_code == 200
        assert few_files.ask(EASY).image.shape == (32, 32, 3)
    assert_answers(few_files)


def test_idle_connections_for_health_or_grpc_leave_the_others_room(few_files: RouterProcess) -> None:
    with held(few_files.environment["CASCADE_ROUTER_HEALTH_ADDRESS"], FILES, said=GET):
        assert_answers(few_files)
    with held(few_files.grpc, FILES):
        assert httpx.get(few_files.http_url + "/healthz", timeout=PATIENCE_S).status_code == 200
    wait_for(lambda: few_files.ask(EASY).image is not None, what="gRPC to answer")


def test_the_limit_that_it_starts_with_is_raised(
    redis_server: RedisServer, shared_triton: TritonServer, tmp_path: Path
) -> None:
    publish(redis_server, make_plan({each: [shared_triton.endpoint] for each in ("shapes-light", "shapes-heavy")}))
    router = RouterProcess(redis_server.url, tmp_path, health_address=f"127.0.0.1:{free_port()}")
    router.ulimit = "-S -n 1024"
    try:
        router.start().wait_ready()
        assert router.process is not None
        soft, hard = psutil.Process(router.process.pid).rlimit(psutil.RLIMIT_NOFILE)
        assert soft == min(hard, 1024 * 1024)
        assert hard == resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        with held(router.http_url, 1100, said=GET):
            assert_answers(router)
    finally:
        router.stop()


def test_keep_alive_pings_do_not_end_long_calls(shared_router: RouterProcess, shared_triton: TritonServer) -> None:
    options = [
        ("grpc.keepalive_time_ms", 1000),  # a client sends no more than one in a second
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.use_local_subchannel_pool", 1),
    ]
    request = service_pb2.ModelInferRequest(model_name="shapes")
    request.inputs.add(name="prompt", datatype="BYTES", shape=[1]).contents.bytes_contents.append(EASY.encode())
    shared_router.ask(EASY)
    with grpc.insecure_channel(shared_router.grpc, options) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        with on_hold(shared_triton):
            call = stub.ModelInfer.future(request, timeout=PATIENCE_S)
            time.sleep(8)  # as many pings
            assert not call.done()
        assert call.result().outputs
