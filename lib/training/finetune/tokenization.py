"""Texts as token ids: truncated as configured, tokenised once, memory-mapped, in batches of like length."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import datasets
import numpy as np
import pandas as pd
import torch

from lib import workspace

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

HEAD_SHARE = 0.25  # of the tokens kept by head_tail: 128 of 510 in Sun et al. 2019, "How to Fine-Tune BERT for Text Classification?"
WINDOW_OVERLAP = 0.25  # of a window, shared with the next
SOFT = "soft label "  # begins the names of columns that are learnt in place of the label
TOKEN_FIELDS = {"input_ids", "attention_mask"}  # of a batch, of shape (batch, tokens)
MAX_WINDOWS = 32  # of one text; what lies beyond is cut
CACHED_ENCODINGS = 24  # kept, the most recently used ones
CPU_TOKENS, GPU_TOKENS = (
    1_024,
    32_768,
)  # padded tokens a forward pass: what stays in a processor's cache; what fills a GPU
GPU_MULTIPLE = (
    8  # padded lengths on a GPU are multiples of it: what tensor cores like, and few shapes
)


def encode(
    texts: Sequence[str],
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_length: int,
    truncation: str = "head",
    cache: Path | None = None,
) -> datasets.Dataset:
    """Tokenise texts; with `cache`, only once for the same texts, tokenizer and settings.

    Parameters
    ----------
    max_length : tokens of a piece at most, special tokens counted
    truncation : `head` keeps the first tokens; `head_tail` the first quarter and the last three quarters of what fits;
        `windows` makes overlapping pieces of a longer text, 32 at most
    cache : folder of memory-mapped encodings, the 24 most recently used ones

    Returns
    -------
    Dataset of pieces, in the order of the texts: `input_ids`, `length` (tokens), `row` (position of its text), `cut` (whether
    tokens of its text are lost)
    """
    if cache is None:
        return datasets.Dataset.from_dict(
            _encode(texts, tokenizer, max_length=max_length, truncation=truncation)
        )
    what = [
        _tokenizer_state(tokenizer),
        max_length,
        truncation,
        HEAD_SHARE,
        WINDOW_OVERLAP,
        MAX_WINDOWS,
        len(texts),
    ]
    digest = hashlib.sha256(json.dumps(what).encode())
    for text in texts:
        digest.update(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest())
    path = cache / digest.hexdigest()[:32]
    if not path.exists():
        with workspace.atomic_path(path) as scratch:
            datasets.Dataset.from_dict(
                _encode(texts, tokenizer, max_length=max_length, truncation=truncation)
            ).save_to_disk(str(scratch))
    path.touch()
    for old in sorted(cache.iterdir(), key=lambda folder: folder.stat().st_mtime)[
        :-CACHED_ENCODINGS
    ]:
        shutil.rmtree(old, ignore_errors=True)
    return datasets.load_from_disk(str(path))


def _tokenizer_state(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    return {
        name: value for name, value in state.items() if name not in ("truncation", "padding")
    }  # every call sets these two anew


def _encode(
    texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, *, max_length: int, truncation: str
) -> dict[str, list[Any]]:
    prefix, suffix = _special_tokens(tokenizer)
    room = max_length - len(prefix) - len(suffix)
    pieces: dict[str, list[Any]] = {"input_ids": [], "length": [], "row": [], "cut": []}
    for start in range(0, len(texts), 1_000):
        encoded = tokenizer(
            list(texts[start : start + 1_000]), add_special_tokens=False, verbose=False
        )["input_ids"]
        for row, ids in enumerate(encoded, start):
            kept = _pieces(ids, room, truncation)
            cut = len(ids) > (
                _window_step(room) * (len(kept) - 1) + room if truncation == "windows" else room
            )
            for piece in kept:
                pieces["input_ids"].append([*prefix, *piece, *suffix])
                pieces["length"].append(len(piece) + len(prefix) + len(suffix))
                pieces["row"].append(row)
                pieces["cut"].append(cut)
    return pieces


def _special_tokens(tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[int]]:
    """Return what the tokenizer puts before and after a text."""
    marked, plain = (
        tokenizer("a")["input_ids"],
        tokenizer("a", add_special_tokens=False)["input_ids"],
    )
    at = next(i for i in range(len(marked)) if marked[i : i + len(plain)] == plain)
    return marked[:at], marked[at + len(plain) :]


def _pieces(ids: list[int], room: int, truncation: str) -> list[list[int]]:
    if len(ids) <= room or truncation == "head":
        return [ids[:room]]
    if truncation == "head_tail":
        head = round(room * HEAD_SHARE)
        return [ids[:head] + ids[len(ids) - (room - head) :]]
    step = _window_step(room)
    return [ids[at : at + room] for at in range(0, len(ids) - room + step, step)][:MAX_WINDOWS]


def _window_step(room: int) -> int:
    return max(1, room - round(room * WINDOW_OVERLAP))


def soft_labels(table: pd.DataFrame) -> np.ndarray | None:
    """Return what is learnt in place of the labels, ndarray of float32 of shape (n, k), rows summing to 1; None where that is the labels.

    A table has it in columns `soft label 0`, `soft label 1` and so on, in the sorted order of the labels.
    """
    columns = [column for column in table.columns if str(column).startswith(SOFT)]
    return (
        table[[f"{SOFT}{code}" for code in range(len(columns))]].to_numpy(np.float32)
        if columns
        else None
    )


def learnable(table: pd.DataFrame) -> pd.DataFrame:
    """Return the columns that a training learns from."""
    return table[
        [
            column
            for column in table.columns
            if column in {"text", "label"} or str(column).startswith(SOFT)
        ]
    ]


class EncodedTexts(torch.utils.data.Dataset):
    """Encoded pieces with the class and the weight of each, as a Trainer takes them.

    A piece of a text in n windows weighs 1 / n: every text counts once.
    """

    def __init__(self, encoded: datasets.Dataset, labels: np.ndarray):
        self.encoded, self.lengths = encoded.with_format("numpy"), np.asarray(encoded["length"])
        rows = np.asarray(encoded["row"])
        self.labels, self.weights = labels[rows], 1.0 / np.bincount(rows)[rows]

    def __len__(self) -> int:
        """Return the number of pieces."""
        return len(self.labels)

    def __getitem__(self, piece: int) -> dict[str, Any]:
        """Return one piece: `input_ids`, `labels`, `weight`, and its own number."""
        return {
            "input_ids": self.encoded[int(piece)]["input_ids"],
            "labels": self.labels[piece],
            "weight": self.weights[piece],
            "piece": int(piece),
        }


def collate(
    pieces: list[dict[str, Any]], *, pad: int, multiple: int = 1
) -> dict[str, torch.Tensor]:
    """Pad pieces to the longest of them: `input_ids` and `attention_mask` of shape (batch, tokens), the rest of shape (batch,).

    Parameters
    ----------
    multiple : the number of tokens is rounded up to one of it
    """
    ids, mask = _padded([piece["input_ids"] for piece in pieces], pad=pad, multiple=multiple)
    others = {
        name: torch.from_numpy(np.array([piece[name] for piece in pieces]))
        for name in ("labels", "weight", "piece")
    }
    return {"input_ids": ids, "attention_mask": mask, **others}


def padded(
    sequences: Sequence[Sequence[int]], *, pad: int, device: torch.device | str = "cpu"
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return token ids and attention mask on a device, both of shape (sequences, longest); for a GPU `longest` is rounded up."""
    if torch.device(device).type != "cuda":
        return _padded(sequences, pad=pad, multiple=1)
    ids, mask = (
        part.pin_memory().to(device, non_blocking=True)
        for part in _padded(sequences, pad=pad, multiple=GPU_MULTIPLE)
    )
    return ids, mask


def _padded(
    sequences: Sequence[Sequence[int]], *, pad: int, multiple: int
) -> tuple[torch.Tensor, torch.Tensor]:
    longest = -(-max(len(sequence) for sequence in sequences) // multiple) * multiple
    ids, mask = (
        np.full((len(sequences), longest), pad, np.int64),
        np.zeros((len(sequences), longest), np.int64),
    )
    for row, sequence in enumerate(sequences):
        ids[row, : len(sequence)], mask[row, : len(sequence)] = sequence, 1
    return torch.from_numpy(ids), torch.from_numpy(mask)


def micro_batches(
    batch: dict[str, torch.Tensor], *, n_parts: int, max_tokens: int | None
) -> Iterator[dict[str, torch.Tensor]]:
    """Split a padded batch into parts of like length, each padded to its own longest row.

    Parameters
    ----------
    n_parts : parts at least (as far as there are rows)
    max_tokens : rows times longest row of a part, at most (but one row always goes); None sets no bound
    """
    if n_parts == 1 and max_tokens is None:  # on a GPU: counting its tokens would wait for it
        yield batch
        return
    lengths = batch["attention_mask"].sum(1)
    order = torch.argsort(lengths, descending=True, stable=True)
    for share in order.tensor_split(min(n_parts, len(order))):
        for rows in token_batches(
            lengths[share].tolist(), max_tokens=max_tokens, max_rows=len(share)
        ):
            chosen = share[rows]
            longest = int(lengths[chosen].max())
            yield {
                name: values[chosen, :longest] if name in TOKEN_FIELDS else values[chosen]
                for name, values in batch.items()
            }


def sorted_batches(lengths: np.ndarray, *, device: torch.device) -> Iterator[np.ndarray]:
    """Yield all rows in batches of like length, the longest first, of as many padded tokens as suit the device."""
    order = np.argsort(-lengths, kind="stable")
    max_tokens = GPU_TOKENS if device.type == "cuda" else CPU_TOKENS
    for part in token_batches(lengths[order].tolist(), max_tokens=max_tokens, max_rows=1_024):
        yield order[part]


def token_batches(
    lengths: Sequence[int], *, max_tokens: int | None, max_rows: int
) -> Iterator[slice]:
    """Cut rows sorted by falling length into slices of at most `max_rows` rows and `max_tokens` padded tokens."""
    start = 0
    while start < len(lengths):
        fitting = (
            max_rows
            if max_tokens is None
            else max(1, min(max_rows, max_tokens // max(1, lengths[start])))
        )
        yield slice(start, min(start + fitting, len(lengths)))
        start += fitting


class LengthGroupedSampler(torch.utils.data.Sampler):
    """Random batches of rows of like length; their order depends on the seed and on `epoch` alone.

    Rows are shuffled, sorted by length within blocks of 50 batches, and the batches of a block are shuffled. (The Trainer's own
    sampler takes the order from torch's global random state: a resumed run cannot repeat it.)
    """

    def __init__(self, lengths: np.ndarray, *, batch_size: int, seed: int):
        self.lengths, self.batch_size, self.seed, self.epoch = lengths, batch_size, seed, 0

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        """Yield the rows of this epoch in order."""
        random = np.random.default_rng((self.seed, self.epoch))
        order = random.permutation(len(self.lengths))
        for start in range(0, len(order), 50 * self.batch_size):
            block = order[start : start + 50 * self.batch_size]
            block = block[np.argsort(-self.lengths[block], kind="stable")]
            batches = [
                block[i : i + self.batch_size] for i in range(0, len(block), self.batch_size)
            ]
            full = [i for i, batch in enumerate(batches) if len(batch) == self.batch_size]
            for i in (
                *random.permutation(full),
                *(i for i in range(len(batches)) if i not in full),
            ):
                yield from batches[int(i)].tolist()
