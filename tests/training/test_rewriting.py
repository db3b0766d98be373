"""Texts rewritten by models: small ones that are built, and taught, here, in the hub's own
layout."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from pydantic import ValidationError
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertModel,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
    set_seed,
)

from lib.config import AugmentationConfig
from lib.errors import WorkbookError
from lib.training import baseline, rewriting

GERMAN = {
    "rot": "red",
    "blau": "blue",
    "der": "the",
    "ball": "sphere",
    "hund": "dog",
    "katze": "cat",
}


def word_tokenizer(
    words: list[str], template: str, special: dict[str, str]
) -> PreTrainedTokenizerFast:
    ids = {word: i for i, word in enumerate(dict.fromkeys([*special.values(), *words]))}
    raw = Tokenizer(models.WordLevel(ids, unk_token=special["unk_token"]))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    raw.post_processor = processors.TemplateProcessing(
        single=template, special_tokens=[(token, ids[token]) for token in special.values()]
    )
    return PreTrainedTokenizerFast(tokenizer_object=raw, **special)


def save_translator(folder: Path, pairs: dict[str, str]) -> str:
    """Teach a T5 of one layer to translate word by word, in seconds."""
    special = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    tokenizer = word_tokenizer([*pairs, *pairs.values()], "$A </s>", special)
    set_seed(0)
    sizes = {
        "d_model": 32,
        "d_kv": 16,
        "d_ff": 64,
        "num_layers": 1,
        "num_heads": 2,
        "dropout_rate": 0,
    }
    config = T5Config(
        vocab_size=len(tokenizer), pad_token_id=0, eos_token_id=1, decoder_start_token_id=0, **sizes
    )
    model, random = T5ForConditionalGeneration(config), np.random.default_rng(0)
    optimizer, loss = torch.optim.Adam(model.parameters(), lr=1e-2), torch.tensor(1.0)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.995)
    for _ in range(600):
        if loss < 0.005:  # how soon depends on how the processor rounds
            break
        sentences = [
            random.permutation(list(pairs))[: random.integers(1, 6)].tolist() for _ in range(64)
        ]
        given = tokenizer(
            [" ".join(words) for words in sentences], padding=True, return_tensors="pt"
        )
        wanted = tokenizer(
            [" ".join(pairs[word] for word in words) for words in sentences],
            padding=True,
            return_tensors="pt",
        )["input_ids"]
        loss = model(
            input_ids=given["input_ids"],
            attention_mask=given["attention_mask"],
            labels=wanted.masked_fill(wanted == 0, -100),
        ).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    assert loss < 0.005, "the translator of this test has not learned its words"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def translators(tmp_path_factory):
    folder = tmp_path_factory.mktemp("translators")
    # Back from English to other German words: a copy that differs from its parent.
    back = {english: f"{german}e" for german, english in GERMAN.items()}
    return save_translator(folder / "there", GERMAN), save_translator(folder / "back", back)


@pytest.fixture(scope="module")
def masked_model(tmp_path_factory):
    """A BERT that holds `cat`, `Dog` and `##ing` for likely everywhere, in this order of falling
    probability after `##ing`."""
    folder = tmp_path_factory.mktemp("masked")
    special = {
        "pad_token": "[PAD]",
        "unk_token": "[UNK]",
        "cls_token": "[CLS]",
        "sep_token": "[SEP]",
        "mask_token": "[MASK]",
    }
    tokenizer = word_tokenizer(
        ["cat", "Dog", "##ing", "house", "see", "the", "42"], "[CLS] $A [SEP]", special
    )
    set_seed(0)
    model = BertForMaskedLM(
        BertConfig(
            vocab_size=len(tokenizer),
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=16,
        )
    )
    with torch.no_grad():
        # tied to the embeddings: every place looks alike
        model.cls.predictions.decoder.weight.zero_()
        for word, score in {
            "##ing": 40,
            "[SEP]": 38,
            "42": 35,
            "cat": 30,
            "Dog": 20,
            "house": 10,
        }.items():
            model.cls.predictions.bias[tokenizer.convert_tokens_to_ids(word)] = score
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def test_a_word_is_replaced_by_the_likeliest_whole_word_in_its_case_and_with_its_punctuation(
    masked_model,
):
    texts = ["house!", "See", "cat.", "see 42 x=1"]
    assert rewriting.replace_in_context(texts, model=masked_model, top_k=1, progress=False) == [
        "cat!",
        "Cat",
        "Dog.",
        "cat 42 x=1",
    ]


def test_a_share_of_the_words_is_replaced(masked_model):
    (changed,) = rewriting.replace_in_context(
        [" ".join(["house"] * 10)], model=masked_model, share=0.3, top_k=1, progress=False
    )
    assert sorted(changed.split()) == ["cat"] * 3 + ["house"] * 7


def test_a_text_without_a_word_to_replace_and_one_with_a_mask_in_it_stay(masked_model):
    texts = ["", "[URL] 42 f(x)", "the [MASK]  house"]
    assert rewriting.replace_in_context(texts, model=masked_model, progress=False) == texts


def test_words_behind_what_the_model_reads_stay(masked_model):
    text = " ".join(["the"] * 30)
    (changed,) = rewriting.replace_in_context(
        [text], model=masked_model, share=1.0, top_k=1, max_tokens=12, progress=False
    )
    assert changed.split() == ["cat"] * 10 + ["the"] * 20  # two of the twelve are special


def test_the_draw_follows_the_seed_and_the_probabilities(masked_model):
    texts = ["the see the see"] * 40
    first = rewriting.replace_in_context(
        texts, model=masked_model, share=1.0, top_k=3, seed=1, progress=False
    )
    assert first == rewriting.replace_in_context(
        texts, model=masked_model, share=1.0, top_k=3, seed=1, progress=False
    )
    assert set(" ".join(first).split()) == {"cat"}  # e^10 times as likely as Dog


def test_a_model_without_a_trained_head_is_refused():
    with pytest.raises(
        WorkbookError,
        match=r"augmentation\.masked_model: 'minilm' lacks cls\.predictions.*not trained for "
        r"this task",
    ):
        rewriting.replace_in_context(["a house"], model="minilm", progress=False)


def test_a_translator_translates_and_gives_nothing_for_what_it_cannot_read_whole(translators):
    texts = ["der hund", "", "rot blau ball", "der " * 300]
    found = rewriting.generate(
        texts, model=translators[0], setting="augmentation.paraphraser", progress=False
    )
    assert found == ["the dog", "", "red blue sphere", ""]


def test_a_back_translation_goes_there_and_back(translators):
    settings = AugmentationConfig(methods=("back_translation",), translators=translators)
    found = rewriting.rewritten(
        ["der hund", "", "blau katze"],
        method="back_translation",
        settings=settings,
        seed=1,
        progress=False,
    )
    assert found == ["dere hunde", "", "blaue katzee"]


def test_a_paraphraser_is_asked_with_its_prefix(translators):
    settings = AugmentationConfig(
        methods=("paraphrase",), paraphraser=translators[0], paraphrase_prefix="rot "
    )
    assert rewriting.rewritten(
        ["hund"], method="paraphrase", settings=settings, seed=1, progress=False
    ) == ["red dog"]


def test_a_text_that_does_not_end_is_no_copy(translators, tmp_path):
    model = T5ForConditionalGeneration.from_pretrained(translators[0])
    model.generation_config.eos_token_id = model.config.eos_token_id = (
        2  # which the model never writes
    )
    model.save_pretrained(tmp_path)
    PreTrainedTokenizerFast.from_pretrained(translators[0]).save_pretrained(tmp_path)
    assert rewriting.generate(
        ["der hund"], model=str(tmp_path), setting="augmentation.paraphraser", progress=False
    ) == [""]


def test_a_model_of_another_kind_is_refused(masked_model, tmp_path):
    with pytest.raises(
        WorkbookError,
        match=r"augmentation\.translators\[0\]: '.*' could not be loaded .* leave its method out "
        r"of augmentation\.methods",
    ):
        rewriting.generate(
            ["a"], model=masked_model, setting="augmentation.translators[0]", progress=False
        )
    BertModel(
        BertConfig(
            vocab_size=12,
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=16,
        )
    ).save_pretrained(tmp_path)
    PreTrainedTokenizerFast.from_pretrained(masked_model).save_pretrained(tmp_path)
    with pytest.raises(WorkbookError, match="not trained for this task"):
        rewriting.replace_in_context(["a house"], model=str(tmp_path), progress=False)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"methods": ("contextual",)}, "contextual needs augmentation.masked_model"),
        (
            {"methods": ("swap", "back_translation")},
            "back_translation needs augmentation.translators",
        ),
        ({"methods": ("paraphrase",)}, "paraphrase needs augmentation.paraphraser"),
    ],
)
def test_a_method_whose_model_is_not_named_says_which_setting_it_needs(settings, message):
    with pytest.raises(ValidationError, match=message):
        AugmentationConfig(**settings)


def topics(n: int) -> pd.DataFrame:
    random = np.random.default_rng(0)
    words = {"bird": "crow finch owl wren robin", "tool": "saw drill nail screw axe"}
    labels = [sorted(words)[i % 2] for i in range(n)]
    texts = [
        f"{' '.join(random.choice(words[label].split(), 4))} number{i}"
        for i, label in enumerate(labels)
    ]
    return pd.DataFrame(
        {"row_id": np.arange(100, 100 + n), "text": texts, "label": labels, "group": np.arange(n)}
    )


def test_copies_are_made_of_a_sample_by_each_method_as_often_as_asked():
    train = topics(40)
    settings = AugmentationConfig(methods=("delete", "insert"), rows=20, copies=2)
    parents, copies = rewriting.augment(train, settings=settings, held_out=[], progress=False)
    assert len(parents) == 20
    assert set(parents["row_id"]) < set(train["row_id"])
    assert copies["method"].value_counts().min() >= 30  # of 40: two copies of one text may be equal
    assert not copies["text"].duplicated().any()
    of_parent = train.set_index("row_id")
    assert (copies["label"].to_numpy() == of_parent["label"][copies["parent_id"]].to_numpy()).all()
    assert set(copies["parent_id"]) <= set(parents["row_id"])
    assert (copies["rejected"] == "").all()


def test_a_copy_that_lost_its_label_or_came_near_a_held_out_text_is_rejected(monkeypatch):
    train = topics(40)
    changed = [
        "saw drill axe screw nail",
        *train["text"][1:-1],
        "crow near the wren held out",
    ]  # row 100 was about birds, 139 about tools
    monkeypatch.setattr(rewriting, "rewritten", lambda texts, **_: changed)
    _, copies = rewriting.augment(
        train,
        settings=AugmentationConfig(methods=("swap",)),
        held_out=["Crow near the wren: held out!"],
        progress=False,
    )
    assert copies[["parent_id", "rejected"]].to_numpy().tolist() == [
        [100, rewriting.LABEL_LOST],
        [139, rewriting.HELD_OUT_COPY],
    ]


def test_no_methods_give_no_copies():
    parents, copies = rewriting.augment(
        topics(12), settings=AugmentationConfig(methods=()), held_out=["a b c"], progress=False
    )
    assert len(parents) == 12
    assert copies.empty
    assert list(copies) == ["parent_id", "method", "text", "label", "group", "rejected"]
    assert baseline.augmentation_gain(parents, copies, topics(12), progress=False).empty
