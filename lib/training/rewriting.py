"""Training texts rewritten by models: words replaced in context, back-translated, paraphrased."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import compress
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from lib.config import AugmentationConfig
from lib.data import augmentation
from lib.data.sources import sample_rows
from lib.errors import WorkbookError
from lib.training import backbones, baseline, token_ids
from lib.training.finetune import tokenization

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

LABEL_LOST = "the baseline no longer sees its label"
HELD_OUT_COPY = "near-copy of a held-out text"
# Of nucleus sampling: beams give copies that differ too little (Edunov et al. 2018).
TOP_P = 0.95
# A word and its closing punctuation; neither code, numbers nor [URL].
_REPLACEABLE = re.compile(r"([^\W\d_]{3,})([.,;:!?]*)")
_WORD_STARTS = ("▁", "Ġ")  # marks of SentencePiece and of byte-level BPE on a word's first token


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

    A copy is rejected where it is near a held-out text. It is rejected too where the baseline,
    fitted without its parent, predicts neither the label nor what it predicts for the parent: the
    change may have made it a text about something else.

    Parameters
    ----------
    train : with `row_id`, `text`, `label`, `group`
    held_out : texts of validation and test rows
    threshold, shingle_words : of near-duplicates

    Returns
    -------
    the rows that got copies, and the copies: COPY_COLUMNS and `rejected`, why a copy is not to be
    trained on ("" where it is)

    Raises
    ------
    WorkbookError : a model that a method needs cannot be loaded or is of another kind.
    """
    parents = train
    if settings.rows and settings.rows < len(train):
        parents = sample_rows(train, settings.rows, seed=seed)
    no_copies = parents.head(0).reindex(columns=augmentation.COPY_COLUMNS)
    made = [no_copies]
    for method in tqdm(settings.methods, "copies", unit="method", disable=not progress):
        for repetition in range(settings.copies):
            texts = rewritten(
                parents["text"].tolist(),
                method=method,
                settings=settings,
                seed=seed + repetition,
                progress=progress,
            )
            made.append(augmentation.copies_of(parents, texts, method=method))
    copies = pd.concat(made, ignore_index=True).drop_duplicates("text", ignore_index=True)
    copies = copies.astype({"parent_id": train["row_id"].dtype, "group": train["group"].dtype})
    is_lost = ~baseline.keeps_label(parents, copies, seed=seed)
    is_near = augmentation.near_held_out(
        copies, held_out, threshold=threshold, shingle_words=shingle_words
    )
    rejected = np.select([is_near, is_lost], [HELD_OUT_COPY, LABEL_LOST], default="")
    return parents, copies.assign(rejected=rejected)


def rewritten(
    texts: Sequence[str],
    *,
    method: str,
    settings: AugmentationConfig,
    seed: int,
    progress: bool = True,
) -> list[str]:
    """Return each text changed by a method of `augmentation.methods`, "" where a model failed."""
    if method in augmentation.WORD_EDITS:
        return augmentation.edit_words(texts, operation=method, share=settings.share, seed=seed)
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
    for setting, name in models.items():  # a back-translation has two, in order
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
    """Replace a share of each text's words by others that a masked language model finds likely.

    A word is drawn among the `top_k` likeliest whole words but itself, in proportion to their
    probability. All chosen words of a text are predicted at once. Words beyond `max_tokens`,
    numbers, code and `[URL]` stay.

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
    Kobayashi 2018, "Contextual Augmentation"; Wu et al. 2019, "Conditional BERT Contextual
    Augmentation" (here without the label).
    """
    tokenizer, network = load_masked_model(model, setting)
    mask = str(tokenizer.mask_token)
    vocabulary = whole_words(tokenizer, network.config.vocab_size)
    words = [text.split() for text in texts]
    chosen: dict[int, list[int]] = {}  # text -> positions of the words to replace
    for i, text in enumerate(texts):
        positions = _chosen_words(words[i], share, np.random.default_rng([seed, i]))
        if positions and mask not in text:
            chosen[i] = positions
    rows = list(chosen)
    masked = [_with_masks(words[i], chosen[i], mask) for i in rows]
    ids = _token_ids(tokenizer, masked, truncation=True, max_length=max_tokens)
    for batch in batches(ids, network.device, progress=progress, setting=setting):
        tokens, attended = padded(tokenizer, [ids[k] for k in batch], network.device)
        with torch.inference_mode():
            output = network(input_ids=tokens, attention_mask=attended)
        for k, text_tokens, logits in zip(batch, tokens, output.logits):
            i = rows[k]
            random = np.random.default_rng([seed, i, 1])
            # (masks, vocabulary); masks that were cut off are the last ones
            scores = logits[text_tokens == tokenizer.mask_token_id].float().cpu().numpy()
            for position, word_scores in zip(chosen[i], scores):
                words[i][position] = _drawn_word(
                    word_scores, vocabulary, words[i][position], top_k=top_k, random=random
                )
    return [" ".join(words[i]) if i in chosen else text for i, text in enumerate(texts)]


def _with_masks(words: list[str], positions: list[int], mask: str) -> str:
    return " ".join(mask if i in positions else word for i, word in enumerate(words))


def _token_ids(
    tokenizer: PreTrainedTokenizerBase, texts: list[str], **options: Any
) -> list[list[int]]:
    return tokenizer(texts, **options)["input_ids"] if texts else []


def padded(
    tokenizer: PreTrainedTokenizerBase, ids: list[list[int]], device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return token ids, padded, and their mask: tensors of shape (batch, tokens)."""
    return tokenization.padded(ids, pad=tokenizer.pad_token_id or 0, device=device)


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
    """Let a sequence-to-sequence model translate or paraphrase each text, by nucleus sampling.

    Parameters
    ----------
    model : hub name or folder, for instance a Marian or T5 checkpoint
    prefix : put before each text, as T5 was taught
    max_tokens : a text that is longer gives "", and so does one whose new text does not end within
        twice its length: nothing is cut silently

    Raises
    ------
    WorkbookError : the model cannot be loaded, or is not a sequence-to-sequence model.
    """
    from transformers import AutoModelForSeq2SeqLM

    tokenizer, network, info = backbones.load_checkpoint(
        model, AutoModelForSeq2SeqLM, placeholders=False, setting=setting
    )
    _check_whole(info, model, setting)
    network.to("cuda" if torch.cuda.is_available() else "cpu").eval()
    rows = [i for i, text in enumerate(texts) if text.strip()]
    prompts = [prefix + texts[i] for i in rows]
    ids = _token_ids(tokenizer, prompts, truncation=False, verbose=False)
    is_short = [len(tokens) <= max_tokens for tokens in ids]
    rows = list(compress(rows, is_short))
    ids = list(compress(ids, is_short))
    written = [""] * len(texts)
    with torch.random.fork_rng(), torch.inference_mode():
        torch.manual_seed(seed)
        for batch in batches(ids, network.device, progress=progress, setting=setting):
            tokens, attended = padded(tokenizer, [ids[k] for k in batch], network.device)
            for k, text in zip(batch, _sampled(tokenizer, network, tokens, attended)):
                written[rows[k]] = text
    return written


def _sampled(
    tokenizer: PreTrainedTokenizerBase,
    network: PreTrainedModel,
    tokens: torch.Tensor,
    attended: torch.Tensor,
) -> list[str]:
    """Return a sampled text for each row of tokens, "" where it does not end."""
    output = network.generate(
        input_ids=tokens,
        attention_mask=attended,
        do_sample=True,
        top_p=TOP_P,
        top_k=0,
        num_beams=1,
        max_length=None,
        max_new_tokens=2 * tokens.shape[1] + 8,
    )
    end = torch.tensor(network.generation_config.eos_token_id, device=output.device)
    is_ended = torch.isin(output, end).any(dim=1).tolist()
    texts = tokenizer.batch_decode(output, skip_special_tokens=True)
    return [text.strip() if ended else "" for text, ended in zip(texts, is_ended)]


def load_masked_model(model: str, setting: str) -> tuple[PreTrainedTokenizerBase, PreTrainedModel]:
    """Load a masked language model with its tokenizer, ready to predict.

    Raises
    ------
    WorkbookError : it cannot be loaded, or has no trained head or no mask token; `setting` is named
    """
    from transformers import AutoModelForMaskedLM

    tokenizer, network, info = backbones.load_checkpoint(
        model, AutoModelForMaskedLM, setting=setting
    )
    _check_whole(info, model, setting)
    if tokenizer.mask_token is None:
        raise WorkbookError(
            f"{setting}: the tokenizer of {model!r} has no mask token; name a masked language "
            "model, for instance roberta-base"
        )
    backbones.resize_embeddings(tokenizer, network)
    return tokenizer, network.to("cuda" if torch.cuda.is_available() else "cpu").eval()


def _check_whole(info: dict[str, Any], model: str, setting: str) -> None:
    """Raise WorkbookError where the checkpoint lacks weights, a trained head above all."""
    missing = sorted(info["missing_keys"])
    if missing:
        raise WorkbookError(
            f"{setting}: {model!r} lacks {missing[0]} ({len(missing)} such weights): it was not "
            "trained for this task; name a model that was"
        )


def batches(
    ids: list[list[int]], device: torch.device, *, progress: bool, setting: str
) -> Iterator[list[int]]:
    """Yield positions in batches of like length, with a progress bar."""
    title = setting.removeprefix("augmentation.")
    lengths = np.array([len(tokens) for tokens in ids], np.int64)
    with tqdm(total=len(ids), desc=title, unit="text", disable=not progress) as bar:
        for batch in token_ids.sorted_batches(
            lengths, max_tokens=token_ids.pass_tokens(device.type)
        ):
            yield batch.tolist()
            bar.update(len(batch))


def _chosen_words(words: list[str], share: float, random: np.random.Generator) -> list[int]:
    """Return the positions of a share of the words, drawn from those that can be replaced."""
    replaceable = [i for i, word in enumerate(words) if _REPLACEABLE.fullmatch(word)]
    if not replaceable:
        return []
    n = min(len(replaceable), max(1, round(share * len(words))))
    return sorted(random.choice(replaceable, n, replace=False).tolist())


def whole_words(tokenizer: PreTrainedTokenizerBase, size: int) -> np.ndarray:
    """Return the word that each token stands for.

    Returns
    -------
    ndarray of str of shape (size,), "" for a part of a word, punctuation and special tokens
    """
    token_ids = list(range(min(size, len(tokenizer))))
    tokens = tokenizer.convert_ids_to_tokens(token_ids)
    texts = tokenizer.batch_decode([[token_id] for token_id in token_ids])
    mark = ""
    for candidate in _WORD_STARTS:
        n_marked = sum(token.startswith(candidate) for token in tokens)
        if n_marked > len(tokens) / 10 and not mark:
            mark = candidate
    words = np.full(size, "", dtype=object)
    for i, (token, text) in enumerate(zip(tokens, texts)):
        if token.startswith(mark) and _REPLACEABLE.fullmatch(text.strip()):
            words[i] = text.strip()
    return words


def _drawn_word(
    scores: np.ndarray,
    vocabulary: np.ndarray,
    word: str,
    *,
    top_k: int,
    random: np.random.Generator,
) -> str:
    """Return a likely word in place of `word`, with its capital and its punctuation."""
    # Only such words were chosen.
    bare, closing = _REPLACEABLE.fullmatch(word).groups()  # type: ignore[union-attr]
    word_scores = np.where(vocabulary != "", scores, -np.inf)
    n_likely = 2 * top_k  # some may be the word itself, in other cases
    likely = np.argpartition(-word_scores, min(n_likely, len(scores) - 1))[:n_likely]
    likely = likely[np.argsort(-word_scores[likely], kind="stable")]
    others = [i for i in likely if vocabulary[i].casefold() not in ("", bare.casefold())][:top_k]
    if not others:
        return word
    odds = np.exp(scores[others] - scores[others].max())
    drawn = str(vocabulary[others[int(random.choice(len(others), p=odds / odds.sum()))]])
    if bare[0].isupper() and not drawn[0].isupper():
        drawn = drawn.capitalize()
    return drawn + closing


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
    n_parents = copies["parent_id"].nunique()
    parts = [f"{len(copies):,} copies of {n_parents:,} texts, {n_good:,} of them good"]
    for reason, n in copies["rejected"].value_counts().drop("", errors="ignore").items():
        parts.append(f"{n:,} rejected ({n / len(copies):.1%}): {reason}")
    return f"{'; '.join(parts)}."
