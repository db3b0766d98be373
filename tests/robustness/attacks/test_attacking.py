import json

import numpy as np
import pytest

from lib.errors import WorkbookError
from lib.robustness.attacks import Tools, attack, attacking, misspellings
from lib.robustness.attacks.candidates import by_word

CLASSES = ["bad", "good"]
POSITIVE = {"great": 0.3, "fine": 0.2, "nice": 0.1}
SYNONYMS = {"great": ["big", "large", "fine"], "fine": ["thin"], "nice": ["kind"]}


class Model:
    """Good by the sum of its words' weights, from 0.3 on; it counts what it is asked."""

    def __init__(self):
        self.texts = []
        self.calls = 0

    def __call__(self, texts):
        self.calls += 1
        self.texts += texts
        scores = [0.2 + sum(POSITIVE.get(word, 0) for word in text.split()) for text in texts]
        return np.array([[1 - score, score] for score in scores])


def tools(**changed):
    options = {"candidates": by_word(lambda word: SYNONYMS.get(word, [])), "source": "a list"}
    return Tools(**{**options, **changed})


def run(texts, labels=None, *, model=None, recipe="textfooler", with_tools=None, **options):
    options = {"progress": False, **options}
    return attack(
        model or Model(),
        texts,
        labels or ["good"] * len(texts),
        class_names=CLASSES,
        recipe=recipe,
        tools=with_tools or tools(),
        **options,
    )


def test_the_most_important_word_is_replaced_first_and_no_more_than_needed():
    # 0.2 + 0.1 + 0.3 + 0.2 is 0.8; without `great` it is 0.5, a tie that argmax gives to `bad`
    row = run(["nice great fine film"]).table.iloc[0]
    assert row["outcome"] == "succeeded"
    assert row["attacked"] == "nice big fine film"
    assert row["edits"] == [[5, 10, "big"]]
    assert (row["n_words"], row["predicted"]) == (4, "bad")
    assert (row["before"], row["after"]) == (0.8, 0.5)
    # the text, four texts without a word, three candidates
    assert row["n_queries"] == 8


def test_words_are_replaced_until_the_answer_changes():
    row = run(["great great fine"]).table.iloc[0]  # 1.0, then 0.7, then 0.4
    assert row["attacked"] == "big big fine"
    assert row["after"] == pytest.approx(0.4)


def test_words_to_keep_stay_and_are_not_put_in():
    kept = tools(kept=frozenset(["great", "thin"]))
    row = run(["nice great fine film"], with_tools=kept).table.iloc[0]
    assert (row["outcome"], row["attacked"]) == ("failed", "kind great fine film")
    kept = tools(kept=frozenset(["big"]))
    row = run(["nice great fine film"], with_tools=kept).table.iloc[0]
    assert row["attacked"] == "nice large fine film"


def test_a_replacement_has_the_case_of_its_word():
    model = Model()
    upper = lambda texts: model([text.lower() for text in texts])  # noqa: E731
    table = run(["Great fine", "GREAT fine"], model=upper).table
    assert table["attacked"].tolist() == ["Big fine", "BIG fine"]


def vectors(texts):
    """`big` turns the meaning by 90 degrees, `large` by 37 (cosine 0.8)."""
    known = {"big": [0, 1], "large": [0.8, 0.6]}
    return np.array([next((v for w, v in known.items() if w in t), [1.0, 0]) for t in texts])


def test_similarity_keeps_candidates_out_and_the_most_similar_is_taken():
    row = run(["nice great fine film"], with_tools=tools(encode=vectors)).table.iloc[0]
    # `fine` is the most similar, but does not change the answer: 0.2 + 0.1 + 0.2 + 0.2 = 0.7
    assert row["attacked"] == "nice large fine film"
    assert row["similarity"] == 0.8


def test_without_an_encoder_no_similarity_is_claimed():
    result = run(["nice great fine film"])
    assert np.isnan(result.table["similarity"][0])
    assert "whether the meaning is kept was not measured" in result.describe()


def test_the_part_of_speech_is_kept():
    def tagger(texts, spans):
        words = [text[start:stop] for text, (start, stop) in zip(texts, spans)]
        return ["NOUN" if word == "big" else "ADJ" for word in words]

    row = run(["nice great fine film"], with_tools=tools(tagger=tagger)).table.iloc[0]
    assert row["attacked"] == "nice large fine film"


def test_the_span_that_is_tagged_moves_with_earlier_replacements():
    seen = []

    def tagger(texts, spans):
        seen.extend(text[start:stop] for text, (start, stop) in zip(texts, spans))
        return ["ADJ"] * len(texts)

    row = run(["great great fine"], with_tools=tools(tagger=tagger)).table.iloc[0]
    assert row["attacked"] == "big big fine"
    assert set(seen) == {"great", "big", "large"}


def test_wrong_texts_are_not_attacked_and_a_class_that_is_never_predicted_has_no_rate():
    model = Model()
    result = run(["nice great fine film"], ["bad"], model=model)
    assert result.table["outcome"].tolist() == ["wrong before"]
    assert len(model.texts) == 1
    assert result.intervals() == {}
    assert "no rate is defined" in result.describe()


@pytest.mark.parametrize("budget", [1, 2, 3, 5, 7, 8])
def test_no_text_gets_more_queries_than_its_budget(budget):
    model = Model()
    row = run(["nice great fine film"], model=model, budget=budget).table.iloc[0]
    assert row["n_queries"] == len(model.texts) <= budget
    assert row["outcome"] == ("succeeded" if budget in (5, 7, 8) else "out of queries")


def test_words_without_which_the_probability_does_not_fall_stay():
    model = Model()
    film = tools(candidates=by_word(lambda word: ["movie"] if word == "film" else []))
    row = run(["nice great fine film"], model=model, with_tools=film).table.iloc[0]
    assert row["outcome"] == "failed"
    assert not any("movie" in text for text in model.texts)


def test_a_text_of_10000_words_is_searched_within_the_budget():
    model = Model()
    text = " ".join(["word"] * 5_000 + ["great", "fine"] + ["word"] * 4_998)
    row = run([text], model=model, budget=100).table.iloc[0]
    assert row["n_queries"] <= 100
    assert row["outcome"] == "succeeded"
    assert row["attacked"].count("big") == 1


@pytest.mark.parametrize("recipe", ["textfooler", "bert-attack", "deepwordbug"])
@pytest.mark.parametrize(
    "text", ["", " \n", "the of and", "😀🎉", "x", "7 8 9", "很好的电影", "ดีมาก", "a\ud800b"]
)
def test_odd_texts_come_to_an_end(recipe, text):
    answering_good = lambda texts: np.tile([0.1, 0.9], (len(texts), 1))  # noqa: E731
    with_tools = tools(kept=frozenset(["the", "of", "and"]))
    result = run([text], model=answering_good, recipe=recipe, with_tools=with_tools)
    outcome = "failed" if text in ("很好的电影", "ดีมาก") else "no word to change"
    assert result.table["outcome"].tolist() == [outcome]
    assert result.intervals()["success"].with_ends[:2] == (0, 0)
    assert "changed no answer" in repr(result.diffs())


def test_searches_side_by_side_find_what_they_find_alone_in_fewer_calls():
    texts = ["nice great fine film", "great great fine", "nice film", "fine great", ""]
    alone, together = Model(), Model()
    one_by_one = run(texts, model=alone, batch=1).table
    side_by_side = run(texts, model=together).table
    assert one_by_one.equals(side_by_side)
    assert sorted(alone.texts) == sorted(together.texts)
    assert alone.calls == len(alone.texts) > 4 * together.calls


def test_the_same_seed_gives_the_same_misspellings_and_another_one_others():
    texts = ["a truly nice great movie"] * 2 + ["another nice great movie"]
    options = {"recipe": "deepwordbug", "with_tools": Tools()}
    first, again = (run(texts, seed=1, **options).table for _ in range(2))
    assert first.equals(again)
    backwards = run(texts[::-1], seed=1, **options).table
    assert backwards["attacked"].tolist() == first["attacked"].tolist()[::-1]
    assert misspellings(seed=1)("great") != misspellings(seed=2)("great")


def test_an_interrupted_attack_keeps_what_it_found_and_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(attacking, "WIDTH", 1)
    texts = ["nice great fine film", "great great fine", "fine great"]
    whole = run(texts).table
    model = Model()

    def interrupted(asked):
        if any("great great" in text for text in asked):
            raise KeyboardInterrupt
        return model(asked)

    options = {"store": tmp_path / "attack.jsonl", "key": "model 1"}
    with pytest.raises(KeyboardInterrupt):
        run(texts, model=interrupted, **options)
    n_asked = len(model.texts)
    with (tmp_path / "attack.jsonl").open("a") as file:
        file.write('{"key": "cut off in the mi')  # as a process that was killed leaves it
    model = Model()
    assert run(texts, model=model, **options).table.equals(whole)
    assert texts[0] not in model.texts
    again = Model()
    assert run(texts, model=again, **options).table.equals(whole)
    assert again.texts == []
    assert n_asked == 8
    run(texts, model=again, **{**options, "key": "model 2"})
    assert texts[0] in again.texts
    lines = (tmp_path / "attack.jsonl").read_text().splitlines()
    assert len({json.loads(line)["key"] for line in lines}) == len(lines) == 6


def test_texts_that_did_not_get_their_turn_are_no_failures(tmp_path, monkeypatch):
    monkeypatch.setattr(attacking, "WIDTH", 1)
    clock = iter(range(1_000))
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    texts = ["nice great fine film", "great great fine", "fine great"]
    store = tmp_path / "attack.jsonl"
    # the first text asks three times for probabilities and once for candidates
    result = run(texts, seconds=5, store=store)
    assert result.table["outcome"].tolist() == ["succeeded", "out of time", "out of time"]
    assert result.intervals()["success"].n == 1
    assert "Of 3 texts: 1 succeeded, 2 out of time." in result.describe()
    assert run(texts, store=store).table["outcome"].tolist() == ["succeeded"] * 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"texts": ["a"], "labels": ["neither"]}, r"labels\[0\] is 'neither', none of class_names"),
        ({"texts": ["a"], "labels": ["good", "bad"]}, "1 texts and 2 labels"),
        ({"texts": [None]}, r"texts\[0\] is NoneType, not a text"),
        ({"texts": ["a"], "budget": 0}, "budget is the number of queries a text, at least 1"),
        ({"texts": ["a"], "recipe": "hotflip"}, "recipe is one of textfooler, bert-attack"),
        ({"texts": ["a"], "with_tools": Tools()}, "tools.candidates is None, and TextFooler"),
        (
            {"texts": ["a"], "model": lambda texts: np.full((len(texts), 2), np.nan)},
            r"texts\[0\] 'a' has nan",
        ),
    ],
)
def test_what_is_wrong_is_named(options, message):
    with pytest.raises(WorkbookError, match=message):
        run(**options)
