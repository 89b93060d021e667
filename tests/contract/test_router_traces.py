"""A collector gets the whole way of a prompt, in the trace that its client named, over either protocol."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent import futures
from typing import Any

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

from support.redis import RedisServer
from support.router import EASY, StartRouter, make_plan
from support.sleepers import SECONDS
from support.triton import TritonServer

pytestmark = pytest.mark.contract

PARENT = "b7ad6b7169203331"


class Collector(trace_service_pb2_grpc.TraceServiceServicer):  # type: ignore[misc]
    """Keeps the spans that it is sent."""

    def __init__(self) -> None:
        self.spans: list[Any] = []
        self._lock = threading.Lock()

    def Export(self, request: Any, context: Any) -> Any:  # noqa: N802
        with self._lock:
            self.spans += [s for r in request.resource_spans for scope in r.scope_spans for s in scope.spans]
        return trace_service_pb2.ExportTraceServiceResponse()


@pytest.fixture
def collector() -> Iterator[tuple[Collector, str]]:
    """A collector, and its address."""
    kept, server = Collector(), grpc.server(futures.ThreadPoolExecutor(2))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(kept, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield kept, f"http://127.0.0.1:{port}"
    server.stop(None)


def test_a_prompts_way_is_one_trace_of_its_client(
    redis_server: RedisServer,
    sleeper_triton: TritonServer,
    start_router: StartRouter,
    collector: tuple[Collector, str],
) -> None:
    kept, endpoint = collector
    replicas = {variant: [sleeper_triton.endpoint] for variant in SECONDS}
    router = start_router(redis_server, make_plan(replicas, direct=0, escalation=1), traces_endpoint=endpoint)
    router.ask(EASY)  # the one that connects
    traces = {"grpc": "0af7651916cd43dd8448eb211c80319c", "http": "4bf92f3577b34da6a3ce929d0e0e4736"}
    contexts = {protocol: {"traceparent": f"00-{trace}-{PARENT}-01"} for protocol, trace in traces.items()}
    router.ask(EASY, headers=contexts["grpc"])
    assert router.post({"prompt": EASY}, headers=contexts["http"]).status_code == 200
    assert router.stop() == 0  # which sends what is left
    for protocol, trace in traces.items():
        spans = {span.span_id: span for span in kept.spans if span.trace_id.hex() == trace}
        (whole,) = (span for span in spans.values() if span.parent_span_id.hex() == PARENT)
        told = {pair.key: pair.value for pair in whole.attributes}
        assert (whole.name, told["cascade.protocol"].string_value) == ("generate", protocol)
        assert told["cascade.route"].string_value == "escalated"
        parts = [span for span in spans.values() if span is not whole]
        assert sorted(span.name for span in parts) == ["make", "make", "wait", "wait"]
        assert {span.parent_span_id for span in parts} == {whole.span_id}
    assert len({span.trace_id for span in kept.spans}) == 3
    assert EASY not in "".join(map(str, kept.spans))
