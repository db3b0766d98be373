"""Small labelled tables, and the settings that name one."""

import pandas as pd

from lib.config import Config


def settings(source, **changes):
    sections = {"data": {"source": source}}
    for key, value in changes.items():
        section, name = key.split("__")
        sections.setdefault(section, {})[name] = value
    return Config.model_validate({"profile": "test", **sections})


def table_of(*labels, text="some text"):
    return pd.DataFrame(
        {
            "row_id": range(len(labels)),
            "text": [text] * len(labels),
            "label": pd.Series(labels, dtype=object),
        }
    )
