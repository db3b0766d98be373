"""The paths that a served classifier answers."""

from __future__ import annotations

import asyncio
import logging
import secrets
import threading
import time
import traceback
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, HTTPException, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lib.delivery.serving.batching import Batches
from lib.delivery.serving.metrics import Metrics
from lib.delivery.serving.questions import Answers, Question, read_question
from lib.delivery.serving.serving_model import Model, ServingModel
from lib.robustness.attributions import Attribution, leave_one_out

MAX_EXPLAINED = 5_000  # characters; an explanation asks once for each of a text's parts
MAX_PARTS = 60  # of an explained text; of a longer one runs of words are left out together
GONE = 499  # nginx's status for a client that went away
PATHS = {"/", "/predict", "/explain", "/health", "/ready", "/metrics", "/openapi.json"}
PAGE = Path(__file__).parents[1] / "templates" / "serving.html"
CSV_EXAMPLE = "text\nReturn the sorted list of primes below n.\n"
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
    400: {"description": "Not JSON or CSV in UTF-8"},
    408: {"description": "The body came too slowly"},
    413: {"description": "The body is too large"},
    415: {"description": "Another type of content"},
    422: {"description": "Values of another type, too many texts, or a text that is too long"},
}
logger = logging.getLogger("uvicorn.error")
router = APIRouter()


@dataclass(frozen=True)
class Service:
    """What the paths share."""

    serving: ServingModel
    batches: Batches
    metrics: Metrics
    explaining: asyncio.Semaphore

    def follow(self) -> None:
        """Look for a new champion as long as the process lives."""
        while True:
            time.sleep(self.serving.pause)
            before = self.serving.current.version
            self.serving.refresh()
            self.metrics.set_model(before, self.serving.current.version)


def _service(request: Request) -> Service:
    return request.app.state.service


Shared = Annotated[Service, Depends(_service)]


class CountedRequests:
    """Middleware that counts the requests that are answered, by path and status.

    Plain ASGI: with FastAPI's `middleware` decorator HTTP takes 1.8 times as long.
    """

    def __init__(self, app: ASGIApp, *, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        path = scope["path"] if scope["path"] in PATHS else "other"

        async def send_and_count(message: Message) -> None:
            await send(message)
            if message["type"] == "http.response.start":
                seconds = time.perf_counter() - started
                self._metrics.count_request(path, message["status"], seconds)

        await self._app(scope, receive, send_and_count)


def create_app(serving: ServingModel, *, hosts: Sequence[str]) -> FastAPI:
    """Return the application.

    Parameters
    ----------
    hosts : names that it may be asked under, without a port; "*" is any
    """
    service = Service(serving, Batches(serving), Metrics(), asyncio.Semaphore(1))
    service.metrics.set_model("", serving.current.version)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        if serving.source.name:
            threading.Thread(target=service.follow, daemon=True).start()
        yield

    # FastAPI's own pages fetch their scripts from a network
    app = FastAPI(title="Text classifier", docs_url=None, redoc_url=None, lifespan=lifespan)
    app.state.service = service
    app.include_router(router)
    app.add_exception_handler(ClientDisconnect, lambda *_: Response(status_code=GONE))
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(hosts), www_redirect=False)
    app.add_middleware(CountedRequests, metrics=service.metrics)
    return app


@router.post("/predict", responses=ERRORS, openapi_extra=BODY)
async def predict(request: Request, service: Shared) -> Answers:
    """Label texts."""
    question = await read_question(request)
    with _failing_quietly():
        model, answers = await service.batches.answer(question.all_texts)
    service.metrics.count_answers(answers)
    return Answers(model=model.version, answers=answers)


@router.post("/explain", include_in_schema=False)
async def explain(request: Request, service: Shared) -> dict[str, Any]:
    """Label one text for the page, and say what its words add to the probability of a class."""
    question = await read_question(request)
    if question.texts or len(question.text) > MAX_EXPLAINED:
        words = f"What is explained is one text of at most {MAX_EXPLAINED:,} characters."
        raise HTTPException(422, words)
    with _failing_quietly():
        model, answers = await service.batches.answer([question.text])
        async with service.explaining:
            found = await asyncio.to_thread(_attribution, model, question.text)
    service.metrics.count_answers(answers)
    return {
        "model": model.version,
        "answer": answers[0],
        "explained": found.predicted,
        "parts": list(_parts(found)),
    }


@router.get("/health")
def health() -> dict[str, str]:
    """Say that the process answers."""
    return {"status": "ok"}


@router.get("/ready")
def ready(service: Shared) -> dict[str, str]:
    """Say that texts are answered, and by what."""
    return {"status": "ready", "model": service.serving.current.version}


@router.get("/metrics", include_in_schema=False)
def metrics(service: Shared) -> Response:
    """Return the counts."""
    return Response(service.metrics.exposition(), media_type=CONTENT_TYPE_LATEST)


@router.get("/", include_in_schema=False)
def index() -> Response:
    """Return the page; only its own script and style run, whatever a text puts into it."""
    nonce = secrets.token_urlsafe(16)
    policy = (
        f"default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    headers = {"Content-Security-Policy": policy, "X-Content-Type-Options": "nosniff"}
    page = PAGE.read_text(encoding="utf-8").replace("NONCE", nonce)
    return Response(page, headers=headers, media_type="text/html")


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


def _parts(found: Attribution) -> Iterator[tuple[str, float]]:
    """Give the whole text in order; what stands between its words has no effect."""
    end = 0
    for spans, effect in zip(found.parts, found.effects):
        start, stop = spans[0][0], spans[-1][1]
        yield found.text[end:start], 0.0
        yield found.text[start:stop], float(effect)
        end = stop
    yield found.text[end:], 0.0
