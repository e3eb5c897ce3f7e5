"""The web server: it stores a sign-up in the train, and answers.

EVENTWAGON_URL=redis://localhost uvicorn examples.signups.web:app
"""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated
from uuid import NAMESPACE_URL, uuid5

from fastapi import FastAPI, Header, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

from eventwagon import Connection, EventwagonError, PublishError, TrainFull, TrainRemoved

from .app import SignUp, signups

EMAIL = r"^[A-Za-z0-9_!#$%&'*+/=?^`{|}~.-]+@[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)*$"
_logger = logging.getLogger(__name__)


class Form(BaseModel):
    """What a browser sends."""

    email: Annotated[str, Field(pattern=EMAIL, max_length=254)]
    name: Annotated[str, Field(min_length=1, max_length=100)]


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with signups.connect() as connection:  # to EVENTWAGON_URL
        app.state.signups = connection
        yield


app = FastAPI(lifespan=lifespan)


@app.post("/signups", status_code=202)
async def sign_up(
    form: Form, request: Request, idempotency_key: Annotated[str, Header(min_length=1, max_length=200)]
) -> dict[str, str]:
    """202 once the sign-up is stored. A client that got no answer sends it again with the same key."""
    connection: Connection = request.app.state.signups
    event_id = str(uuid5(NAMESPACE_URL, f"{form.email.lower()} {idempotency_key}"))  # keys of two clients may be equal
    return {"signup": await connection.publish(SignUp(form.email, form.name), id=event_id, timeout=3)}


@app.exception_handler(TrainFull)
async def full(request: Request, error: TrainFull) -> JSONResponse:
    return JSONResponse({"detail": "too many sign-ups"}, status_code=429, headers={"Retry-After": "5"})


@app.exception_handler(PublishError)
async def not_stored(request: Request, error: PublishError) -> JSONResponse:
    """Not stored, or possibly not: the same key makes it safe to try again."""
    _logger.warning("a sign-up was not stored: %s", error)
    return JSONResponse({"detail": "try again with the same key"}, status_code=503, headers={"Retry-After": "1"})


@app.exception_handler(TrainRemoved)
async def closed(request: Request, error: TrainRemoved) -> JSONResponse:
    """To try again is of no use until this server is started again."""
    _logger.error("no sign-up is taken any more: %s", error)
    return JSONResponse({"detail": "sign-ups are closed"}, status_code=503)


@app.exception_handler(RequestValidationError)
async def wrong(request: Request, error: RequestValidationError) -> JSONResponse:
    """Without the input, which FastAPI's own answer repeats: it may be something that no answer can hold."""
    return JSONResponse({"detail": [{"loc": e["loc"], "msg": e["msg"]} for e in error.errors()]}, status_code=422)


@app.get("/ready")
async def ready(request: Request) -> JSONResponse:
    """503 while Redis does not answer, and once the train is removed."""
    connection: Connection = request.app.state.signups
    try:
        async with asyncio.timeout(3):
            manifest = (await connection.refresh()).manifest
    except (EventwagonError, TimeoutError) as e:
        _logger.warning("not ready: %s", str(e) or "no answer within 3 s")
        return JSONResponse({"detail": "not ready"}, status_code=503)
    return JSONResponse({"train": manifest.train})
