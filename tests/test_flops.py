"""The benchmark's count of operations; `benchmarks` is no package, so its module is read by
path."""

import importlib.util
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForSequenceClassification, BertConfig, DebertaV2Config

from lib.training import local_deberta

FILE = Path(__file__).resolve().parents[1] / "benchmarks" / "flops.py"


@pytest.fixture(scope="module")
def flops():
    spec = importlib.util.spec_from_file_location("flops", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_operations_of_a_token_are_those_counted_by_hand(flops):
    bert = BertConfig(
        vocab_size=9, hidden_size=4, num_hidden_layers=2, num_attention_heads=2, intermediate_size=6
    )
    projections, feed_forward, attention = (
        4 * 2 * 16,
        2 * 2 * 24,
        2 * 2 * 10 * 4,
    )  # of one token in a text of 10, one layer
    assert flops.flops_per_token(bert, n_tokens=10) == 3 * 2 * (
        projections + feed_forward + attention
    )
    settings = {
        "vocab_size": 9,
        "hidden_size": 4,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 6,
        "relative_attention": True,
    }
    deberta = DebertaV2Config(**settings, position_buckets=8, pos_att_type=["p2c", "c2p"])
    positions = 2 * 2 * 16 * 4  # c2p and p2c: 19 distances, but 16 embeddings
    assert flops.flops_per_token(deberta, n_tokens=10) == 3 * 2 * (
        projections + feed_forward + attention + positions
    )
    deberta = DebertaV2Config(
        **settings,
        position_buckets=-1,
        max_relative_positions=-1,
        max_position_embeddings=64,
        pos_att_type=["c2p"],
    )
    assert flops.flops_per_token(deberta, n_tokens=10) == 3 * 2 * (
        projections + feed_forward + attention + 2 * 19 * 4
    )


def test_counted_operations_are_those_that_torch_counts(flops):
    """The eager code computes all 512 positions and the padding: counted alike, it agrees with
    torch's own counter."""
    model = AutoModelForSequenceClassification.from_config(local_deberta.config(200)).eval()
    n, n_texts = 400, 2  # 799 distances, of 512 embeddings
    with FlopCounterMode(display=False) as counter:
        model(input_ids=torch.ones(n_texts, n, dtype=torch.long)).logits.sum().backward()
    config = model.config
    relative = (
        3 * config.num_hidden_layers * 2 * 2 * 512 * config.hidden_size**2
    )  # the projections of the positions
    head = 3 * 2 * n_texts * (config.hidden_size**2 + config.hidden_size * config.num_labels)
    counted = n * n_texts * flops.flops_per_token(config, n_tokens=n) + relative + head
    assert counter.get_total_flops() == pytest.approx(counted, rel=1e-3)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("NVIDIA H200", 989e12),
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA H100 NVL", 835e12),
        ("NVIDIA H200 NVL", 835e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA L4", 121e12),
        ("Tesla T4", 65e12),
        ("NVIDIA GeForce RTX 4090", 165e12),
        ("NVIDIA L40S", None),
        ("NVIDIA T400", None),
        ("NVIDIA GeForce RTX 4090 D", None),
        ("NVIDIA GeForce RTX 3090", None),
    ],
)
def test_peaks_are_known_by_the_name_of_the_gpu(flops, monkeypatch, name, expected):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _device: name)
    assert flops.peak_flops("cuda") == expected
    assert flops.peak_flops(torch.device("cpu")) is None
