"""Label the texts of a table on a Ray cluster, with the model that the registry holds.

    python examples/ray_predict.py MODEL IN OUT [WORKERS]

MODEL is what `mlflow.pyfunc.load_model` takes: models:/NAME@champion, or a folder. IN and OUT are
folders of Parquet files; IN has a column `text`, and OUT all of its columns and the answers, in any
order of rows. RAY_ADDRESS names a cluster, whose nodes need what the model's requirements.txt
lists; without it one is started here.
"""

import sys

import mlflow
import pandas as pd
import ray


class Model:
    """What a worker loads once and calls for each batch."""

    def __init__(self, uri: str):
        self.model = mlflow.pyfunc.load_model(uri)

    def __call__(self, rows: pd.DataFrame) -> pd.DataFrame:
        """Return the rows with their answers."""
        return rows.join(self.model.predict(rows))


def main(model: str, source: str, target: str, workers: str = "1") -> None:
    """Read IN, answer, write OUT."""
    rows = ray.data.read_parquet(source)
    answers = rows.map_batches(
        Model,
        fn_constructor_args=[model],
        batch_format="pandas",
        batch_size=1_000,
        concurrency=int(workers),
    )
    answers.write_parquet(target)


if __name__ == "__main__":
    main(*sys.argv[1:])
