"""Texts rewritten by models, for copies of training texts: words replaced in context, translated there and back, paraphrased."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from lib.config import AugmentationConfig
from lib.data import augmentation
from lib.data.sources import sample_rows
from lib.errors import WorkbookError
from lib.training import backbones, baseline
from lib.training.finetune import tokenization

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

LABEL_LOST, HELD_OUT_COPY = "the baseline no longer sees its label", "near-copy of a held-out text"
TOP_P = 0.95  # of nucleus sampling: beams give copies that differ too little (Edunov et al. 2018)
_REPLACEABLE = re.compile(
    r"([^\W\d_]{3,})([.,;:!?]*)"
)  # a word and its closing punctuation; neither code, numbers nor [URL]


def augment(
    train: pd.DataFrame,
    *,
    settings: AugmentationConfig,
    held_out: Sequence[str],
    threshold: float = 0.95,
    shingle_words: int = 3,
    seed: int = 42,
    progress: bool = True,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Make changed copies of training texts, and say which of them can be trained on.

    A copy is rejected where it came near a held-out text, or where the baseline, fitted without its parent, tells neither the
    label nor what it told of the parent: the change may have made it a text about something else.

    Parameters
    ----------
    train : with `row_id`, `text`, `label`, `group`
    held_out : texts of validation and test rows
    threshold, shingle_words : of near-duplicates

    Returns
    -------
    the rows that got copies, and the copies: COPY_COLUMNS and `rejected`, why a copy is not to be trained on ("": it is)

    Raises
    ------
    WorkbookError : a model that a method needs cannot be loaded or is of another kind.
    """
    parents = (
        sample_rows(train, settings.rows, seed=seed, setting="augmentation.rows")
        if settings.rows and settings.rows < len(train)
        else train
    )
    made = []
    for method in tqdm(settings.methods, "copies", unit="method", disable=not progress):
        for copy in range(settings.copies):
            texts = rewritten(
                parents["text"].tolist(),
                method=method,
                settings=settings,
                seed=seed + copy,
                progress=progress,
            )
            made.append(augmentation.copies_of(parents, texts, method=method))
    copies = pd.concat(
        [
            parents.head(0)[["text", "label", "group"]].reindex(columns=augmentation.COPY_COLUMNS),
            *made,
        ],
        ignore_index=True,
    )
    copies = copies.drop_duplicates("text", ignore_index=True).astype(
        {"parent_id": train["row_id"].dtype, "group": train["group"].dtype}
    )
    lost = ~baseline.keeps_label(parents, copies, seed=seed)
    near = augmentation.near_held_out(
        copies, held_out, threshold=threshold, shingle_words=shingle_words
    )
    return parents, copies.assign(
        rejected=np.select([near, lost], [HELD_OUT_COPY, LABEL_LOST], default="")
    )


def rewritten(
    texts: Sequence[str],
    *,
    method: str,
    settings: AugmentationConfig,
    seed: int,
    progress: bool = True,
) -> list[str]:
    """Return each text changed by a method of `augmentation.methods`, "" where a model made nothing of it."""
    if method in augmentation.WORD_EDITS:
        return augmentation.edit_words(texts, how=method, share=settings.share, seed=seed)
    models = settings.model_copy(update={"methods": (method,)}).models
    if method == "contextual":
        return replace_in_context(
            texts,
            model=models["augmentation.masked_model"],
            share=settings.share,
            seed=seed,
            progress=progress,
        )
    prefix = settings.paraphrase_prefix if method == "paraphrase" else ""
    for setting, name in models.items():  # of a back-translation two, in order
        texts = generate(
            texts, model=name, setting=setting, prefix=prefix, seed=seed, progress=progress
        )
    return list(texts)


def replace_in_context(
    texts: Sequence[str],
    *,
    model: str,
    setting: str = "augmentation.masked_model",
    share: float = 0.1,
    top_k: int = 10,
    max_tokens: int = 256,
    seed: int = 42,
    progress: bool = True,
) -> list[str]:
    """Replace a share of each text's words by others that a masked language model holds for likely in their place.

    A word is drawn among the `top_k` likeliest whole words but itself, in proportion to their probability. All chosen words of a
    text are guessed at once. Words beyond `max_tokens`, numbers, code and `[URL]` stay.

    Parameters
    ----------
    model : hub name or folder of a masked language model with its head
    share : of the words, in (0, 1]; at least one

    Returns
    -------
    n texts, words joined by one blank; one without a word to replace comes back as it is

    Raises
    ------
    WorkbookError : the model cannot be loaded, or has no head or mask token of its own.

    Source
    ------
    Kobayashi 2018, "Contextual Augmentation"; Wu et al. 2019, "Conditional BERT Contextual Augmentation" (here without the label).
    """
    tokenizer, network = _load_masked(model, setting)
    mask, vocabulary = str(tokenizer.mask_token), _whole_words(tokenizer, network.config.vocab_size)
    words = [text.split() for text in texts]
    chosen = [
        [] if mask in text else _chosen(each, share, np.random.default_rng([seed, i]))
        for i, (text, each) in enumerate(zip(texts, words))
    ]
    wanted = [i for i, places in enumerate(chosen) if places]
    masked = [
        " ".join(mask if place in chosen[i] else word for place, word in enumerate(words[i]))
        for i in wanted
    ]
    ids = tokenizer(masked, truncation=True, max_length=max_tokens)["input_ids"] if masked else []
    for batch in _batches(ids, network.device, progress=progress, what=setting):
        tokens, attended = tokenization.padded(
            [ids[i] for i in batch], pad=tokenizer.pad_token_id or 0, device=network.device
        )
        with torch.inference_mode():
            logits = network(
                input_ids=tokens, attention_mask=attended
            ).logits  # (texts, tokens, vocabulary)
        for row, i in enumerate(batch):
            scores, random = (
                logits[row, tokens[row] == tokenizer.mask_token_id].float().cpu().numpy(),
                np.random.default_rng([seed, wanted[i], 1]),
            )
            each = words[wanted[i]]
            for place, of_words in zip(
                chosen[wanted[i]], scores
            ):  # masks that were cut off are the last ones
                each[place] = _drawn(of_words, vocabulary, each[place], top_k=top_k, random=random)
    return [" ".join(each) if places else text for text, each, places in zip(texts, words, chosen)]


def generate(
    texts: Sequence[str],
    *,
    model: str,
    setting: str,
    prefix: str = "",
    max_tokens: int = 256,
    seed: int = 42,
    progress: bool = True,
) -> list[str]:
    """Let a sequence-to-sequence model write each text anew: a translation or a paraphrase, by nucleus sampling.

    Parameters
    ----------
    model : hub name or folder, for instance a Marian or T5 checkpoint
    prefix : put before each text, as T5 was taught
    max_tokens : a text that is longer, and one whose new text does not end within twice its length, gives "": nothing is cut silently

    Raises
    ------
    WorkbookError : the model cannot be loaded, or is none of sequence to sequence.
    """
    from transformers import AutoModelForSeq2SeqLM

    tokenizer, network, info = backbones.load_checkpoint(
        model, AutoModelForSeq2SeqLM, placeholders=False, setting=setting
    )
    _check_whole(info, model, setting)
    network.to("cuda" if torch.cuda.is_available() else "cpu").eval()
    able = [i for i, text in enumerate(texts) if text.strip()]
    ids = (
        tokenizer([prefix + texts[i] for i in able], truncation=False, verbose=False)["input_ids"]
        if able
        else []
    )
    short = [(i, row) for i, row in zip(able, ids) if len(row) <= max_tokens]
    written = [""] * len(texts)
    with torch.random.fork_rng(), torch.inference_mode():
        torch.manual_seed(seed)
        for batch in _batches(
            [row for _, row in short], network.device, progress=progress, what=setting
        ):
            tokens, attended = tokenization.padded(
                [short[i][1] for i in batch], pad=tokenizer.pad_token_id or 0, device=network.device
            )
            limit = 2 * tokens.shape[1] + 8
            out = network.generate(
                input_ids=tokens,
                attention_mask=attended,
                do_sample=True,
                top_p=TOP_P,
                top_k=0,
                num_beams=1,
                max_length=None,
                max_new_tokens=limit,
            )
            ended = (
                torch.isin(
                    out, torch.tensor(network.generation_config.eos_token_id, device=out.device)
                )
                .any(dim=1)
                .tolist()
            )
            for i, text, whole in zip(
                batch, tokenizer.batch_decode(out, skip_special_tokens=True), ended
            ):
                written[short[i][0]] = text.strip() if whole else ""
    return written


def _load_masked(model: str, setting: str) -> tuple[PreTrainedTokenizerBase, PreTrainedModel]:
    from transformers import AutoModelForMaskedLM

    tokenizer, network, info = backbones.load_checkpoint(
        model, AutoModelForMaskedLM, setting=setting
    )
    _check_whole(info, model, setting)
    if tokenizer.mask_token is None:
        raise WorkbookError(
            f"{setting}: the tokenizer of {model!r} has no mask token; name a masked language model, for instance roberta-base"
        )
    backbones.resize_embeddings(tokenizer, network)
    return tokenizer, network.to("cuda" if torch.cuda.is_available() else "cpu").eval()


def _check_whole(info: dict[str, Any], model: str, setting: str) -> None:
    """Raise WorkbookError where a model would write with weights that the checkpoint does not have, a fresh head above all."""
    lacking = sorted(info["missing_keys"])
    if lacking:
        raise WorkbookError(
            f"{setting}: {model!r} lacks {lacking[0]} ({len(lacking)} such weights): it was not trained for this task; name a model that was"
        )


def _batches(
    ids: Sequence[list[int]], device: torch.device, *, progress: bool, what: str
) -> Iterator[list[int]]:
    with tqdm(
        total=len(ids), desc=what.removeprefix("augmentation."), unit="text", disable=not progress
    ) as bar:
        for batch in tokenization.sorted_batches(
            np.array([len(row) for row in ids], np.int64), device=device
        ):
            yield batch.tolist()
            bar.update(len(batch))


def _chosen(words: list[str], share: float, random: np.random.Generator) -> list[int]:
    able = [place for place, word in enumerate(words) if _REPLACEABLE.fullmatch(word)]
    n = min(len(able), max(1, round(share * len(words))))
    return sorted(random.choice(able, n, replace=False).tolist()) if able else []


def _whole_words(tokenizer: PreTrainedTokenizerBase, size: int) -> np.ndarray:
    """Return the word that each token stands for: ndarray of str of shape (size,), "" for a part of a word, punctuation and special tokens."""
    known = list(range(min(size, len(tokenizer))))
    tokens, texts = (
        tokenizer.convert_ids_to_tokens(known),
        tokenizer.batch_decode([[token] for token in known]),
    )
    mark = next(
        (
            mark
            for mark in ("▁", "Ġ")
            if sum(token.startswith(mark) for token in tokens) > len(tokens) / 10
        ),
        "",
    )  # of a word's first token
    words = np.full(size, "", dtype=object)
    for i, (token, text) in enumerate(zip(tokens, texts)):
        if token.startswith(mark) and _REPLACEABLE.fullmatch(text.strip()):
            words[i] = text.strip()
    return words


def _drawn(
    scores: np.ndarray,
    vocabulary: np.ndarray,
    word: str,
    *,
    top_k: int,
    random: np.random.Generator,
) -> str:
    """Return a likely word in place of `word`, with its capital and its punctuation."""
    bare, closing = _REPLACEABLE.fullmatch(word).groups()  # type: ignore[union-attr]  # only such words were chosen
    of_words = np.where(vocabulary != "", scores, -np.inf)
    likeliest = np.argpartition(-of_words, min(2 * top_k, len(scores) - 1))[
        : 2 * top_k
    ]  # some may be the word itself, in other cases
    likeliest = likeliest[np.argsort(-of_words[likeliest], kind="stable")]
    found = [
        token
        for token in likeliest
        if vocabulary[token] and vocabulary[token].casefold() != bare.casefold()
    ][:top_k]
    if not found:
        return word
    odds = np.exp(scores[found] - scores[found].max())
    drawn = str(vocabulary[found[int(random.choice(len(found), p=odds / odds.sum()))]])
    return (drawn.capitalize() if bare[0].isupper() and not drawn[0].isupper() else drawn) + closing


def describe_copies(copies: pd.DataFrame) -> str:
    """Return in a sentence how many copies were made, how many are good, and why others are not.

    Parameters
    ----------
    copies : with `parent_id` and `rejected`, as `augment` returns them

    Examples
    --------
    >>> copies = pd.DataFrame({"parent_id": [1, 1, 2, 3], "rejected": ["", "", "", "too near"]})
    >>> describe_copies(copies)
    '4 copies of 3 texts, 3 of them good; 1 rejected (25.0%): too near.'
    """
    n_good = int((copies["rejected"] == "").sum())
    parts = [
        f"{len(copies):,} copies of {copies['parent_id'].nunique():,} texts, {n_good:,} of them good"
    ]
    for reason, n in copies["rejected"].value_counts().drop("", errors="ignore").items():
        parts.append(f"{n:,} rejected ({n / len(copies):.1%}): {reason}")
    return f"{'; '.join(parts)}."
