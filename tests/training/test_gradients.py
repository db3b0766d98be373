import numpy as np
import pytest
import torch

from lib.config import TrainingConfig
from lib.data.words import word_spans
from lib.training import backbones, finetune, gradients

pytestmark = pytest.mark.usefixtures("one_thread")
SETTINGS = TrainingConfig(max_length=16, precision="fp32")  # also where bf16 is faster
NAMES = ["fruit", "tool"]


@pytest.fixture(scope="module")
def minilm():
    torch.manual_seed(0)  # of the head
    tokenizer, model = backbones.load_backbone("minilm", class_names=NAMES)
    model.classifier.weight.data.mul_(50)  # so that the answer depends on the words
    return tokenizer, model.eval()


def explained(minilm, text, **options):
    (found,) = gradients.integrated_gradients(
        *minilm, [text], settings=SETTINGS, class_names=NAMES, **options
    )
    return found


def test_the_effects_add_up_to_the_change_of_the_probability(minilm):
    text = "An apple, two pears; no saws!"
    found = explained(minilm, text, n_steps=64)
    assert [text[start:stop] for ((start, stop),) in found.parts] == [
        *("An", "apple", "two", "pears", "no", "saws")
    ]
    probs = finetune.predict_probs(*minilm, [text], settings=SETTINGS, progress=False)[0]
    assert found.predicted == NAMES[probs.argmax()]
    assert found.confidence == pytest.approx(probs.max(), abs=1e-5)
    tokenizer, _ = minilm
    n_tokens = len(tokenizer(text)["input_ids"]) - 2
    padding = tokenizer.pad_token * n_tokens
    wordless = finetune.predict_probs(*minilm, [padding], settings=SETTINGS, progress=False)[0]
    change = found.confidence - wordless[NAMES.index(found.predicted)]
    assert abs(change) > 0.05
    assert found.effects.sum() == pytest.approx(change, abs=0.01)


def test_words_beyond_the_limit_have_no_effect_and_no_words_no_parts(minilm):
    text = " ".join(f"apple{i}" for i in range(20))
    found = explained(minilm, text, n_steps=4)
    assert len(found.parts) == 20
    assert found.effects[0] != 0 and not found.effects[10:].any()
    empty = explained(minilm, "?!", n_steps=4)
    assert empty.parts == [] and len(empty.effects) == 0


def test_tokens_count_with_their_word_and_signs_with_the_word_before():
    text = "so unlikely, yes"
    assert [text[start:stop] for start, stop in word_spans(text)] == ["so", "unlikely", "yes"]
    # [CLS] so un ##likely , yes(with its blank) [SEP]
    offsets = [(0, 0), (0, 2), (3, 5), (5, 11), (11, 12), (12, 16), (0, 0)]
    effects = gradients._by_word(text, offsets, np.array([9.0, 1, 2, 3, 0.5, 4, 9]))
    assert effects.tolist() == [1, 5.5, 4]
