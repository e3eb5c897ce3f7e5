"""The SDK of OpenTelemetry, set up for processes that eventwagon starts itself."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

from ..display.text import said
from .wanted import INSTALL, exporters, is_wanted, missing, tell

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

_GROUP = "opentelemetry_traces_exporter"
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_OTLP = {"http/protobuf": "otlp_proto_http", "grpc": "otlp_proto_grpc"}


@contextmanager
def exporting(service: str, *, to_flush: float = 5.0) -> Iterator[None]:
    """While entered, spans are exported as the environment says, unless the program has set a tracer provider. At the
    end the last ones are sent, within `to_flush` seconds. `service` is the service's name if the environment has none.
    What is missing or wrong is logged, and nothing is raised."""
    provider = _provider(service) if is_wanted() else None
    try:
        yield
    finally:
        if provider is not None:
            ending = threading.Thread(target=provider.shutdown, name="eventwagon spans", daemon=True)
            ending.start()
            ending.join(to_flush)


def _provider(service: str) -> TracerProvider | None:
    """The provider that was set up; None if the program has one, or none can be had."""
    try:
        from opentelemetry.sdk.resources import SERVICE_NAME, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.trace import ProxyTracerProvider, get_tracer_provider, set_tracer_provider

        if not isinstance(get_tracer_provider(), ProxyTracerProvider):
            return None
        resource = Resource.create()
        if str(resource.attributes.get(SERVICE_NAME, "unknown_service")).startswith("unknown_service"):
            resource = resource.merge(Resource({SERVICE_NAME: service}))
        provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    except ImportError as e:
        tell(missing(e))
        return None
    except Exception as e:  # noqa: BLE001 - a variable of the environment that OpenTelemetry can't read
        tell(said(e))
        return None
    made = [exporter for name in exporters() if (exporter := _exporter(name)) is not None]
    if not made:
        return None
    try:
        for exporter in made:
            provider.add_span_processor(BatchSpanProcessor(exporter))
    except Exception as e:  # noqa: BLE001 - the variables of the processor, OTEL_BSP_…
        tell(said(e))
        return None
    set_tracer_provider(provider)
    return provider


def _exporter(name: str) -> Any:
    """The exporter of this name, as OpenTelemetry's packages register them; None, which is logged, if there is none."""
    try:
        if name == "otlp":
            protocol = next((found for each in _PROTOCOLS if (found := os.environ.get(each, "").strip())), "")
            name = _OTLP.get(protocol or "http/protobuf", f"otlp with protocol {protocol}")
        entry = next(iter(entry_points(group=_GROUP, name=name)), None)
        if entry is None:
            tell(f"no exporter {name} is installed; {INSTALL} installs otlp_proto_http")
            return None
        return entry.load()()
    except Exception as e:  # noqa: BLE001 - whatever is wrong with the exporter's own variables and package
        tell(f"exporter {name}: {said(e)}")
        return None
