"""One prediction at a time, of all requests that wait together."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass

from lib.delivery.serving.questions import Answer
from lib.delivery.serving.serving_model import Model, ServingModel

MAX_TOGETHER = 64  # texts of several requests; a larger request goes by itself


@dataclass(frozen=True, eq=False)
class _Waiting:
    texts: list[str]
    answer: asyncio.Future[tuple[Model, list[Answer]]]


class Batches:
    """Requests are answered in their order, half of those under way by one prediction.

    While it computes, the other half's answers go out, and what their clients ask next comes in.
    """

    def __init__(self, serving: ServingModel) -> None:
        self._serving = serving
        self._n_answered = 0  # requests that shared the last prediction
        self._waiting: deque[_Waiting] = deque()
        self._worker: asyncio.Task[None] | None = None

    async def answer(self, texts: list[str]) -> tuple[Model, list[Answer]]:
        """Return the model that answered, and its answers; raises what the prediction raises."""
        waiting = _Waiting(texts, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._work())
        return await asyncio.shield(waiting.answer)  # a request that is cancelled leaves it

    async def _work(self) -> None:
        while self._waiting:
            batch = self._next_batch()
            await self._predict(batch)
            self._n_answered = len(batch)

    async def _predict(self, batch: list[_Waiting]) -> None:
        model = self._serving.current
        texts = [text for waiting in batch for text in waiting.texts]
        try:
            answers = await asyncio.to_thread(model.predict, texts)
        except Exception as error:
            if len(batch) == 1:
                batch[0].answer.set_exception(error)
                return
            for waiting in batch:  # one request's failure is not the others'
                await self._predict([waiting])
            return
        start = 0
        for waiting in batch:
            stop = start + len(waiting.texts)
            waiting.answer.set_result((model, answers[start:stop]))
            start = stop

    def _next_batch(self) -> list[_Waiting]:
        n_half = (self._n_answered + len(self._waiting) + 1) // 2
        batch = [self._waiting.popleft()]
        n_texts = len(batch[0].texts)
        while self._waiting and len(batch) < n_half:
            n_texts += len(self._waiting[0].texts)
            if n_texts > MAX_TOGETHER:
                break
            batch.append(self._waiting.popleft())
        return batch
