"""Attacks on the offline encoder, and scores of texts that belong to no class:
`python benchmarks/attacks.py`.

The texts are the beginnings of newsgroup posts. The model that is attacked is a regression on the
encoder's vectors. For the scores each topic is held out in turn.
"""

import time

import newsgroups
from sklearn.linear_model import LogisticRegression

from lib.config import RobustnessConfig
from lib.robustness import attacks, ood_comparison
from lib.training import substitutes

N_LEARNED, N_ATTACKED, N_ONE_BY_ONE = 1_000, 300, 20
N_CHARS = 300
N_TRAIN, N_VAL = 4_000, 2_000


def main() -> None:
    if not newsgroups.FILE.exists():
        print(newsgroups.MISSING)
        return
    posts = newsgroups.posts().sample(frac=1, random_state=42, ignore_index=True)
    attack_encoder(posts.assign(text=posts["text"].str.slice(0, N_CHARS)))



def attack_encoder(posts) -> None:
    learned = posts.head(N_LEARNED)
    attacked = posts[N_LEARNED : N_LEARNED + N_ATTACKED]
    encode = substitutes.sentence_encoder("minilm", max_tokens=80)
    head = LogisticRegression(C=10, max_iter=500).fit(
        encode(learned["text"].tolist()), learned["label"]
    )

    def run(recipe, rows, **options):
        tools = substitutes.attack_tools(
            recipe, settings=RobustnessConfig(), class_names=list(head.classes_)
        )
        started = time.perf_counter()
        result = attacks.attack(
            lambda texts: head.predict_proba(encode(texts)),
            rows["text"].tolist(),
            rows["label"].tolist(),
            class_names=list(head.classes_),
            recipe=recipe,
            tools=tools,
            progress=False,
            **options,
        )
        return time.perf_counter() - started, result

    for recipe in ("textfooler", "bert_attack"):
        seconds, result = run(recipe, attacked)
        most = result.table["n_queries"].max()
        print(f"{f'{recipe}: {N_ATTACKED} texts':<70} {seconds:8.0f} s (<= 300)")
        print(f"{f'{recipe}: most queries of a text':<70} {most:8,} (<= 400)")
        print(result.describe())
    few = attacked.head(N_ONE_BY_ONE)
    seconds, _ = run("textfooler", few)
    one_by_one, _ = run("textfooler", few, batch=1)
    ratio = one_by_one / seconds
    print(f"{'texts a second, against one query at a time':<70} {ratio:8.1f} times (>= 5)")


def compare_scores(posts) -> None:
    train = posts.head(N_TRAIN)
    val = posts[N_TRAIN : N_TRAIN + N_VAL]
    table = ood_comparison.near_table(train, val, n_resamples=200, progress=False)
    chosen = ood_comparison.choose(table)
    gain = ood_comparison.near_gain(table, chosen)
    assert gain is not None  # classes were held out
    print(ood_comparison.mean_auroc(table).round(3).to_string())
    print(f"{f'AUROC of {chosen} over that of maximum probability':<60} {gain.signed()} (>= 0.05)")


if __name__ == "__main__":
    main()
