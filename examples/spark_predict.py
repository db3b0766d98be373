"""Label the texts of a table on a Spark cluster, with the model that the registry holds.

    spark-submit examples/spark_predict.py MODEL IN OUT

MODEL is what `mlflow.pyfunc.load_model` takes: models:/NAME@champion, or a folder. IN and OUT are
folders of Parquet files; IN has a column `text`, and OUT all of its columns and the answers. Every
node needs what the model's requirements.txt lists.
"""

import sys

import mlflow
from pyspark.sql import SparkSession
from pyspark.sql.functions import struct


def main(model: str, source: str, target: str) -> None:
    """Read IN, answer, write OUT."""
    spark = SparkSession.builder.appName("workbook").getOrCreate()
    rows = spark.read.parquet(source)
    predict = mlflow.pyfunc.spark_udf(spark, model, env_manager="local")
    answered = rows.withColumn("answer", predict(struct("text")))
    answered.select(*rows.columns, "answer.*").write.parquet(target)


if __name__ == "__main__":
    main(*sys.argv[1:])
