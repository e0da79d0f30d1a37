"""A service of your own in front of longserve: FastAPI with `AsyncClient`.

    pip install fastapi uvicorn 'longserve[client]'
    LONGSERVE_URL=grpc://localhost:8001 uvicorn --app-dir examples fastapi_service:app

One client for the whole service keeps its connections; requests that come together are packed by the
server. Each of longserve's errors becomes the HTTP status that says the same, and what the caller did wrong
is told to the caller.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

from longserve.serving import (
    AsyncClient,
    DeadlineExceeded,
    InvalidInput,
    ModelNotFound,
    Overloaded,
    ServerUnavailable,
    ServingError,
)

_STATUS = {
    InvalidInput: 422,
    ModelNotFound: 404,
    Overloaded: 429,
    ServerUnavailable: 503,
    DeadlineExceeded: 504,
}


class Document(BaseModel):
    """A text to label."""

    text: str
    top_k: int = Field(default=1, ge=1)


class Question(BaseModel):
    """A question to a text."""

    question: str
    context: str
    top_k: int = Field(default=1, ge=1, le=20)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Open the client when the service starts, close it when it stops."""
    url = os.environ.get("LONGSERVE_URL", "grpc://localhost:8001")
    async with AsyncClient(url, timeout=30.0) as client:
        app.state.client = client
        yield


app = FastAPI(title="Long documents", lifespan=lifespan)


@app.exception_handler(ServingError)
async def failed(request: Request, error: ServingError) -> JSONResponse:
    """Answer with the status that says what longserve's error says."""
    status = next((code for kind, code in _STATUS.items() if isinstance(error, kind)), 502)
    headers = {"Retry-After": "1"} if status in (429, 503) else None
    return JSONResponse({"error": str(error)}, status_code=status, headers=headers)


@app.get("/ready")
async def ready(request: Request) -> dict[str, bool]:
    """Say whether the models answer, for a probe."""
    if not await request.app.state.client.server_ready():
        raise ServerUnavailable("the models are not ready; try again later")
    return {"ready": True}


@app.post("/classify")
async def classify(document: Document, request: Request) -> dict[str, Any]:
    """Label a document."""
    return asdict(await request.app.state.client.classify(document.text, top_k=document.top_k))


@app.post("/answer")
async def answer(question: Question, request: Request) -> dict[str, Any]:
    """Answer a question from a document."""
    client = request.app.state.client
    answers = await client.answer(question.question, question.context, top_k=question.top_k)
    return {"answers": [asdict(found) for found in answers]}
