"""OpenTelemetry over OTLP/HTTP: traces, and the same figures that `/metrics` shows.

Off unless `OTEL_EXPORTER_OTLP_ENDPOINT` is set; the exporters read the other `OTEL_…` variables themselves.
Attributes are routes, counts, codes and ids of orders: never personal data, and never the text of an error.
"""

import os
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import pairwise
from typing import Any

from prometheus_client import REGISTRY

_tracer: Any = None


@contextmanager
def telemetry(service: str) -> Iterator[None]:
    """Exports while the block runs, under this `service.name`; what is left is sent at its end."""
    global _tracer
    if not os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT"):
        yield
        return
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    resource = Resource.create({"service.name": os.environ.get("OTEL_SERVICE_NAME") or service})
    provider = TracerProvider(resource=resource)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    exporter = OTLPMetricExporter()
    over = threading.Event()
    began = time.time_ns()
    interval = int(os.environ.get("OTEL_METRIC_EXPORT_INTERVAL") or 60_000) / 1000

    def export() -> None:
        while not over.wait(interval):
            exporter.export(_figures(resource, began))

    thread = threading.Thread(target=export, name="telemetry", daemon=True)
    thread.start()
    _tracer = provider.get_tracer("realtime")
    try:
        yield
    finally:
        _tracer = None
        over.set()
        thread.join(15)
        exporter.export(_figures(resource, began))
        exporter.shutdown()
        provider.shutdown()


def span(
    name: str,
    kind: str = "INTERNAL",
    headers: Mapping[str, str] | None = None,
    **attributes: str | int | float,
) -> AbstractContextManager[Any]:
    """A span around a block, None where nothing is exported.

    Args:
        name: of few values: a route or a step.
        kind: of OpenTelemetry's span kinds.
        headers: of the request that it answers, to go on with the caller's trace.
        attributes: `__` in a name stands for a dot.
    """
    if _tracer is None:
        return nullcontext()
    from opentelemetry.trace import SpanKind
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    context = TraceContextTextMapPropagator().extract(headers) if headers else None
    return _tracer.start_as_current_span(
        name,
        context=context,
        kind=SpanKind[kind],
        attributes={key.replace("__", "."): value for key, value in attributes.items()},
        record_exception=False,  # its text may hold what was sent
        set_status_on_exception=False,
    )


def trace_headers() -> dict[str, str]:
    """The headers that let whoever is called go on with this trace; none where nothing is exported."""
    headers: dict[str, str] = {}
    if _tracer is not None:
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        TraceContextTextMapPropagator().inject(headers)
    return headers


def _figures(resource: Any, began: int) -> Any:
    """What Prometheus would read, in OTLP's terms: one way to count, two ways to send."""
    from opentelemetry.sdk.metrics import export as otlp
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope

    now, since_start = time.time_ns(), otlp.AggregationTemporality.CUMULATIVE
    metrics = []
    for family in REGISTRY.collect():
        if not family.name.startswith("realtime_"):
            continue
        if family.type == "histogram":
            data: Any = otlp.Histogram(
                _histograms(family, began, now), otlp.AggregationTemporality.CUMULATIVE
            )
        else:
            points = [
                otlp.NumberDataPoint(sample.labels, began, now, sample.value)
                for sample in family.samples
                if not sample.name.endswith("_created")
            ]
            data = (
                otlp.Sum(points, since_start, is_monotonic=True)
                if family.type == "counter"
                else otlp.Gauge(points)
            )
        metrics.append(otlp.Metric(family.name, family.documentation, "", data))
    scope = otlp.ScopeMetrics(InstrumentationScope("realtime"), metrics, "")
    return otlp.MetricsData([otlp.ResourceMetrics(resource, [scope], "")])


def _histograms(family: Any, began: int, now: int) -> list[Any]:
    from opentelemetry.sdk.metrics.export import HistogramDataPoint

    series: dict[tuple, dict[str, Any]] = {}
    for sample in family.samples:
        labels = {name: value for name, value in sample.labels.items() if name != "le"}
        one = series.setdefault(tuple(sorted(labels.items())), {"labels": labels, "buckets": []})
        if sample.name.endswith("_bucket"):
            one["buckets"].append((float(sample.labels["le"]), sample.value))
        else:
            one[sample.name.rsplit("_", 1)[1]] = sample.value
    points = []
    for one in series.values():
        buckets = sorted(one["buckets"])
        reached = [0.0, *(count for _, count in buckets)]
        points.append(
            HistogramDataPoint(
                one["labels"],
                began,
                now,
                int(one["count"]),
                one["sum"],
                [int(upper - lower) for lower, upper in pairwise(reached)],
                [bound for bound, _ in buckets[:-1]],  # the last one is infinite
                float("inf"),
                float("-inf"),
            )
        )
    return points
