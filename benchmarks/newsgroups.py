"""The newsgroup posts that benchmarks measure on, where they lie beside the repository: the bodies,
cleaned."""

from pathlib import Path

import pandas as pd

from lib.data import cleaning

FILE = Path(__file__).resolve().parents[2] / "shared" / "data" / "newsgroups.parquet"
MISSING = "newsgroups.parquet is not in shared/data beside the repository: not measured"


def posts() -> pd.DataFrame:
    """Return `text`, `label` and `split` (train or test, by date) of the posts, without headers,
    quotes and signatures, of three words or more."""
    table = pd.read_parquet(FILE)
    one_line = ~table["text"].str.strip().str.contains(
        "\n"
    )  # its lines end in tabs, as those of all training posts do
    raw = table["text"].where(~one_line, table["text"].str.replace("\t", "\n"))
    bodies = (
        raw.str.partition("\n\n")[2]
        .str.replace(r"(?m)^[>|:].*$", "", regex=True)
        .str.partition("\n-- \n")[0]
    )
    table = table.assign(text=cleaning.clean_texts(bodies.tolist()).texts)
    return table.loc[
        table["text"].str.split().str.len() >= 3, ["text", "label", "split"]
    ].reset_index(drop=True)
