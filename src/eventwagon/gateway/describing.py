"""The OpenAPI document of the gateway. https://spec.openapis.org/oas/v3.1.0"""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import msgspec

from ..cloudevents import BATCH, STRUCTURED
from .remote import LEASE_MOST
from .working import WAIT_MOST

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


def description(events: int, body: int, *, works: bool) -> bytes:
    """The document, as JSON. `events` of a batch and bytes of a body are taken. `works`: with the routes of
    consumers."""
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
                **(_of_consumers(events) if works else {}),
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
            **dict.fromkeys(("400", "401", "403", "404", "408", "410", "413", "415", "421"), _ERROR),
            **dict.fromkeys(("429", "503"), _LATER),
        },
    }


def _of_consumers(most: int) -> dict[str, Any]:
    """The routes of consumers."""
    lease = {
        "type": "number",
        "minimum": 1,
        "maximum": LEASE_MOST,
        "description": "Seconds. Never longer than until the timeout of the channel's handler.",
    }
    reason = {"type": "string", "maxLength": 2000}
    emit = {
        "type": "array",
        "items": {
            "type": "object",
            "required": ["channel"],
            "properties": {"channel": {"type": "string"}, "event": _EVENT, "data": {}},
            "additionalProperties": False,
            "description": "An event, or the data of one in JSON, for an inner channel.",
        },
        "maxItems": most,
        "description": f"At most {most:,} over all receipts of a request.",
    }
    says: dict[str, tuple[str, dict[str, Any]]] = {
        "settle": (
            "The delivery was handled. Answered once what it emits is stored and it is settled.",
            {"emit": emit},
        ),
        "release": ("Another consumer shall get it. No attempt is counted.", {}),
        "extend": ("The lease begins anew.", {"lease": lease}),
        "reject": ("It can never be handled: a dead letter at once.", {"reason": reason}),
        "fail": ("This attempt failed: the train's backoff and attempts decide.", {"reason": reason}),
    }
    paths = {f"/trains/{{train}}/{verb}": {"post": _say(what, more, most)} for verb, (what, more) in says.items()}
    asked = {
        "limit": {"type": "integer", "minimum": 1, "maximum": most, "default": 10},
        "wait": {"type": "number", "minimum": 0, "maximum": WAIT_MOST, "default": 20},
        "channel": {"type": "string", "description": "Empty: the ingress. Without it: any channel."},
        "lease": {**lease, "default": 30},
    }
    delivery = _object(
        receipt={"type": "string"},
        channel={"type": "string"},
        wagon={"type": "integer"},
        attempt={"type": "integer"},
        lease={"type": "number"},
        event=_EVENT,
    )
    answered = _object(deliveries={"type": "array", "items": delivery})
    what = "Receive deliveries; waits up to `wait` seconds for the first"
    return {"/trains/{train}/receive": {"post": _posted(what, _object(**asked), answered)}, **paths}


def _say(what: str, more: dict[str, Any], most: int) -> dict[str, Any]:
    item = _object(receipt={"type": "string"}, **more) | {"required": ["receipt"], "additionalProperties": False}
    result = _object(
        receipt={"type": "string"},
        done={"type": "boolean"},
        error={"type": "string"},
        already={"type": "boolean", "description": "An earlier request has done it."},
        lease={"type": "number", "description": "Only of extend: its seconds."},
    )
    asked = _object(receipts={"type": "array", "maxItems": most, "items": item}) | {"required": ["receipts"]}
    return _posted(what, asked, _object(receipts={"type": "array", "items": result}))


def _object(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties}


def _posted(what: str, asked: dict[str, Any], answered: dict[str, Any]) -> dict[str, Any]:
    return {
        "summary": what,
        "security": [{"key": []}, {}],
        "parameters": [{"name": "train", "in": "path", "required": True, "schema": {"type": "string"}}],
        "requestBody": {"required": True, "content": {"application/json": {"schema": asked}}},
        "responses": {
            "200": {"description": "Done, or why not.", "content": {"application/json": {"schema": answered}}},
            **dict.fromkeys(("400", "401", "403", "404", "408", "413", "415", "421"), _ERROR),
            "503": _LATER,
        },
    }


def _probe(what: str) -> dict[str, Any]:
    return {"summary": what, "responses": {"200": {"description": what}}}
