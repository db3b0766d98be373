import numpy as np
import pytest
import spacy
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, BertForMaskedLM, PreTrainedTokenizerFast

from lib.config import RobustnessConfig
from lib.errors import WorkbookError
from lib.training import substitutes

pytestmark = pytest.mark.usefixtures("one_thread")
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "cat", "dog", "##gy", "house", "the", "42"]


@pytest.fixture(scope="module")
def masked_model(tmp_path_factory):
    """A BERT without layers that holds the next words of `WORDS` for likely in place of a word."""
    folder = tmp_path_factory.mktemp("masked")
    raw = Tokenizer(models.WordPiece({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    raw.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "mask_token": "[MASK]"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, **special)
    n = len(WORDS)
    model = BertForMaskedLM(
        BertConfig(
            vocab_size=n,
            hidden_size=n,
            num_hidden_layers=0,
            num_attention_heads=1,
            intermediate_size=n,
            tie_word_embeddings=False,
            hidden_act="relu",
        )
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        embeddings = model.bert.embeddings
        embeddings.word_embeddings.weight.copy_(torch.eye(n))
        embeddings.LayerNorm.weight.fill_(1)
        head = model.cls.predictions
        head.transform.dense.weight.copy_(torch.eye(n))
        head.transform.LayerNorm.weight.fill_(1)
        for i in range(n):
            for distance in range(1, n):
                head.decoder.weight[(i + distance) % n, i] = n - distance
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def test_the_likeliest_whole_words_of_each_place_come_first(masked_model):
    candidates = substitutes.likely_words(masked_model, n=3)
    found = candidates(["the cat", "doggy  cat the"], [[(4, 7)], [(0, 5), (11, 14)]])
    assert found == [[["dog", "house", "the"]], [["house", "the", "cat"], ["cat", "dog", "house"]]]


def test_words_behind_what_the_model_reads_have_no_candidates(masked_model):
    candidates = substitutes.likely_words(masked_model, n=1, max_tokens=4)
    spans = [[(0, 3), (8, 11)]]
    assert candidates(["cat dog cat"], spans) == [[["dog"], []]]
    assert candidates([""], [[]]) == [[]]


def test_a_model_without_a_head_is_refused_by_its_setting():
    with pytest.raises(WorkbookError, match=r"robustness\.masked_model: 'minilm' lacks cls"):
        substitutes.likely_words("minilm")


def test_neighbours_in_the_offline_encoders_embeddings_are_related_words():
    synonyms = substitutes.embedding_neighbours("minilm", n=8)
    assert "movie" in synonyms("film")
    assert "film" not in synonyms("film")
    assert synonyms("qqqqqqq") == []


def test_an_attack_is_handed_what_the_settings_name(tmp_path, masked_model):
    for name in ("noun", "verb", "adj", "adv"):
        (tmp_path / f"data.{name}").write_text("00001740 03 n 02 film 0 movie 0 000 | a film\n")
    settings = RobustnessConfig(masked_model=masked_model, thesaurus=str(tmp_path))
    found = {}
    for recipe in ("textfooler", "bert-attack", "deepwordbug"):
        tools = substitutes.attack_tools(recipe, settings=settings, class_names=["A film"])
        found[recipe] = tools.source
        assert "film" in tools.kept
        assert tools.encode is not None
    assert found["textfooler"] == f"the thesaurus {tmp_path}"
    assert found["bert-attack"] == f"the masked language model {masked_model}"
    assert tools.tagger is None


def test_synonyms_are_a_thesaurus_s_or_else_the_encoder_s_neighbours(tmp_path):
    synonyms, source = substitutes.synonyms_of(RobustnessConfig(), n=2)
    assert source.startswith("neighbours in the word embeddings of minilm, since")
    assert len(synonyms("film")) == 2
    for name in ("noun", "verb", "adj", "adv"):
        (tmp_path / f"data.{name}").write_text("00001740 03 n 02 film 0 movie 0 000 | a film\n")
    synonyms, source = substitutes.synonyms_of(RobustnessConfig(thesaurus=str(tmp_path)), n=2)
    assert (synonyms("film"), source) == (["movie"], f"the thesaurus {tmp_path}")


def test_a_word_s_part_of_speech_is_that_of_the_pipeline(tmp_path):
    pipeline = spacy.blank("en")
    ruler = pipeline.add_pipe("attribute_ruler")
    ruler.add([[{"LOWER": {"IN": ["cat", "dog"]}}]], {"POS": "NOUN"})
    ruler.add([[{"LOWER": "runs"}]], {"POS": "VERB"})
    pipeline.to_disk(tmp_path / "tagger")
    settings = RobustnessConfig(tagger=str(tmp_path / "tagger"))
    tools = substitutes.attack_tools("textfooler", settings=settings, class_names=[])
    assert tools.tagger(["a cat runs", "the dog runs"], [(2, 5), (8, 12)]) == ["NOUN", "VERB"]
    with pytest.raises(WorkbookError, match=r"robustness\.tagger: no spaCy pipeline 'en_none'"):
        substitutes.part_of_speech("en_none")


def test_the_offline_encoder_finds_paraphrases_alike():
    encode = substitutes.sentence_encoder("minilm", max_tokens=32)
    texts = ["The film was great.", "The movie was great.", "Add the eggs and stir."]
    vectors = encode(texts)
    similarity = vectors @ vectors.T
    assert vectors.shape == (3, 384)
    np.testing.assert_allclose(np.diag(similarity), 1, atol=1e-5)
    assert similarity[0, 1] > 0.8
    assert similarity[0, 2] < 0.3
