"""Which words a transformer's answer rests on, by the gradients of its probability."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from tqdm import tqdm

from lib.config import TrainingConfig
from lib.data.words import word_spans
from lib.robustness.attributions import Attribution

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

STEPS = 32  # between the empty text and the text; the effects of a text then add up within 0.01


def integrated_gradients(
    tokenizer: PreTrainedTokenizerBase,
    model: PreTrainedModel,
    texts: Sequence[str],
    *,
    settings: TrainingConfig,
    class_names: Sequence[str],
    n_steps: int = STEPS,
    progress: bool = False,
) -> list[Attribution]:
    """Return for each text what each word adds to the probability of the class it is given.

    A text without words (padding in their places) becomes the text in small steps; what a word's
    embedding adds on the way is the word's effect. The effects add up to the probability less that
    of the text without words.

    Parameters
    ----------
    tokenizer, model : of a transformer that classifies, on the device where it is
    texts : cleaned texts, as the model reads them; what is beyond `settings.max_length` has none
    class_names : of the model's logits
    n_steps : more of them add up more exactly

    Source
    ------
    Sundararajan, Taly and Yan 2017, "Axiomatic Attribution for Deep Networks", by captum.
    """
    from captum.attr import LayerIntegratedGradients

    def probs(ids: torch.Tensor, attended: torch.Tensor) -> torch.Tensor:
        return model(input_ids=ids, attention_mask=attended).logits.softmax(dim=-1)

    model.eval()
    method = LayerIntegratedGradients(probs, model.get_input_embeddings())
    found = []
    for text in tqdm(texts, "gradients", unit="text", disable=not progress):
        encoded = tokenizer(
            text,
            truncation=True,
            max_length=settings.max_length,
            return_offsets_mapping=True,
            return_special_tokens_mask=True,
            return_tensors="pt",
        )
        ids = encoded["input_ids"].to(model.device)  # (1, n_tokens)
        attended = torch.ones_like(ids)
        is_special = encoded["special_tokens_mask"].bool().to(model.device)
        wordless = torch.where(is_special, ids, tokenizer.pad_token_id)
        with torch.inference_mode():
            answer = probs(ids, attended)[0]
        code = int(answer.argmax())
        of_embeddings = method.attribute(
            ids,
            baselines=wordless,
            additional_forward_args=(attended,),
            target=code,
            n_steps=n_steps,
            internal_batch_size=n_steps,
        )  # (1, n_tokens, hidden)
        of_tokens = of_embeddings.sum(dim=-1)[0].detach().cpu().numpy()
        parts = [[span] for span in word_spans(text)]
        effects = _by_word(text, encoded["offset_mapping"][0].tolist(), of_tokens)
        found.append(Attribution(text, class_names[code], float(answer[code]), parts, effects))
    return found


def _by_word(text: str, offsets: Sequence[Sequence[int]], of_tokens: np.ndarray) -> np.ndarray:
    """Return the sum over the tokens of each word; signs count with the word before them."""
    starts = [start for start, _ in word_spans(text)]
    effects = np.zeros(len(starts))
    for (start, stop), effect in zip(offsets, of_tokens):
        if starts and stop > start:
            # by its last character: a token may begin with a blank
            effects[max(0, bisect_right(starts, stop - 1) - 1)] += effect
    return effects
