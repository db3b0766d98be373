"""The prediction of a whole table, in parts: nothing is lost when it is stopped."""

from lib.delivery.batch.prediction import predict_table

__all__ = ["predict_table"]
