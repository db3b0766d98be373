"""Loading a model that training saved, and predicting with it, in batches of like length."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from tqdm import tqdm

from lib.config import TrainingConfig
from lib.training import token_ids
from lib.training.finetune import devices, heads, kernels, tokenization

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def load_model(
    folder: Path, *, plain: bool = False
) -> tuple[PreTrainedTokenizerBase, PreTrainedModel, list[str]]:
    """Load a model that `train` saved.

    Parameters
    ----------
    plain : leave the architecture's own code as it is, which exporters know

    Returns
    -------
    tokenizer
    model : in float32
    class_names : in the order of the model's logits
    """
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    devices.quieten_libraries()
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32)
    heads.restore_head(model, folder)
    if not plain:
        kernels.use_needed_positions(model)
    class_names = [model.config.id2label[i] for i in range(model.config.num_labels)]
    return AutoTokenizer.from_pretrained(folder), model, class_names


def predict_probs(
    tokenizer: PreTrainedTokenizerBase,
    model: PreTrainedModel,
    texts: Sequence[str],
    *,
    settings: TrainingConfig,
    progress: bool = True,
) -> np.ndarray:
    """Return class probabilities; but for rounding, a text's do not depend on the other texts.

    Parameters
    ----------
    settings : those of the training: `max_length`, `truncation` (of a text in several windows the
        logits are averaged), `precision`

    Returns
    -------
    ndarray of float64 of shape (n, k), rows summing to 1
    """
    pieces = tokenization.encode(
        texts, tokenizer, max_length=settings.max_length, truncation=settings.truncation
    )
    pad = tokenizer.pad_token_id or 0
    model = model.to(devices.device())
    with devices.mixed_precision(settings):
        logits = predict_logits(model, pieces, n_rows=len(texts), pad=pad, progress=progress)
    return softmax(logits)


def embed(
    tokenizer: PreTrainedTokenizerBase,
    model: PreTrainedModel,
    texts: Sequence[str],
    *,
    settings: TrainingConfig,
    progress: bool = True,
) -> np.ndarray:
    """Return a vector for each text: the mean over its first tokens of the encoder's last layer.

    Parameters
    ----------
    model : a classifier, of which the encoder is used, or an encoder. It must compute all tokens
        (see `heads.read_first_token_only`).
    settings : those of the training: `max_length`, `precision`

    Returns
    -------
    ndarray of float32 of shape (n, hidden), rows of unit length

    Raises
    ------
    ValueError : the model computes the first token alone.
    """
    encoder = model.base_model.to(devices.device()).eval()
    pieces = tokenization.encode(texts, tokenizer, max_length=settings.max_length)
    vectors = np.zeros((len(texts), encoder.config.hidden_size), np.float32)
    pad = tokenizer.pad_token_id or 0
    batches = padded_batches(
        pieces, pad=pad, device=devices.device(), desc="embedding", progress=progress
    )
    with torch.inference_mode(), devices.mixed_precision(settings):
        for batch, ids, mask in batches:
            hidden = encoder(input_ids=ids, attention_mask=mask).last_hidden_state.float()
            if hidden.shape[:2] != mask.shape:
                raise ValueError(
                    "the model computes the first token alone (heads.read_first_token_only): "
                    "its tokens have no mean"
                )
            total = (hidden * mask.unsqueeze(-1)).sum(dim=1)  # (batch, hidden)
            vectors[batch] = torch.nn.functional.normalize(total, dim=1).cpu().numpy()
    return vectors


def predict_logits(
    model: PreTrainedModel,
    pieces: tokenization.Pieces,
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
    pad : token id of padding
    hidden : hidden states of pieces, by their numbers and a number of tokens, to be used in place
        of token ids (`freezing.ActivationCache`)
    share : (i, n) for the i-th of n processes, each of which does every n-th batch; the sum of what
        they return is the whole

    Returns
    -------
    ndarray of float64 of shape (n_rows, k)
    """
    device = next(model.parameters()).device
    model.eval()
    done = [np.zeros(0, np.int64)]
    outputs = [torch.zeros(0, model.config.num_labels, device=device)]
    batches = padded_batches(
        pieces, pad=pad, device=device, desc="predicting", progress=progress, share=share
    )
    with torch.inference_mode():
        for batch, ids, mask in batches:
            inputs = {"input_ids": ids}
            if hidden is not None:
                inputs = {"inputs_embeds": hidden(batch, mask.shape[1]).to(device)}
            outputs.append(_logits(model, {**inputs, "attention_mask": mask}))
            done.append(batch)
    rows = pieces.rows
    logits = np.zeros((n_rows, model.config.num_labels))
    # fetched once: a GPU goes on while the next batch is made
    np.add.at(logits, rows[np.concatenate(done)], torch.cat(outputs).double().cpu().numpy())
    return logits / np.bincount(rows, minlength=n_rows)[:, None]


def _logits(model: PreTrainedModel, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """Return the logits of a batch, of each half by itself where memory runs out."""
    try:
        return model(**inputs).logits
    except RuntimeError as error:
        is_single = len(inputs["attention_mask"]) == 1
        if is_single or not devices.is_out_of_memory(error):
            raise
    devices.free_memory()  # the error, which holds the pass, is gone here
    halves = zip(*(values.tensor_split(2) for values in inputs.values()))
    return torch.cat([_logits(model, dict(zip(inputs, half))) for half in halves])


def padded_batches(
    pieces: tokenization.Pieces,
    *,
    pad: int,
    device: torch.device,
    desc: str,
    progress: bool,
    share: tuple[int, int] = (0, 1),
) -> Iterator[tuple[np.ndarray, torch.Tensor, torch.Tensor]]:
    """Yield all pieces in batches of like length: numbers, token ids and mask of (batch, tokens).

    Parameters
    ----------
    desc : what the progress bar says
    share : (i, n) yields every n-th batch from the i-th on
    """
    batches = token_ids.sorted_batches(
        pieces.lengths, max_tokens=token_ids.pass_tokens(device.type)
    )
    with tqdm(total=len(pieces), desc=desc, unit="piece", disable=not progress) as bar:
        for batch in islice(batches, share[0], None, share[1]):
            of_batch = [pieces[piece] for piece in batch]
            ids, mask = tokenization.padded(of_batch, pad=pad, device=device)
            yield batch, ids, mask
            bar.update(len(batch))


def softmax(logits: np.ndarray) -> np.ndarray:
    """Return probabilities, rows of which sum to 1."""
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    return odds / odds.sum(axis=1, keepdims=True)
