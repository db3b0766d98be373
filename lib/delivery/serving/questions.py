"""What a client may send, and what it gets."""

from __future__ import annotations

import asyncio
import csv
import io
from typing import Annotated, Any

import pandas as pd
from fastapi import HTTPException, Request
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

MAX_BYTES = 2_000_000  # of a body
# of a body that is too large, as much is read and thrown away, or its sender would see a broken
# connection instead of the answer
MAX_THROWN_AWAY = 50_000_000
MAX_TEXTS = 256  # of a request
MAX_CHARACTERS = 50_000  # of a text
BODY_SECONDS = 20  # for a client to send its body
CLOSE = {"Connection": "close"}  # what is still being sent is not read
Text = Annotated[str, Field(max_length=MAX_CHARACTERS)]


class Question(BaseModel):
    """Either `text` or `texts`."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        json_schema_extra={"oneOf": [{"required": ["text"]}, {"required": ["texts"]}]},
    )
    # a factory's value is not validated, and not in the schema
    text: Text = Field(default_factory=str, examples=["Return the sorted list of primes."])
    texts: list[Text] = Field(default_factory=list, min_length=1, max_length=MAX_TEXTS)

    @model_validator(mode="after")
    def _one_of_both(self) -> Question:
        if len(self.model_fields_set) != 1:
            raise PydanticCustomError("either", "Either text or texts must be given")
        return self

    @property
    def all_texts(self) -> list[str]:
        """Return the texts, also where it is one."""
        return self.texts or [self.text]


class Answer(BaseModel):
    """What a classifier says of a text; null where it cannot say."""

    label: str | None
    confidence: float | None
    abstained: bool
    reason: str
    ood_score: float | None = None
    is_ood: bool | None = None
    probabilities: dict[str, float]


class Answers(BaseModel):
    """Answers in the order of the texts."""

    model: str = Field(description="the version that answered", examples=["minilm-v1.0.0"])
    answers: list[Answer]


def as_answers(table: pd.DataFrame, class_names: list[str]) -> list[Answer]:
    """Return what `Classifier.predict` gives, with `with_probs`, as a client gets it."""
    rows = table.astype(object).where(table.notna(), None).to_dict("records")
    for row in rows:
        row["probabilities"] = dict(zip(class_names, row["probabilities"].tolist()))
    return [Answer.model_validate(row) for row in rows]


async def read_question(request: Request) -> Question:
    """Read the JSON or CSV of a request while it comes in.

    Raises
    ------
    HTTPException : 408, 413, 415, 400 or 422, with a sentence that quotes nothing of the body.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in ("application/json", "text/csv") or "content-encoding" in request.headers:
        raise HTTPException(
            415, "Send application/json or text/csv (header Content-Type), not compressed."
        )
    body = await _body(request)
    try:
        if kind == "text/csv":
            return Question(texts=_csv_texts(body))
        return Question.model_validate_json(body)
    except ValidationError as error:
        raise HTTPException(*_sentence(error)) from None


async def _body(request: Request) -> bytes:
    body = bytearray()
    n_bytes = 0
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for chunk in request.stream():
                n_bytes += len(chunk)
                if n_bytes <= MAX_BYTES:
                    body += chunk
                if n_bytes > MAX_THROWN_AWAY:
                    break
    except TimeoutError:
        words = f"The body did not arrive within {BODY_SECONDS} seconds."
        raise HTTPException(408, words, CLOSE) from None
    if n_bytes > MAX_BYTES:
        words = f"The body is larger than {MAX_BYTES:,} bytes: send fewer texts at a time."
        raise HTTPException(413, words, CLOSE)
    return bytes(body)


def _sentence(error: ValidationError) -> tuple[int, str]:
    """Return a status and what is wrong first, by place and without the value."""
    first: Any = error.errors(include_input=False, include_url=False)[0]
    if first["type"] == "json_invalid":
        return 400, "The body is not valid JSON in UTF-8."
    # a field that we do not have is the client's words
    named = [part for part in first["loc"] if isinstance(part, int) or part in ("text", "texts")]
    place = "".join(f"[{part}]" if isinstance(part, int) else part for part in named)
    return 422, f"{place or 'The body'}: {first['msg']}."


def _csv_texts(body: bytes) -> list[str]:
    words = "The body is not CSV in UTF-8 with a column named text and fields for each column."
    try:
        lines = io.StringIO(body.decode("utf-8-sig"), newline="")
        rows = list(csv.DictReader(lines, strict=True))
        if all(None not in (*row, *row.values()) for row in rows):
            return [row["text"] for row in rows]
    except (UnicodeDecodeError, csv.Error, KeyError):
        pass
    raise HTTPException(400, words)
