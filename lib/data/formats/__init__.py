"""Labelled texts in files, folders and on the hub, each read as it is into a table."""

from lib.data.formats.encodings import decode
from lib.data.formats.files import existing, read_file
from lib.data.formats.first_rows import Head, head_of
from lib.data.formats.folders import read_folder
from lib.data.formats.hub import read_hub
from lib.data.formats.source_table import SourceTable

__all__ = [
    "Head",
    "SourceTable",
    "decode",
    "existing",
    "head_of",
    "read_file",
    "read_folder",
    "read_hub",
]
