import io
import json
import pickle
import random
import shutil
import subprocess
import sys

import pytest
import sentencepiece
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AlbertConfig,
    AlbertForSequenceClassification,
    AutoModel,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
)

from lib.errors import WorkbookError
from lib.training import backbones, local_deberta

CLASSES = ["a", "b", "c"]
LAYER_NORM = "encoder.layer.1.output.LayerNorm.weight"
HEAD = {"classifier.weight", "classifier.bias", "pooler.dense.weight", "pooler.dense.bias"}
pytestmark = pytest.mark.usefixtures("one_thread")


def sentences(n=300):
    rng = random.Random(0)
    syllables = "ba co du fe gi lo mu ne pi ra so tu ve xi zo".split()
    words = ["".join(rng.choices(syllables, k=rng.randint(1, 3))) for _ in range(200)]
    return [" ".join(rng.choices(words, k=8)) + "." for _ in range(n)]


def sentencepiece_model(*, vocab_size=150, **more):
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sentences()),
        model_writer=model,
        vocab_size=vocab_size,
        hard_vocab_limit=False,
        pad_id=0,
        bos_id=1,
        eos_id=2,
        unk_id=3,
        pad_piece="[PAD]",
        bos_piece="[CLS]",
        eos_piece="[SEP]",
        unk_piece="[UNK]",
        minloglevel=2,
        **more,
    )
    return model.getvalue()


@pytest.fixture(
    scope="module",
    params=[{"user_defined_symbols": ["[MASK]"]}, {}],
    ids=["[MASK] in spm.model", "[MASK] beside it"],
)
def hub_layout(request, tmp_path_factory):
    """Write what the hub keeps of a DeBERTa-v3: half precision, a sentencepiece model, and heads
    left from pretraining."""
    folder = tmp_path_factory.mktemp("hub")
    config = local_deberta.config(200)
    torch.manual_seed(0)
    weights = {
        f"deberta.{key}": torch.randn_like(value).half()
        for key, value in AutoModel.from_config(config, dtype=torch.float32).state_dict().items()
    }
    left_over = {
        f"{head}.dense.{kind}": torch.zeros(64).half()
        for head in ("lm_predictions.lm_head", "mask_predictions")
        for kind in ("weight", "bias")
    }
    torch.save({**weights, **left_over}, folder / "pytorch_model.bin")
    settings = {**config.to_dict(), "model_type": "deberta-v2", "dtype": "float16"}
    (folder / "config.json").write_text(json.dumps(settings))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"do_lower_case": False, "vocab_type": "spm"})
    )
    (folder / "spm.model").write_bytes(sentencepiece_model(**request.param))
    return folder, weights


def test_the_hubs_layout_is_loaded_whole_and_in_float32(hub_layout, monkeypatch):
    folder, saved = hub_layout
    infos, check = [], backbones.check_keys
    monkeypatch.setattr(
        backbones, "check_keys", lambda info, **known: infos.append(info) or check(info, **known)
    )
    tokenizer, model = backbones.load_backbone(str(folder), class_names=CLASSES)
    loaded = model.state_dict()
    assert {value.dtype for value in loaded.values()} == {torch.float32}
    assert set(loaded) - set(saved) == HEAD == set(infos[0]["missing_keys"])
    assert [
        key for key, value in saved.items() if not torch.equal(loaded[key], value.float())
    ] == []
    assert model.config.id2label == dict(enumerate(CLASSES))
    assert model.classifier.out_features == 3
    assert model.get_input_embeddings().num_embeddings == 200 >= len(tokenizer)


def test_the_hubs_sentencepiece_model_becomes_the_tokenizer(hub_layout):
    folder, _ = hub_layout
    tokenizer, _ = backbones.load_backbone(str(folder), class_names=CLASSES)
    pieces = sentencepiece.SentencePieceProcessor(str(folder / "spm.model"))
    text = "babaco fe, dugilo zo."
    assert tokenizer(text)["input_ids"] == [1, *pieces.encode(text), 2]
    assert (
        tokenizer.pad_token_id,
        tokenizer.cls_token_id,
        tokenizer.sep_token_id,
        tokenizer.unk_token_id,
    ) == (0, 1, 2, 3)


RARE = [
    *("ba\u00a0co", "b\u200ba co", "\u200b", "ba\u3000\u3000co", "½ ba", "ba ﬁ", "①② ba", "ｂａ"),
    *("ba 漢字 co", "ba😀😀", "é ba", "e\u0301 ba", "ba ☃ ☂", "ba\x00co", "ba\u00adco", "…ba"),
    *("ba co.", "  ba   co ", "ba\tco\nfe", "ba <0x41> co", "<0x41><0x42>", ""),
]


@pytest.mark.parametrize(
    ("model", "n_unknown"),
    [({}, 15), ({"byte_fallback": True, "vocab_size": 420}, 0)],
    ids=["no bytes", "bytes"],
)
def test_rare_characters_are_read_as_sentencepiece_reads_them(model, n_unknown, tmp_path):
    (tmp_path / "spm.model").write_bytes(sentencepiece_model(**model))
    settings = {**local_deberta.config(500).to_dict(), "model_type": "deberta-v2"}
    (tmp_path / "config.json").write_text(json.dumps(settings))
    pieces = sentencepiece.SentencePieceProcessor(str(tmp_path / "spm.model"))
    expected = [[1, *pieces.encode(text), 2] for text in RARE]
    tokenizer = backbones.load_tokenizer(str(tmp_path))
    tokenizer.save_pretrained(tmp_path / "saved")
    (tmp_path / "saved" / "config.json").write_text(json.dumps(settings))
    for source in (tokenizer, AutoTokenizer.from_pretrained(tmp_path / "saved")):
        assert source(RARE)["input_ids"] == expected
        assert source("ba [URL] 漢 [MASK]") == tokenizer("ba [URL] 漢 [MASK]")
    counts = backbones.token_counts(str(tmp_path), RARE)
    assert counts.tolist() == [[len(ids), ids.count(3)] for ids in expected]
    assert counts[:, 1].sum() == n_unknown


def test_placeholders_are_one_token_each(hub_layout):
    tokenizer, _ = backbones.load_backbone(str(hub_layout[0]), class_names=CLASSES)
    assert (
        len({tokenizer.mask_token_id, *tokenizer.convert_tokens_to_ids(["[URL]", "[EMAIL]"])}) == 3
    )
    tokens = tokenizer.tokenize("ba [URL] co, [EMAIL].")
    assert [token for token in tokens if "[" in token or "U" in token] == ["[URL]", "[EMAIL]"]
    assert tokenizer.unk_token_id not in tokenizer("ba [URL] co [EMAIL]")["input_ids"]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return local_deberta.build(sentences(), tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def variant(tiny, tmp_path):
    """Return a copy of a checkpoint, and its weights, to be changed."""
    folder = tmp_path / "variant"
    shutil.copytree(tiny, folder)
    return folder, load_file(folder / "model.safetensors")


def test_the_embeddings_grow_where_the_tokenizer_needs_more(tiny):
    tokenizer, model = backbones.load_backbone(str(tiny), class_names=CLASSES)
    before = load_file(tiny / "model.safetensors")["embeddings.word_embeddings.weight"]
    table = model.get_input_embeddings().weight
    assert table.shape[0] == len(tokenizer) == len(before) + 2
    assert torch.equal(table[: len(before)], before)
    assert tokenizer.convert_tokens_to_ids(["[URL]", "[EMAIL]"]) == [len(before), len(before) + 1]


def test_the_seed_decides_the_weights_of_the_tiny_backbone(tiny, tmp_path):
    again, other = (
        local_deberta.build(sentences(), tmp_path / str(seed), seed=seed) for seed in (42, 43)
    )
    assert (
        (again / "model.safetensors").read_bytes()
        == (tiny / "model.safetensors").read_bytes()
        != (other / "model.safetensors").read_bytes()
    )


def test_the_same_texts_give_the_tiny_backbone_the_same_tokenizer(tiny, tmp_path):
    again = local_deberta.build(sentences(), tmp_path / "again")
    vocabularies = [
        json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
        for folder in (tiny, again)
    ]
    assert [piece for piece, _ in vocabularies[0]] == [piece for piece, _ in vocabularies[1]]


def test_a_missing_weight_is_named(variant):
    folder, weights = variant
    del weights[LAYER_NORM]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(
        WorkbookError,
        match=r"lacks deberta\.encoder\.layer\.1\.output\.LayerNorm\.weight \(1 such weights\)",
    ):
        backbones.load_backbone(str(folder), class_names=CLASSES)


def test_an_unknown_weight_is_named(variant):
    folder, weights = variant
    save_file(
        {**weights, "encoder.adapter.weight": torch.zeros(2)},
        folder / "model.safetensors",
        {"format": "pt"},
    )
    with pytest.raises(WorkbookError, match=r"has an unknown encoder\.adapter\.weight"):
        backbones.load_backbone(str(folder), class_names=CLASSES)


def test_a_weight_of_another_shape_is_refused(variant):
    folder, weights = variant
    save_file(
        {**weights, LAYER_NORM: torch.zeros(3)}, folder / "model.safetensors", {"format": "pt"}
    )
    with pytest.raises(WorkbookError, match="weights of another shape"):
        backbones.load_backbone(str(folder), class_names=CLASSES)


def test_a_head_for_another_number_of_classes_is_refused(tiny, tmp_path):
    tokenizer, model = backbones.load_backbone(str(tiny), class_names=["a", "b"])
    tokenizer.save_pretrained(tmp_path / "two")
    model.save_pretrained(tmp_path / "two")
    with pytest.raises(WorkbookError, match="another number of classes"):
        backbones.load_backbone(str(tmp_path / "two"), class_names=CLASSES)


@pytest.mark.parametrize(
    ("info", "message"),
    [
        ({"missing_keys": ["bert.pooler.dense.weight", "classifier.weight", "score.weight"]}, None),
        ({"missing_keys": ["pre_classifier.bias"], "unexpected_keys": ["decoder.bias"]}, None),
        (
            {
                "unexpected_keys": [
                    "cls.predictions.bias",
                    "lm_head.bias",
                    "bert.embeddings.position_ids",
                    "pooler.dense.bias",
                ]
            },
            None,
        ),
        (
            {"missing_keys": ["bert.encoder.rel_embeddings.weight"]},
            "lacks bert.encoder.rel_embeddings.weight",
        ),
        (
            {"missing_keys": ["bert.embeddings.position_ids_other"]},
            "lacks bert.embeddings.position_ids_other",
        ),
        (
            {"unexpected_keys": ["bert.encoder.layer.12.output.dense.weight"]},
            "unknown bert.encoder.layer.12",
        ),
        ({"unexpected_keys": ["encoder.adapter.weight"]}, "unknown encoder.adapter"),
        ({"mismatched_keys": [("x.weight", (2,), (3,))]}, "another shape for .*x.weight"),
    ],
)
def test_only_the_heads_keys_may_come_and_go(info, message):
    info = {"missing_keys": [], "unexpected_keys": [], **info}
    small = {"vocab_size": 9, "hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 8}
    model = BertForSequenceClassification(BertConfig(**small, num_hidden_layers=1))
    if message is None:
        assert backbones.check_keys(info, name="x", model=model) is None
    else:
        with pytest.raises(WorkbookError, match=message):
            backbones.check_keys(info, name="x", model=model)


class Payload:
    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


@pytest.mark.parametrize(
    "write",
    [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value, protocol=2))],
    ids=["torch.save", "pickle.dump"],
)
def test_a_pickle_that_runs_code_is_refused_and_not_run(variant, tmp_path, write):
    folder, weights = variant
    (folder / "model.safetensors").unlink()
    write(
        {**weights, "classifier.bias": Payload(tmp_path / "was_run")}, folder / "pytorch_model.bin"
    )
    try:
        with pytest.raises(WorkbookError, match=r"variant.*could not be loaded"):
            backbones.load_backbone(str(folder), class_names=CLASSES)
    finally:
        assert not (tmp_path / "was_run").exists()


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("pytorch_model.bin", b"<html>404</html>"),
        ("model.safetensors", b"version https://git-lfs.github.com/spec/v1\n"),
    ],
)
def test_weights_that_are_none_are_refused_in_words(variant, file, content):
    folder, _ = variant
    (folder / "model.safetensors").unlink()
    (folder / file).write_bytes(content)
    with pytest.raises(WorkbookError, match=r"variant.*could not be loaded"):
        backbones.load_backbone(str(folder), class_names=CLASSES)


@pytest.mark.parametrize("file", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_folder_that_lacks_a_file_is_refused(variant, file):
    folder, _ = variant
    (folder / file).unlink()
    with pytest.raises(
        WorkbookError, match=r"variant.*a folder needs config\.json, weights and a tokenizer"
    ):
        backbones.load_backbone(str(folder), class_names=CLASSES)


@pytest.mark.parametrize("name", ["nobody/deberta-of-no-one", "no/such/folder"])
def test_a_name_that_is_not_here_comes_with_advice(monkeypatch, name):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(
        WorkbookError,
        match=rf"'{name}' could not be loaded .*unset HF_HUB_OFFLINE.*--set "
        r"training\.backbone=minilm",
    ) as caught:
        backbones.load_backbone(name, class_names=CLASSES)
    assert "\n" not in str(caught.value)


def test_a_backbone_that_is_there_is_found_before_it_is_loaded(tiny, monkeypatch):
    checked = []
    monkeypatch.setattr(backbones, "offline_encoder", lambda: checked.append("minilm"))
    for name in ("tiny", "minilm", str(tiny)):
        backbones.check_available(name)
    assert checked == ["minilm"]


@pytest.mark.parametrize("name", ["nobody/deberta-of-no-one", "no/such/folder"])
def test_a_backbone_that_is_not_there_is_missed_before_it_is_loaded(monkeypatch, name):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(
        WorkbookError, match=rf"'{name}' could not be loaded .*unset HF_HUB_OFFLINE"
    ):
        backbones.check_available(name)


@pytest.fixture
def encoder_copy(tmp_path):
    """Return a folder like the offline encoder's, its tokenizer a copy and its weights a link."""
    real = backbones.offline_encoder()
    (tmp_path / "model.safetensors").symlink_to(real / "model.safetensors")
    shutil.copy(real / "tokenizer.json", tmp_path / "tokenizer.json")
    return tmp_path


def test_the_offline_encoder_is_accepted_as_it_is_and_refused_with_one_bit_changed(encoder_copy):
    assert backbones.offline_encoder(encoder_copy) == encoder_copy
    content = bytearray((encoder_copy / "tokenizer.json").read_bytes())
    content[1000] ^= 1
    (encoder_copy / "tokenizer.json").write_bytes(content)
    with pytest.raises(
        WorkbookError, match=r"tokenizer\.json has SHA-256 .*, not be50c3628f2b.*changed or damaged"
    ):
        backbones.offline_encoder(encoder_copy)


def test_an_offline_encoder_that_lacks_a_file_is_refused_in_words(encoder_copy):
    (encoder_copy / "tokenizer.json").unlink()
    with pytest.raises(WorkbookError, match=r"tokenizer\.json"):
        backbones.offline_encoder(encoder_copy)


def test_without_its_package_the_offline_encoder_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(backbones, "OFFLINE_PACKAGE", "no_such_package_here")
    with pytest.raises(WorkbookError, match=r"not installed: run `make setup`"):
        backbones.load_backbone("minilm", class_names=CLASSES)


def test_minilm_loads_whole_with_a_new_head_alone(monkeypatch):
    infos, check = [], backbones.check_keys
    monkeypatch.setattr(
        backbones, "check_keys", lambda info, **known: infos.append(info) or check(info, **known)
    )
    tokenizer, model = backbones.load_backbone("minilm", class_names=CLASSES)
    saved, loaded = load_file(backbones.offline_encoder() / "model.safetensors"), model.state_dict()
    assert set(infos[0]["missing_keys"]) == {"classifier.weight", "classifier.bias"}
    words = "embeddings.word_embeddings.weight"
    assert torch.equal(loaded[f"bert.{words}"][: len(saved[words])], saved[words])
    assert [
        key
        for key in saved
        if key.startswith("encoder.") and not torch.equal(loaded[f"bert.{key}"], saved[key])
    ] == []
    assert len(tokenizer.tokenize("[URL][EMAIL]")) == 2
    assert len(loaded[f"bert.{words}"]) == len(tokenizer)


def test_a_model_that_keeps_its_layers_elsewhere_is_told_what_to_set():
    small = {"hidden_size": 8, "embedding_size": 8, "num_attention_heads": 1, "vocab_size": 9}
    model = AlbertForSequenceClassification(AlbertConfig(**small, intermediate_size=8))
    with pytest.raises(
        WorkbookError,
        match=r"needs layers at encoder\.layer, transformer\.layer, layers; "
        r"AlbertForSequenceClassification has none there: "
        r"training\.frozen_layers=0, training\.unfreeze=\[\]",
    ):
        backbones.encoder_layers(model)


@pytest.mark.parametrize("safe", [True, False], ids=["safetensors", "bin"])
def test_shards_are_loaded_whole(variant, safe):
    folder, weights = variant
    (folder / "model.safetensors").unlink()
    names, suffix = sorted(weights), "safetensors" if safe else "bin"
    shards = {
        f"{'model' if safe else 'pytorch_model'}-0000{i + 1}-of-00002.{suffix}": names[i::2]
        for i in range(2)
    }
    for file, keys in shards.items():
        part = {key: weights[key] for key in keys}
        save_file(part, folder / file, {"format": "pt"}) if safe else torch.save(
            part, folder / file
        )
    index = {
        "metadata": {"total_size": 1},
        "weight_map": {key: file for file, keys in shards.items() for key in keys},
    }
    (folder / f"{'model.safetensors' if safe else 'pytorch_model.bin'}.index.json").write_text(
        json.dumps(index)
    )
    _, model = backbones.load_backbone(str(folder), class_names=CLASSES)
    loaded = model.state_dict()
    assert [
        key
        for key, value in weights.items()
        if not torch.equal(loaded[f"deberta.{key}"][: len(value)], value)
    ] == []


def test_a_missing_shard_is_refused(variant):
    folder, weights = variant
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    index = {
        "metadata": {"total_size": 1},
        "weight_map": {
            key: f"model-0000{1 + i % 2}-of-00002.safetensors" for i, key in enumerate(weights)
        },
    }
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(WorkbookError, match=r"variant.*could not be loaded"):
        backbones.load_backbone(str(folder), class_names=CLASSES)


def test_layer_norms_under_their_old_names_are_really_loaded(variant):
    folder, weights = variant
    torch.manual_seed(1)
    changed = {
        key: torch.randn_like(value) if "LayerNorm" in key else value
        for key, value in weights.items()
    }
    old = {
        key.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
            "LayerNorm.bias", "LayerNorm.beta"
        ): value
        for key, value in changed.items()
    }
    assert len(old.keys() - weights.keys()) >= 10
    save_file(old, folder / "model.safetensors", {"format": "pt"})
    _, model = backbones.load_backbone(str(folder), class_names=CLASSES)
    loaded = model.state_dict()
    norms = [key for key in changed if "LayerNorm" in key or key == "encoder.rel_embeddings.weight"]
    assert "encoder.rel_embeddings.weight" in norms
    assert [key for key in norms if not torch.equal(loaded[f"deberta.{key}"], changed[key])] == []


# --- the tokenizer alone ---


def test_the_tokenizer_alone_is_the_one_that_comes_with_the_model():
    whole, _ = backbones.load_backbone("minilm", class_names=["a", "b"])
    alone = backbones.load_tokenizer("minilm")
    text = "See [URL] or write to [EMAIL] about tokenisation"
    assert alone(text)["input_ids"] == whole(text)["input_ids"]
    assert alone.convert_tokens_to_ids("[EMAIL]") == len(alone) - 1


def test_a_rough_tokenizer_for_tiny_reads_the_beginnings_of_some_texts(monkeypatch):
    seen = []
    monkeypatch.setattr(local_deberta, "train_tokenizer", seen.extend)
    backbones.load_tokenizer("tiny", texts=["x" * 9_000] * 300)
    assert len(seen) == 200 and {len(text) for text in seen} == {500}


def test_a_tokenizer_that_cannot_be_found_says_what_to_do(tmp_path):
    with pytest.raises(WorkbookError, match="it has none of"):
        backbones.load_tokenizer(str(tmp_path))


def test_token_counts_are_of_whole_texts_with_the_special_tokens(monkeypatch):
    monkeypatch.setattr(backbones, "TOKENIZED_TOGETHER", 3)  # the last text comes by itself
    texts = ["one two", "word " * 700, "", "one \U0001f99c two"]
    tokenizer = backbones.load_tokenizer("minilm")
    assert backbones.token_counts("minilm", texts).tolist() == [[4, 0], [702, 0], [2, 0], [5, 1]]
    assert tokenizer("one two")["input_ids"][0] == tokenizer.cls_token_id


def test_what_trains_a_model_imports_few_packages():
    """A machine with a GPU may have torch, transformers, datasets, pydantic and what these bring
    along, and no more."""
    words = (
        "import sys, lib.training.finetune.worker; print(*{name.partition('.')[0] for name "
        "in sys.modules})"
    )
    loaded = set(
        subprocess.run(
            [sys.executable, "-c", words], capture_output=True, text=True, check=True
        ).stdout.split()
    )
    assert {"torch", "transformers", "datasets"} <= loaded
    heavy = {
        "cleanlab",
        "ftfy",
        "lingua",
        "mlflow",
        "nbconvert",
        "onnx",
        "optuna",
        "papermill",
        "ray",
        "spacy",
        "textdescriptives",
        "wandb",
        "ydata_profiling",
    }
    assert loaded & heavy == set()


def test_the_licence_of_a_backbone_is_what_its_card_says(tmp_path, monkeypatch):
    card = "---\nlicense: apache-2.0\n---\n# A model\n"
    assert backbones.licence("minilm") == "apache-2.0"
    assert backbones.licence("tiny") == backbones.licence(str(tmp_path)) == "unknown"
    (tmp_path / "README.md").write_text("# no head\n")
    assert backbones.licence(str(tmp_path)) == "unknown"
    (tmp_path / "README.md").write_text(card)
    assert backbones.licence(str(tmp_path)) == "apache-2.0"
    commit = "1" * 40
    repo = tmp_path / "hub" / "models--org--model"
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text(commit)
    (repo / "snapshots" / commit).mkdir(parents=True)
    (repo / "snapshots" / commit / "README.md").write_text(card)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    assert backbones.licence("org/model") == "apache-2.0"
    assert backbones.licence("org/other") == "unknown"
