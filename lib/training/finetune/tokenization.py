"""Texts as token ids: truncated as configured, tokenised once, memory-mapped, batched by length."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from lib import provenance, workspace
from lib.training import token_ids

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TOKEN_FIELDS = {"input_ids", "attention_mask"}  # of a batch, of shape (batch, tokens)
CACHED_ENCODINGS = 24  # kept, the most recently used ones
# Padded lengths on a GPU are multiples of it: what tensor cores like, and few shapes.
GPU_MULTIPLE = 8


@dataclass(frozen=True)
class Pieces:
    """Encoded texts, cut to pieces, in the order of the texts; `pieces[i]` are the ids of one.

    Attributes
    ----------
    tokens : ndarray of int32, the ids of all pieces one after the other
    lengths : ndarray of int64 of shape (n,), tokens of each piece
    rows : ndarray of int64 of shape (n,), position of the text of each
    is_cut : ndarray of bool of shape (n,), whether tokens of its text are lost
    """

    tokens: np.ndarray
    lengths: np.ndarray
    rows: np.ndarray
    is_cut: np.ndarray

    @classmethod
    def of(
        cls, ids: Sequence[Sequence[int]], rows: Sequence[int], is_cut: Sequence[bool]
    ) -> Pieces:
        """Return pieces of the given ids, one sequence of them for each."""
        return cls(
            np.fromiter(chain.from_iterable(ids), np.int32),
            np.fromiter(map(len, ids), np.int64),
            np.array(rows, np.int64),
            np.array(is_cut, bool),
        )

    @classmethod
    def load(cls, folder: Path) -> Pieces:
        """Read pieces from a folder, memory-mapped."""
        return cls(*(np.load(folder / f"{field.name}.npy", "r") for field in fields(cls)))

    def save(self, folder: Path) -> None:
        """Write the arrays into a new folder."""
        folder.mkdir()
        for field in fields(self):
            np.save(folder / f"{field.name}.npy", getattr(self, field.name))

    def __len__(self) -> int:
        """Return the number of pieces."""
        return len(self.lengths)

    def __getitem__(self, piece: int) -> np.ndarray:
        """Return the token ids of one piece."""
        return self.tokens[self._starts[piece] : self._starts[piece + 1]]

    @cached_property
    def _starts(self) -> np.ndarray:
        return np.concatenate([[0], np.cumsum(self.lengths)])


def encode(
    texts: Sequence[str],
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_length: int,
    truncation: str = "head",
    cache: Path | None = None,
) -> Pieces:
    """Tokenise texts; with `cache`, only once for the same texts, tokenizer and settings.

    Parameters
    ----------
    max_length : tokens of a piece at most, special tokens counted
    truncation : `head`, `head_tail` or `windows` (`token_ids.cut_to_pieces`)
    cache : folder of memory-mapped encodings, the 24 most recently used ones
    """
    if cache is None:
        return _encode(texts, tokenizer, max_length=max_length, truncation=truncation)
    constants = (token_ids.HEAD_SHARE, token_ids.WINDOW_OVERLAP, token_ids.MAX_WINDOWS)
    state = _tokenizer_state(tokenizer)
    arrays = [field.name for field in fields(Pieces)]
    key = provenance.fingerprint(state, max_length, truncation, constants, arrays, list(texts))
    path = cache / key[:32]
    if not path.exists():
        with workspace.atomic_path(path) as scratch:
            pieces = _encode(texts, tokenizer, max_length=max_length, truncation=truncation)
            pieces.save(scratch)
    path.touch()
    by_age = sorted(cache.iterdir(), key=lambda folder: folder.stat().st_mtime)
    for unused in by_age[:-CACHED_ENCODINGS]:
        shutil.rmtree(unused, ignore_errors=True)
    return Pieces.load(path)


def _tokenizer_state(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    for changed_by_every_call in ("truncation", "padding"):
        state.pop(changed_by_every_call, None)
    return state


def _encode(
    texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, *, max_length: int, truncation: str
) -> Pieces:
    prefix, suffix = special_tokens(tokenizer)
    room = max_length - len(prefix) - len(suffix)
    ids: list[list[int]] = []
    rows: list[int] = []
    is_cut: list[bool] = []
    for start in range(0, len(texts), 1_000):
        part = list(texts[start : start + 1_000])
        encoded = tokenizer(part, add_special_tokens=False, verbose=False)["input_ids"]
        for row, of_text in enumerate(encoded, start):
            pieces = token_ids.cut_to_pieces(of_text, room, truncation)
            cut = len(of_text) > token_ids.window_step(room) * (len(pieces) - 1) + room
            ids += [[*prefix, *piece, *suffix] for piece in pieces]
            rows += [row] * len(pieces)
            is_cut += [cut] * len(pieces)
    return Pieces.of(ids, rows, is_cut)


def special_tokens(tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[int]]:
    """Return what the tokenizer puts before and after a text."""
    marked = tokenizer("a")["input_ids"]
    plain = tokenizer("a", add_special_tokens=False)["input_ids"]
    start = next(i for i in range(len(marked)) if marked[i : i + len(plain)] == plain)
    return marked[:start], marked[start + len(plain) :]


def learnable(table: pd.DataFrame) -> pd.DataFrame:
    """Return the columns that a training learns from: `text` and `label`."""
    return table[["text", "label"]]


class EncodedTexts(torch.utils.data.Dataset):
    """Encoded pieces with the class and the weight of each, as a Trainer takes them.

    A piece of a text in n windows weighs 1 / n of a text, so that every text counts once. Weights
    have mean 1 over all pieces; a batch's own sum says nothing: long texts meet in it.
    """

    def __init__(self, pieces: Pieces, labels: np.ndarray):
        self.pieces = pieces
        self.labels = labels[pieces.rows]
        weights = 1.0 / np.bincount(pieces.rows)[pieces.rows]
        self.weights = weights / weights.mean()

    def __len__(self) -> int:
        """Return the number of pieces."""
        return len(self.labels)

    def __getitem__(self, piece: int) -> dict[str, Any]:
        """Return one piece: `input_ids`, `labels`, `weight`, and its own number."""
        return {
            "input_ids": self.pieces[piece],
            "labels": self.labels[piece],
            "weight": self.weights[piece],
            "piece": int(piece),
        }


def collate(
    pieces: list[dict[str, Any]], *, pad: int, multiple: int = 1
) -> dict[str, torch.Tensor]:
    """Pad pieces to the longest of them.

    Parameters
    ----------
    multiple : the number of tokens is rounded up to one of it

    Returns
    -------
    `input_ids` and `attention_mask` of shape (batch, tokens), the rest of shape (batch,)
    """
    ids, mask = _padded([piece["input_ids"] for piece in pieces], pad=pad, multiple=multiple)
    batch = {"input_ids": ids, "attention_mask": mask}
    for name in ("labels", "weight", "piece"):
        batch[name] = torch.from_numpy(np.array([piece[name] for piece in pieces]))
    return batch


def padded(
    sequences: Sequence[Sequence[int] | np.ndarray], *, pad: int, device: torch.device | str = "cpu"
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return token ids and attention mask on a device, both of shape (sequences, longest).

    For a GPU `longest` is rounded up to a multiple of 8.
    """
    if torch.device(device).type != "cuda":
        return _padded(sequences, pad=pad, multiple=1)
    ids, mask = _padded(sequences, pad=pad, multiple=GPU_MULTIPLE)
    ids = ids.pin_memory().to(device, non_blocking=True)
    mask = mask.pin_memory().to(device, non_blocking=True)
    return ids, mask


def _padded(
    sequences: Sequence[Sequence[int] | np.ndarray], *, pad: int, multiple: int
) -> tuple[torch.Tensor, torch.Tensor]:
    longest = max(len(sequence) for sequence in sequences)
    shape = (len(sequences), -(-longest // multiple) * multiple)
    ids = np.full(shape, pad, np.int64)
    mask = np.zeros(shape, np.int64)
    for row, sequence in enumerate(sequences):
        ids[row, : len(sequence)] = sequence
        mask[row, : len(sequence)] = 1
    return torch.from_numpy(ids), torch.from_numpy(mask)


def micro_batches(
    batch: dict[str, torch.Tensor], *, n_parts: int, max_tokens: int | None
) -> Iterator[dict[str, torch.Tensor]]:
    """Split a padded batch into parts of like length, each padded to its own longest row.

    Parameters
    ----------
    n_parts : parts at least (as far as there are rows)
    max_tokens : rows times longest row of a part, at most (but one row always goes, or one pair of
        rows that have the same number in `pair`); None sets no bound
    """
    if n_parts == 1 and max_tokens is None:  # on a GPU: counting its tokens would wait for it
        yield batch
        return
    lengths = batch["attention_mask"].sum(1)
    groups = _by_length(lengths, batch.get("pair"))
    longest = lengths[groups].amax(1)
    if max_tokens is not None:
        max_tokens //= groups.shape[1]
    for share in torch.arange(len(groups)).tensor_split(min(n_parts, len(groups))):
        parts = token_ids.token_batches(
            longest[share].tolist(), max_tokens=max_tokens, max_rows=len(share)
        )
        for part in parts:
            rows = groups[share[part]].flatten().unique_consecutive()
            yield _cut_batch(batch, rows, longest=int(longest[share[part]].max()))


def _by_length(lengths: torch.Tensor, pair: torch.Tensor | None) -> torch.Tensor:
    """Return the rows that stay together, of shape (groups, 1 or 2), the longest first.

    Of an odd number of rows in pairs one is alone: it stands there twice.
    """
    groups = torch.arange(len(lengths), device=lengths.device).unsqueeze(1)
    if pair is not None:
        paired = torch.argsort(pair, stable=True)
        alone = paired[len(paired) - len(paired) % 2 :]
        groups = torch.cat([paired, alone]).view(-1, 2)
    longest = lengths[groups].amax(1)
    return groups[torch.argsort(longest, descending=True, stable=True)]


def _cut_batch(
    batch: dict[str, torch.Tensor], rows: torch.Tensor, *, longest: int
) -> dict[str, torch.Tensor]:
    cut = {name: values[rows] for name, values in batch.items() if name not in TOKEN_FIELDS}
    return cut | {name: batch[name][rows, :longest] for name in TOKEN_FIELDS}


class LengthGroupedSampler(torch.utils.data.Sampler):
    """Random batches of rows of like length; their order depends on the seed and `epoch` alone.

    Rows are shuffled, sorted by length within blocks of 50 batches, and the batches of a block
    are shuffled. (The Trainer's own sampler takes the order from torch's global random state: a
    resumed run cannot repeat it.)
    """

    def __init__(self, lengths: np.ndarray, *, batch_size: int, seed: int):
        self.lengths = lengths
        self.batch_size = batch_size
        self.seed = seed
        self.epoch = 0

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        """Yield the rows of this epoch in order."""
        random = np.random.default_rng((self.seed, self.epoch))
        order = random.permutation(len(self.lengths))
        block_size = 50 * self.batch_size
        for start in range(0, len(order), block_size):
            block = order[start : start + block_size]
            block = block[np.argsort(-self.lengths[block], kind="stable")]
            n_full = len(block) // self.batch_size
            for i in random.permutation(n_full):
                yield from block[i * self.batch_size : (i + 1) * self.batch_size].tolist()
            yield from block[n_full * self.batch_size :].tolist()  # the last, shorter batch
