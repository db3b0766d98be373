"""Loading a model that training saved, and predicting with it: sorted by length, in batches of a bounded number of tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import datasets
import numpy as np
import torch
from tqdm import tqdm

from lib.config import TrainingConfig
from lib.training.finetune import devices, heads, kernels, tokenization

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def load_model(folder: Path) -> tuple[PreTrainedTokenizerBase, PreTrainedModel, list[str]]:
    """Load a model that `train` saved: tokenizer, model in float32, class names in the order of its logits."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32)
    heads.restore_head(model, folder)
    kernels.use_needed_positions(model)
    return (
        AutoTokenizer.from_pretrained(folder),
        model,
        [model.config.id2label[i] for i in range(model.config.num_labels)],
    )


def predict_probs(
    tokenizer: PreTrainedTokenizerBase,
    model: PreTrainedModel,
    texts: Sequence[str],
    *,
    settings: TrainingConfig,
    progress: bool = True,
) -> np.ndarray:
    """Return class probabilities; a text's result does not depend on the texts beside it, but for rounding.

    Parameters
    ----------
    settings : those of the training: `max_length`, `truncation` (of a text in several windows the logits are averaged), `precision`

    Returns
    -------
    ndarray of float64 of shape (n, k), rows summing to 1
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    pieces = tokenization.encode(
        texts, tokenizer, max_length=settings.max_length, truncation=settings.truncation
    )
    with devices.mixed_precision(settings):
        logits = predict_logits(
            model.to(device),
            pieces,
            n_rows=len(texts),
            pad=tokenizer.pad_token_id or 0,
            progress=progress,
        )
    return softmax(logits)


def embed(
    tokenizer: PreTrainedTokenizerBase,
    model: PreTrainedModel,
    texts: Sequence[str],
    *,
    max_length: int,
    progress: bool = True,
) -> np.ndarray:
    """Return a vector for each text: the mean over its first `max_length` tokens of the encoder's last layer.

    Parameters
    ----------
    model : a classifier or an encoder; of a classifier the encoder is used. It must compute all tokens (see `heads.read_first_token_only`)

    Returns
    -------
    ndarray of float32 of shape (n, hidden), rows of unit length
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    encoder = model.base_model.to(device).eval()
    pieces = tokenization.encode(texts, tokenizer, max_length=max_length)
    lengths, ids = np.asarray(pieces["length"], np.int64), pieces.with_format("numpy")
    vectors = np.zeros((len(texts), encoder.config.hidden_size), np.float32)
    bar = tqdm(total=len(lengths), desc="embedding", unit="text", disable=not progress)
    with bar, torch.inference_mode(), devices.mixed_precision(TrainingConfig()):
        for batch in tokenization.sorted_batches(lengths, device=device):
            tokens, mask = tokenization.padded(
                ids[batch]["input_ids"], pad=tokenizer.pad_token_id or 0, device=device
            )
            hidden = encoder(input_ids=tokens, attention_mask=mask).last_hidden_state.float()
            if hidden.shape[:2] != mask.shape:
                raise ValueError(
                    "the model computes the first token alone (heads.read_first_token_only): its tokens have no mean"
                )
            total = (hidden * mask.unsqueeze(-1)).sum(dim=1)
            vectors[batch] = torch.nn.functional.normalize(total, dim=1).cpu().numpy()
            bar.update(len(batch))
    return vectors


def predict_logits(
    model: PreTrainedModel,
    pieces: datasets.Dataset,
    *,
    n_rows: int,
    pad: int,
    hidden: Callable[[np.ndarray, int], torch.Tensor] | None = None,
    share: tuple[int, int] = (0, 1),
    progress: bool = False,
) -> np.ndarray:
    """Return the logits of encoded texts, averaged over the pieces of each.

    Parameters
    ----------
    pieces : from `tokenization.encode`, of `n_rows` texts
    hidden : what frozen layers gave for pieces (numbers, tokens), to be used in place of their token ids
    share : (i, n) for the i-th of n processes, each of which does every n-th batch; the sum of what they return is the whole

    Returns
    -------
    ndarray of float64 of shape (n_rows, k)
    """
    device = next(model.parameters()).device
    model.eval()
    lengths, rows, ids = (
        np.asarray(pieces["length"], np.int64),
        np.asarray(pieces["row"], np.int64),
        pieces.with_format("numpy"),
    )
    logits, done, given = (
        np.zeros((n_rows, model.config.num_labels)),
        [np.zeros(0, np.int64)],
        [torch.zeros(0, model.config.num_labels, device=device)],
    )
    with (
        tqdm(total=len(lengths), desc="predicting", unit="piece", disable=not progress) as bar,
        torch.inference_mode(),
    ):
        for batch in islice(
            tokenization.sorted_batches(lengths, device=device), share[0], None, share[1]
        ):
            tokens, mask = tokenization.padded(ids[batch]["input_ids"], pad=pad, device=device)
            inputs = (
                {"input_ids": tokens}
                if hidden is None
                else {"inputs_embeds": hidden(batch, mask.shape[1]).to(device)}
            )
            given.append(model(**inputs, attention_mask=mask).logits)
            done.append(rows[batch])
            bar.update(len(batch))
        np.add.at(
            logits, np.concatenate(done), torch.cat(given).double().cpu().numpy()
        )  # fetched once: a GPU goes on while the next batch is made
    return logits / np.bincount(rows, minlength=n_rows)[:, None]


def softmax(logits: np.ndarray) -> np.ndarray:
    """Return probabilities, rows of which sum to 1."""
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    return odds / odds.sum(axis=1, keepdims=True)
