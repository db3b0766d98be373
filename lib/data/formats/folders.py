"""Tables in folders: one text a file in class folders, shards of a table, saved data sets."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from lib.config import DataConfig
from lib.data.formats import hub
from lib.data.formats.encodings import decode, detect_encoding, unicode_encoding
from lib.data.formats.files import FORMATS, read_file
from lib.data.formats.source_table import SourceTable
from lib.data.splits import SPLIT_NAMES
from lib.errors import WorkbookError, listed, quoted, shown_path

SYSTEM_FILES = ("thumbs.db", "desktop.ini")
UNLABELLED = ("unsup", "unsupervised", "unlabeled", "unlabelled")  # folders next to classes
LAYOUT = "a folder source has one sub-folder a class, with one text a file"


def read_folder(folder: Path, settings: DataConfig) -> SourceTable:
    """Read a folder: one that `save_to_disk` wrote, one of tables, or one of class folders.

    Hidden files are left out.

    Raises
    ------
    WorkbookError : it has no texts; a table or a text cannot be read.
    """
    if hub.is_saved(folder):
        return hub.read_saved(folder)
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    files = [path for path in files if not _is_hidden(path.relative_to(folder))]
    tables = [path for path in files if path.suffix.lower() == ".parquet"]
    if not tables and all(path.parent == folder for path in files):
        tables = [path for path in files if _is_table(path)]
    if tables:
        return _read_shards(folder, files, tables, settings)
    return _ClassFolders.of(folder, files).read(settings)


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _is_table(path: Path) -> bool:
    name = path.name.lower().removesuffix(".gz")
    return name.endswith(FORMATS)


def _read_shards(
    folder: Path, files: list[Path], tables: list[Path], settings: DataConfig
) -> SourceTable:
    """Read tables below one another; they are splits where each has the name of one.

    Such a name begins the file's (train-00000-of-00002.parquet) or is its folder's.
    """
    shards = [read_file(path, settings) for path in tables]
    splits = [_split_of(path.relative_to(folder)) for path in tables]
    has_splits = "" not in splits and len(set(splits)) > 1
    frames = [shard.frame for shard in shards]
    if has_splits:
        frames = [frame.assign(split=split) for frame, split in zip(frames, splits)]
    notes = dict.fromkeys(note for shard in shards for note in shard.notes)
    if len(tables) > 1:
        notes[f"{len(tables):,} files were read as one table."] = None
    if len(tables) < len(files):
        others = [str(path.relative_to(folder)) for path in files if path not in set(tables)]
        notes[_skipped(others, "not tables")] = None
    frame = pd.concat(frames, ignore_index=True)
    return SourceTable(frame, tuple(notes), has_splits=has_splits)


def _split_of(path: Path) -> str:
    """Return the split that a file's path names, "" for none."""
    words = [re.split(r"[^a-z]", path.name.lower())[0], *map(str.lower, path.parent.parts[::-1])]
    return next((SPLIT_NAMES[word] for word in words if word in SPLIT_NAMES), "")


@dataclass(frozen=True)
class _ClassFolders:
    """The files of class folders, or of folders of splits that have class folders.

    Attributes
    ----------
    folder : that holds them all
    splits : names of the folders of splits; () where the folders are classes
    texts : the files that may hold a text
    skipped : why others are skipped -> their names
    """

    folder: Path
    splits: tuple[str, ...]
    texts: list[Path] = field(default_factory=list)
    skipped: dict[str, list[str]] = field(default_factory=dict)

    @classmethod
    def of(cls, folder: Path, files: Iterable[Path]) -> _ClassFolders:
        """Sort the files of a folder.

        Raises
        ------
        WorkbookError : all folders have names of splits, but hold no class folders.
        """
        parts = {path: path.relative_to(folder).parts for path in files}
        found = cls(folder, _split_folders(folder, parts.values()))
        for path, names in parts.items():
            reason = found._reason_to_skip(names)
            if reason:
                found.skipped.setdefault(reason, []).append("/".join(names))
            else:
                found.texts.append(path)
        return found

    def read(self, settings: DataConfig) -> SourceTable:
        """Return the texts, in the order of their paths, with their labels and splits.

        Raises
        ------
        WorkbookError : there is none, or one cannot be decoded.
        """
        contents = {path: path.read_bytes() for path in self.texts}
        encodings, note = _encodings(contents, settings.encoding)
        binary = [path for path, encoding in encodings.items() if encoding is None]
        skipped = dict(self.skipped)
        if binary:
            skipped["not text"] = [str(path.relative_to(self.folder)) for path in binary]
        rows = []
        for path, content in contents.items():
            names = path.relative_to(self.folder).parts
            if encodings[path] is not None:
                text = decode(content, name=str(path), encoding=encodings[path])
                rows.append((text, names[1 if self.splits else 0], names[0]))
        notes = [_skipped(names, reason) for reason, names in skipped.items()]
        if not rows:
            raise WorkbookError(f"{shown_path(self.folder)}: no files; {LAYOUT}{_after(notes)}")
        frame = pd.DataFrame(rows, columns=["text", "label", "split"], dtype=object)
        has_splits = len(self.splits) > 1
        columns = ["text", "label", "split"] if has_splits else ["text", "label"]
        notes = [note, *notes] if note else notes
        return SourceTable(
            frame[columns], tuple(notes), has_own_columns=True, has_splits=has_splits
        )

    def _reason_to_skip(self, names: tuple[str, ...]) -> str:
        """Return why a file of this path is no text of a class, "" if it is one."""
        if names[-1].casefold() in SYSTEM_FILES:
            return "made by the system"
        if len(names) == 1:
            return "in no class folder"
        if self.splits and names[0] not in self.splits:
            return "in a folder that is not named as a split"
        if self.splits and len(names) == 2:
            return "in no class folder"
        if self.splits and names[1].casefold() in UNLABELLED:
            return "in a folder without labels"
        return ""


def _split_folders(folder: Path, paths: Iterable[tuple[str, ...]]) -> tuple[str, ...]:
    """Return the folders that are splits: all that there are, or training and another."""
    paths = list(paths)
    tops = dict.fromkeys(names[0] for names in paths if len(names) > 1)
    named = [top for top in tops if top.casefold() in SPLIT_NAMES]
    splits = {SPLIT_NAMES[top.casefold()] for top in named}
    if not named or (len(named) < len(tops) and not ("train" in splits and len(splits) > 1)):
        return ()
    deep = {names[0] for names in paths if len(names) > 2}
    if deep >= set(named):
        return tuple(named)
    if len(named) < len(tops):
        return ()
    raise WorkbookError(
        f"{shown_path(folder)}: {listed(map(quoted, named), 60)} are names of splits, and hold "
        "texts, but no class folders; lay them out as split/class/file, or rename classes of these "
        "names"
    )


def _encodings(
    contents: dict[Path, bytes], encoding: str | None
) -> tuple[dict[Path, str | None], str]:
    """Return the encoding of each text, None for what is no text, and a note on how it was told.

    Texts that are not Unicode have one encoding, told from all of them: each alone is too short.
    """
    import chardet

    encodings: dict[Path, str | None] = {}
    others = []
    for path, content in contents.items():
        told = encoding or unicode_encoding(content, name=str(path))
        if b"\0" in content and "\0" in content.decode(told or "latin-1", "ignore"):
            encodings[path] = None
        elif told is None and chardet.detect(content)["encoding"] is not None:
            others.append(path)
        else:
            encodings[path] = told
    if not others:
        return encodings, ""
    joined = b"\n".join(contents[path] for path in others)
    detected = detect_encoding(joined, name=str(others[0]))
    encodings |= dict.fromkeys(others, detected.name)
    return encodings, f"{len(others):,} files: {detected.note}"


def _skipped(names: list[str], reason: str) -> str:
    return f"Skipped, {reason}: {listed(map(quoted, names))}."


def _after(notes: list[str]) -> str:
    return f". {notes[0]}" if notes else ""
