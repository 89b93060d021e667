"""Traces of single prompts through the stages, with W3C trace context from the client and to Triton.

They are off unless configured, and need the extra `tracing` (OpenTelemetry). While they are off, they cost almost
nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Final, Protocol

NAME: Final = "cascade-router"
_EXPORT_S: Final = 2
HEADERS: Final = ("traceparent", "tracestate")
Headers = tuple[tuple[str, str], ...]


class TracingError(Exception):
    """Traces cannot be sent; the message says what to do."""


class Span(Protocol):
    """One part of a request's course, with its attributes."""

    def set_attributes(self, attributes: Mapping[str, Any]) -> None: ...


class _NoSpan:
    def set_attributes(self, attributes: Mapping[str, Any]) -> None:
        """Do nothing: this span is not recorded."""


_NO_SPAN: Final = nullcontext(_NoSpan())


class Traces:
    """Spans of one OpenTelemetry provider."""

    def __init__(self, provider: Any) -> None:
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._provider = provider
        self._tracer = provider.get_tracer(NAME)
        self._propagator = TraceContextTextMapPropagator()

    @contextmanager
    def span(self, name: str, kind: str, parent: Headers | None, attributes: Mapping[str, Any]) -> Iterator[Span]:
        """A span that is the current one inside the block; its parent is ``parent``, or else the current span."""
        from opentelemetry.trace import SpanKind, Status, StatusCode

        context = None if parent is None else self._propagator.extract(dict(parent))
        with self._tracer.start_as_current_span(
            name,
            context=context,
            kind=SpanKind[kind],
            attributes=attributes,
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            try:
                yield span
            except BaseException as error:
                # The message may contain words of the prompt.
                span.set_status(Status(StatusCode.ERROR, type(error).__name__))
                raise

    def headers(self) -> Headers:
        carrier: dict[str, str] = {}
        self._propagator.inject(carrier)
        return tuple(carrier.items())

    def close(self) -> None:
        """Send the remaining spans. Blocks."""
        self._provider.shutdown()


_traces: Traces | None = None


def use(traces: Traces | None) -> None:
    """Use these traces from now on; None turns tracing off."""
    global _traces
    _traces = traces


def on() -> bool:
    """Whether anything is traced."""
    return _traces is not None


def set_up(endpoint: str, *, router_id: str, share: float) -> None:
    """Send traces to an OTLP collector.

    Args:
        endpoint: OTLP over gRPC, such as ``http://collector:4317``.
        router_id: the name of this router in traces.
        share: the share of prompts without a client's trace that are traced.

    Raises:
        TracingError: the extra is not installed.
    """
    try:
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
    except ModuleNotFoundError as error:
        raise TracingError(
            f"CASCADE_ROUTER_TRACES_ENDPOINT: needs {error.name}; install the extra: diffusion-cascade[tracing]"
        ) from None
    provider = TracerProvider(
        resource=Resource.create({"service.name": NAME, "service.instance.id": router_id}),
        sampler=ParentBased(TraceIdRatioBased(share)),
    )
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint, timeout=_EXPORT_S)))
    use(Traces(provider))


def close() -> None:
    """Send the remaining spans and stop. Blocks."""
    traces = _traces
    use(None)
    if traces is not None:
        traces.close()


def span(
    name: str, /, *, kind: str = "INTERNAL", parent: Headers | None = None, **attributes: str | float | int
) -> AbstractContextManager[Span]:
    """A span for a part of a request's course; ``kind`` as in OpenTelemetry, attributes with prefix ``cascade.``."""
    if _traces is None:
        return _NO_SPAN
    return _traces.span(name, kind, parent, {f"cascade.{key}": value for key, value in attributes.items()})


def note(current: Span, **attributes: str | float | int | None) -> None:
    """Add attributes that are known only now."""
    if _traces is not None:
        current.set_attributes({f"cascade.{key}": value for key, value in attributes.items() if value is not None})


def context_of(headers: Iterable[tuple[str, Any]]) -> Headers:
    """The trace of a caller's headers or metadata; empty if tracing is off."""
    if _traces is None:
        return ()
    return tuple((name, str(value)) for name, value in headers if name in HEADERS)


def headers() -> Headers | None:
    """The headers that pass the current span on to another server; None if there is none."""
    return None if _traces is None else _traces.headers()
