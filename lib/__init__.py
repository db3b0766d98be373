"""Shared functions of the workbook: data, evaluation, training, delivery (each wing imports only those before it)."""
