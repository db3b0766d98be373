"""How often is the encoding of a table told rightly, refused, or told wrongly?

Tables of spaCy's example sentences, in 33 languages and the encodings that they are written in,
with one sentence a row, alone and among English rows. A table counts as read rightly where its text
is, whatever the encoding is called.
"""

import importlib
from collections import Counter

import numpy as np
import pandas as pd

from lib.data.formats.encodings import tell_encoding
from lib.errors import WorkbookError

LANGUAGES = {
    "cp1252": "ca da de es fi fr id it nb nl pt sv",
    "cp1250": "cs hr hu pl ro sk sl",
    "iso8859-2": "cs pl",
    "cp1251": "bg ru sr uk",
    "koi8-r": "ru",
    "iso8859-5": "ru",
    "cp866": "ru",
    "mac-cyrillic": "ru",
    "cp1253": "el",
    "iso8859-7": "el",
    "cp1254": "tr",
    "cp1255": "he",
    "cp1256": "ar fa",
    "cp1257": "lt",
    "cp1258": "vi",
    "cp850": "de fr",
    "mac-roman": "de fr",
    "gb18030": "zh",
    "big5": "zh",
    "cp932": "ja",
    "euc-jp": "ja",
    "euc-kr": "ko",
}
SIZES = ((5, 20), (20, 0), (20, 200), (100, 1_000))  # rows in the language, in English
DRAWS = 6


def main() -> None:
    outcomes = {}
    for n_rows, n_english in SIZES:
        counts: Counter[str] = Counter()
        for encoding, languages in LANGUAGES.items():
            for language in languages.split():
                for seed in range(DRAWS):
                    content = table(language, encoding, n_rows, n_english, seed=seed)
                    if not content.isascii():
                        counts[outcome(content, encoding)] += 1
        outcomes[f"{n_rows} rows, {n_english} in English"] = counts
    columns = ["right", "refused", "wrong"]
    print(pd.DataFrame(outcomes).T.reindex(columns=columns).fillna(0).astype(int).to_string())


def sentences(language: str) -> list[str]:
    return list(importlib.import_module(f"spacy.lang.{language}.examples").sentences)


def table(language: str, encoding: str, n_rows: int, n_english: int, *, seed: int) -> bytes:
    rng = np.random.default_rng(seed)
    rows = [*rng.choice(sentences(language), n_rows), *rng.choice(sentences("en"), n_english)]
    rng.shuffle(rows)
    lines = [f'"{row}",{("news", "sport")[i % 2]}\n' for i, row in enumerate(rows)]
    return "".join(["text,label\n", *lines]).encode(encoding, "ignore")


def outcome(content: bytes, encoding: str) -> str:
    try:
        told = tell_encoding(content, name="table")
    except WorkbookError:
        return "refused"
    return "right" if content.decode(told.name) == content.decode(encoding) else "wrong"


if __name__ == "__main__":
    main()
