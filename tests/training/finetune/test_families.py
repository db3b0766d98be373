"""Every family of models that the documentation names is trained, saved, loaded and predicts."""

import numpy as np
import pytest
import torch
from tiny_runs import TRAIN, VAL, configured, home_of_its_own, place, run
from transformers import AutoConfig, AutoModel, AutoModelForMaskedLM
from transformers import AutoModelForSequenceClassification as Classifier

from lib.config import TrainingConfig
from lib.errors import WorkbookError
from lib.training import backbones, local_deberta
from lib.training.finetune import building, freezing, optimizer, prediction, pretraining
from lib.training.finetune.job import TrainingJob

# Those that keep their layers at one of `backbones.LAYERS`; then those that do not.
LAYERED = [
    "bert",
    "camembert",
    "convbert",
    "data2vec-text",
    "deberta",
    "deberta-v2",
    "distilbert",
    "electra",
    "ernie",
    "megatron-bert",
    "modernbert",
    "mpnet",
    "rembert",
    "roberta",
    "roberta-prelayernorm",
    "xlm-roberta",
]
OTHERS = ["albert", "squeezebert"]
TRAINED = ["albert", "deberta", "distilbert", "modernbert", "mpnet"]
SHAPE = {
    "hidden_size": 16,
    "embedding_size": 16,
    "input_embedding_size": 16,
    "dim": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "n_heads": 2,
    "intermediate_size": 16,
    "hidden_dim": 16,
    "max_position_embeddings": 48,
    "type_vocab_size": 2,
    "classifier_pooling": "mean",  # as ModernBERT's own checkpoints have it
    "pad_token_id": 0,
    "bos_token_id": 1,
    "cls_token_id": 1,
    "eos_token_id": 2,
    "sep_token_id": 2,
}
DISENTANGLED = {
    "relative_attention": True,
    "pos_att_type": ["c2p", "p2c"],
    "position_biased_input": False,
}


@pytest.fixture(autouse=True, scope="module")
def _home(tmp_path_factory):
    with home_of_its_own(tmp_path_factory.mktemp("home")):
        yield


@pytest.fixture(scope="module")
def tokenizer():
    return local_deberta.train_tokenizer(TRAIN["text"].tolist())


def checkpoint(family, tokenizer, folder, *, architecture=AutoModel):
    """Save a small random model of a family and its tokenizer, as a checkpoint of the hub."""
    asked = {**SHAPE, "vocab_size": len(tokenizer)}
    if family.startswith("deberta"):
        asked |= DISENTANGLED
    known = AutoConfig.for_model(family)
    config = AutoConfig.for_model(
        family, **{name: value for name, value in asked.items() if hasattr(known, name)}
    )
    torch.manual_seed(0)
    architecture.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def hf_probs(folder, tokenizer, texts):
    """Return probabilities as transformers alone gives them, a text at a time."""
    model = Classifier.from_pretrained(folder).eval()
    with torch.no_grad():
        logits = [model(**tokenizer(text, return_tensors="pt")).logits[0] for text in texts]
    return prediction.softmax(torch.stack(logits).double().numpy())


@pytest.mark.parametrize("family", TRAINED)
def test_a_family_is_trained_and_predicts_what_its_own_code_predicts(family, tokenizer, tmp_path):
    source = checkpoint(family, tokenizer, tmp_path / family)
    unfreeze = (0, 1) if family in LAYERED else ()
    result = run(family, backbone=source, epochs=1, batch_size=30, unfreeze=unfreeze)
    expected = hf_probs(result.model_dir, tokenizer, VAL["text"])
    np.testing.assert_allclose(result.val_probs, expected, atol=1e-5)
    assert result.facts["steps"] == 2


@pytest.mark.parametrize("family", sorted({*LAYERED, *OTHERS} - {*TRAINED}))
def test_a_family_is_loaded_saved_and_predicts_what_its_own_code_predicts(
    family, tokenizer, tmp_path
):
    config = configured(backbone=checkpoint(family, tokenizer, tmp_path / family))
    job = TrainingJob(TRAIN, VAL, config, place(family))
    for part in building._load_model(job, ["a", "b", "c"])[:2]:
        part.save_pretrained(tmp_path / "saved")
    model = prediction.load_model(tmp_path / "saved")[1]
    texts = VAL["text"].tolist()[:5]
    probs = prediction.predict_probs(
        tokenizer, model, texts, settings=config.training, progress=False
    )
    np.testing.assert_allclose(probs, hf_probs(tmp_path / "saved", tokenizer, texts), atol=1e-5)


def test_a_processor_trains_in_bf16_with_the_faster_attention(tokenizer, tmp_path, monkeypatch):
    source = checkpoint("bert", tokenizer, tmp_path / "bert")
    for precision, longest, expected in (
        ("bf16", 32, "eager"),
        ("bf16", 31, "sdpa"),
        ("fp32", 32, "sdpa"),
    ):
        monkeypatch.setattr(building, "EAGER_TOKENS", longest)
        config = configured(backbone=source, precision=precision)
        job = TrainingJob(TRAIN, VAL, config, place(precision))
        _, model, _ = building._load_model(job, ["a", "b", "c"])
        assert model.config._attn_implementation == expected


@pytest.mark.parametrize("family", ["deberta", "distilbert", "modernbert", "mpnet"])
def test_a_checkpoint_with_a_head_for_masked_tokens_is_loaded_and_pretrained(
    family, tokenizer, tmp_path
):
    source = checkpoint(family, tokenizer, tmp_path, architecture=AutoModelForMaskedLM)
    _, model = backbones.load_backbone(source, class_names=["a", "b"])
    _, masked = pretraining.load_masked(source)
    words, expected = (
        loaded.get_input_embeddings().weight[: len(tokenizer)] for loaded in (model, masked)
    )
    assert torch.equal(words, expected)


@pytest.mark.parametrize("family", LAYERED)
def test_layers_are_frozen_from_below_and_learn_slower(family, tokenizer, tmp_path):
    source = checkpoint(family, tokenizer, tmp_path)
    _, model = backbones.load_backbone(source, class_names=["a", "b"])
    freezing.freeze(model, 1)
    lower, upper = backbones.encoder_layers(model)
    assert not any(p.requires_grad for p in [*lower.parameters(), *_embedded(model)])
    assert all(p.requires_grad for p in upper.parameters())
    settings = TrainingConfig(layer_decay=0.5, learning_rate=0.08, unfreeze=())
    groups = optimizer.parameter_groups(model, settings, decayed=set())
    rates = {id(p): group["lr"] for group in groups for p in group["params"]}
    assert {rates[id(p)] for p in lower.parameters()} == {0.02}
    assert {rates[id(p)] for p in upper.parameters()} == {0.04}
    assert {rates[id(p)] for p in _embedded(model)} == {0.01}
    assert {rates[id(p)] for p in model.classifier.parameters()} == {0.08}


LONGEST = {"bert": 48, "modernbert": 48, "roberta": 47, "xlm-roberta": 47, "mpnet": 46}


@pytest.mark.parametrize(("family", "longest"), LONGEST.items())
def test_texts_are_as_long_as_a_family_has_positions(family, longest, tokenizer, tmp_path):
    source = checkpoint(family, tokenizer, tmp_path)
    tokenizer, model = backbones.load_backbone(source, class_names=["a", "b"])
    backbones.check_length(model, longest)
    ids = torch.full((1, longest), 5)
    assert model(input_ids=ids).logits.isfinite().all()
    found = f"training.max_length={longest + 1}, but .* reads at most {longest} tokens"
    with pytest.raises(WorkbookError, match=found):
        backbones.check_length(model, longest + 1)


def test_with_relative_positions_alone_any_length_is_read(tokenizer, tmp_path):
    source = checkpoint("deberta-v2", tokenizer, tmp_path)
    backbones.check_length(backbones.load_backbone(source, class_names=["a", "b"])[1], 5_000)


def _embedded(model):
    return list(model.base_model.embeddings.parameters())
