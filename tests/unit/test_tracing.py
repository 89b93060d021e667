"""One prompt's trace through the stages, in the context of its client, carried on to Triton."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from cascade_router import tracing
from cascade_router.requests import RequestRefused
from support.engine import ask, cascade, endpoints, replicas
from support.router import make_plan as make_any_plan
from support.scripted_triton import answer, fail, response

make_plan = functools.partial(make_any_plan, objectiveS=600)
"""No deadline of these tests is ever missed."""
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@pytest.fixture
def spans() -> Iterator[InMemorySpanExporter]:
    """What was traced."""
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracing.use(tracing.Traces(provider))
    yield exporter
    tracing.close()


def finished(exporter: InMemorySpanExporter) -> list[tuple[str, dict[str, Any]]]:
    return [(span.name, dict(span.attributes or {})) for span in exporter.get_finished_spans()]


def parent_of(span: ReadableSpan) -> str:
    assert span.parent is not None
    return f"{span.parent.span_id:016x}"


async def test_each_stage_is_a_span_and_triton_gets_its_context(spans: InMemorySpanExporter) -> None:
    contexts: list[str] = []

    async def behave(request: Any, context: Any) -> Any:
        contexts.append(dict(context.invocation_metadata())["traceparent"])
        return response(confidence=0.25)

    async with replicas(behave) as servers:
        plan = make_plan({variant: endpoints(*servers) for variant in ("shapes-light", "shapes-heavy")}, direct=0)
        plan = plan.model_copy(update={"rows": [plan.rows[0].model_copy(update={"escalation": 1.0})]})
        async with cascade(plan) as runtime:
            parent = (("traceparent", f"00-{TRACE}-{PARENT}-01"),)
            with tracing.span("generate", kind="SERVER", parent=parent, name="default/shapes") as whole:
                made = await ask(runtime)
                tracing.note(whole, route=str(made.route), confidence=None)
    names = [name for name, _ in finished(spans)]
    assert names == ["wait", "make", "wait", "make", "generate"]
    light_wait, light, heavy_wait, heavy, root = spans.get_finished_spans()
    assert {f"{span.context.trace_id:032x}" for span in spans.get_finished_spans()} == {TRACE}
    assert parent_of(root) == PARENT
    assert {parent_of(span) for span in (light_wait, light, heavy_wait, heavy)} == {f"{root.context.span_id:016x}"}
    assert contexts == [f"00-{TRACE}-{span.context.span_id:016x}-01" for span in (light, heavy)]
    stages = [attributes["cascade.stage"] for name, attributes in finished(spans) if name == "make"]
    assert stages == ["light", "heavy"]
    assert finished(spans)[1][1]["cascade.confidence"] == 0.25
    assert finished(spans)[4][1] == {"cascade.name": "default/shapes", "cascade.route": "escalated"}


async def test_a_try_that_failed_is_a_span_of_its_own_without_words_of_the_prompt(spans: InMemorySpanExporter) -> None:
    async with replicas(fail(grpc.StatusCode.UNAVAILABLE), answer()) as servers:
        plan = make_plan({"shapes-light": endpoints(*servers)}, direct=0, escalation=0)
        async with cascade(plan) as runtime:
            await ask(runtime)
    tries = [span for span in spans.get_finished_spans() if span.name == "make"]
    assert [span.status.status_code for span in tries] == [StatusCode.ERROR, StatusCode.UNSET]
    assert tries[0].status.description == "ReplicaFailed"
    assert not any(span.events for span in tries)


async def test_what_the_model_rejects_is_told_by_its_kind_alone(spans: InMemorySpanExporter) -> None:
    async with replicas(fail(grpc.StatusCode.INVALID_ARGUMENT, "did not understand 'dragon'")) as servers:
        plan = make_plan({"shapes-light": endpoints(*servers)}, direct=0, escalation=0)
        async with cascade(plan) as runtime:
            with pytest.raises(RequestRefused):
                await ask(runtime)
    assert "dragon" not in "".join(span.to_json() for span in spans.get_finished_spans())


def test_only_the_trace_context_is_taken_from_what_a_client_sends(spans: InMemorySpanExporter) -> None:
    assert tracing.context_of([("authorization", "Bearer x"), ("traceparent", "00-1")]) == (("traceparent", "00-1"),)


async def test_without_a_set_up_nothing_is_traced_or_sent() -> None:
    metadata: list[Any] = []

    async def behave(request: Any, context: Any) -> Any:
        metadata.extend(name for name, _ in context.invocation_metadata())
        return response()

    async with replicas(behave) as servers:
        plan = make_plan({"shapes-light": endpoints(*servers)}, direct=0, escalation=0)
        async with cascade(plan) as runtime:
            await ask(runtime)
    assert "traceparent" not in metadata
    assert tracing.context_of([("traceparent", "00-1")]) == ()
    assert tracing.headers() is None
