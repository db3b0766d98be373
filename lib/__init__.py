"""Shared functions of the workbook. Each wing is built on those before it: docs/how-it-works.md."""
