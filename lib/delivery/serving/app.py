"""The paths that a served classifier answers."""

from __future__ import annotations

import asyncio
import logging
import secrets
import threading
import time
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

from fastapi import FastAPI, HTTPException, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect

from lib.delivery.serving.batching import Batches
from lib.delivery.serving.metrics import Metrics
from lib.delivery.serving.questions import (
    MAX_EXPLAINED,
    Answers,
    Explanation,
    Part,
    Question,
    as_answers,
    read_question,
)
from lib.delivery.serving.serving_model import Model, ServingModel
from lib.robustness.attributions import Attribution, leave_one_out

MAX_PARTS = 60  # of an explained text; a longer one is explained by runs of words
GONE = 499  # nginx's status for a client that went away
PATHS = {"/", "/predict", "/explain", "/health", "/ready", "/metrics", "/openapi.json"}
CSV_EXAMPLE = "text\nReturn the sorted list of primes below n.\n"
PAGE = Path(__file__).parents[1] / "templates" / "serving.html"
BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": Question.model_json_schema()},
            "text/csv": {"schema": {"type": "string"}, "example": CSV_EXAMPLE},
        },
    }
}
ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"description": words, "content": {"application/json": {"example": {"detail": "…"}}}}
    for status, words in {
        400: "Not JSON or CSV in UTF-8",
        408: "The body came too slowly",
        413: "The body is too large",
        415: "Another type of content",
        422: "Values of another type, too many texts, or a text that is too long",
    }.items()
}
logger = logging.getLogger("uvicorn.error")


def create_app(serving: ServingModel, *, hosts: Sequence[str]) -> FastAPI:
    """Return the application.

    Parameters
    ----------
    hosts : names that it may be asked under, without a port; "*" is any
    """
    batches = Batches(serving)
    metrics = Metrics()
    metrics.set_model("", serving.current.version)
    explaining = asyncio.Semaphore(1)
    page = PAGE.read_text(encoding="utf-8")

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        if serving.source.name:
            threading.Thread(target=_follow, args=(serving, metrics), daemon=True).start()
        yield

    # FastAPI's own pages fetch their scripts from a network
    app = FastAPI(title="Text classifier", docs_url=None, redoc_url=None, lifespan=lifespan)

    @app.post("/predict", responses=ERRORS, openapi_extra=BODY)
    async def predict(request: Request) -> Answers:
        """Label texts."""
        question = await read_question(request)
        with _failing_quietly():
            model, table = await batches.answer(question.all_texts)
        metrics.count_answers(table)
        answers = as_answers(table, model.classifier.class_names)
        return Answers(model=model.version, answers=answers)

    @app.post("/explain", responses=ERRORS, openapi_extra=BODY)
    async def explain(request: Request) -> Explanation:
        """Label one text, and say which words mattered: what the answer is without each of them."""
        question = await read_question(request)
        if question.texts or len(question.text) > MAX_EXPLAINED:
            words = f"What is explained is one text of at most {MAX_EXPLAINED:,} characters."
            raise HTTPException(422, words)
        with _failing_quietly():
            model, table = await batches.answer([question.text])
            async with explaining:
                found = await asyncio.to_thread(_attribution, model, question.text)
        metrics.count_answers(table)
        (answer,) = as_answers(table, model.classifier.class_names)
        return Explanation(
            model=model.version, answer=answer, explained=found.predicted, parts=_parts(found)
        )

    @app.get("/health")
    def health() -> dict[str, str]:
        """Say that the process answers."""
        return {"status": "ok"}

    @app.get("/ready")
    def ready() -> dict[str, str]:
        """Say that texts are answered, and by what."""
        return {"status": "ready", "model": serving.current.version}

    @app.get("/metrics", include_in_schema=False)
    def counts() -> Response:
        return Response(metrics.exposition(), media_type=CONTENT_TYPE_LATEST)

    @app.get("/", include_in_schema=False)
    def index() -> Response:
        return _page(page)

    @app.exception_handler(ClientDisconnect)
    async def gone(request: Request, error: Exception) -> Response:
        return Response(status_code=GONE)

    app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(hosts), www_redirect=False)

    @app.middleware("http")
    async def counted(
        request: Request, call_next: Callable[[Request], Awaitable[Response]]
    ) -> Response:
        started = time.perf_counter()
        response = await call_next(request)
        path = request.url.path if request.url.path in PATHS else "other"
        metrics.count_request(path, response.status_code, time.perf_counter() - started)
        return response

    return app


def _follow(serving: ServingModel, metrics: Metrics) -> None:
    while True:
        time.sleep(serving.pause)
        before = serving.current.version
        serving.refresh()
        metrics.set_model(before, serving.current.version)


@contextmanager
def _failing_quietly() -> Iterator[None]:
    """Answer 500 where a prediction raises; its message may quote a text, so the log has none."""
    try:
        yield
    except Exception as error:
        where = "".join(traceback.format_tb(error.__traceback__))
        logger.error("a prediction failed with %s:\n%s", type(error).__name__, where)
        raise HTTPException(500, "The classifier failed; the server's log says where.") from None


def _attribution(model: Model, text: str) -> Attribution:
    classifier = model.classifier
    (found,) = leave_one_out(
        classifier.predict_probs, [text], class_names=classifier.class_names, max_parts=MAX_PARTS
    )
    return found


def _parts(found: Attribution) -> list[Part]:
    """Return the whole text in order; what stands between the words has no effect."""
    parts = []
    end = 0
    for spans, effect in zip(found.parts, found.effects):
        start, stop = spans[0][0], spans[-1][1]
        parts.append(Part(text=found.text[end:start], effect=0))
        parts.append(Part(text=found.text[start:stop], effect=float(effect)))
        end = stop
    parts.append(Part(text=found.text[end:], effect=0))
    return [part for part in parts if part.text]


def _page(page: str) -> Response:
    """Return the page; only its own script and style run, whatever a text puts into it."""
    nonce = secrets.token_urlsafe(16)
    policy = (
        f"default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    headers = {"Content-Security-Policy": policy, "X-Content-Type-Options": "nosniff"}
    return Response(page.replace("NONCE", nonce), headers=headers, media_type="text/html")
