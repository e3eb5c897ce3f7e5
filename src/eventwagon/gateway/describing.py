"""The OpenAPI document of the gateway. https://spec.openapis.org/oas/v3.1.0"""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import msgspec

from ..cloudevents import BATCH, STRUCTURED

_EVENT = {
    "type": "object",
    "required": ["specversion", "id", "source", "type"],
    "properties": {
        "specversion": {"const": "1.0"},
        "id": {"type": "string", "minLength": 1, "description": "The same for a repetition of the same event."},
        "source": {"type": "string", "minLength": 1},
        "type": {"type": "string", "minLength": 1},
        "subject": {"type": "string", "description": "The event's key."},
        "time": {"type": "string", "format": "date-time"},
        "datacontenttype": {"type": "string"},
        "data": {},
        "data_base64": {"type": "string", "contentEncoding": "base64"},
    },
    "additionalProperties": {"type": ["string", "integer", "boolean"]},
}


def description(events: int, body: int) -> bytes:
    """The document, as JSON. `events` of a batch and bytes of a body are taken."""
    return msgspec.json.encode(
        {
            "openapi": "3.1.0",
            "info": {
                "title": "eventwagon gateway",
                "version": version("eventwagon"),
                "description": f"Publishes CloudEvents 1.0 to trains. A body may have {body:,} bytes, a batch "
                f"{events:,} events. After 429, 503 or a lost answer send the same events again, with the same ids.",
            },
            "paths": {
                "/trains/{train}/events": {"post": _publish()},
                "/healthz": {"get": _probe("The process is alive.")},
                "/readyz": {
                    "get": _probe("It can publish.")
                    | {"responses": {"200": {"description": "It can publish."}, "503": _ERROR}}
                },
            },
            "components": {"securitySchemes": {"key": {"type": "http", "scheme": "bearer"}}},
        }
    )


_ERROR: dict[str, Any] = {
    "description": "Refused; nothing was stored unless the error says so.",
    "content": {"application/json": {"schema": {"type": "object", "properties": {"error": {"type": "string"}}}}},
}
_LATER = {**_ERROR, "headers": {"Retry-After": {"description": "Seconds.", "schema": {"type": "integer"}}}}


def _publish() -> dict[str, Any]:
    return {
        "summary": "Publish one event or a batch",
        "description": "Besides the forms below any body with the headers ce-id, ce-source, ce-type and "
        "ce-specversion is one event (binary mode).",
        "security": [{"key": []}, {}],
        "parameters": [{"name": "train", "in": "path", "required": True, "schema": {"type": "string"}}],
        "requestBody": {
            "required": True,
            "content": {
                STRUCTURED: {"schema": _EVENT},
                BATCH: {"schema": {"type": "array", "items": _EVENT}},
                "*/*": {"schema": {}},
            },
        },
        "responses": {
            "202": {
                "description": "All events are stored.",
                "content": {
                    "application/json": {"schema": {"type": "object", "properties": {"accepted": {"type": "integer"}}}}
                },
            },
            **dict.fromkeys(("400", "401", "403", "404", "408", "410", "413", "415"), _ERROR),
            **dict.fromkeys(("429", "503"), _LATER),
        },
    }


def _probe(what: str) -> dict[str, Any]:
    return {"summary": what, "responses": {"200": {"description": what}}}
