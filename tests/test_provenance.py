import json
import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from lib import provenance, workspace


def write_folder(folder, **files):
    folder.mkdir()
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")


TABLE = pd.DataFrame({"text": ["a", "b", None], "label": ["x", "y", "y"], "n": [1, 2, 3]})


def test_a_tables_fingerprint_depends_on_its_values_alone(tmp_path):
    assert provenance.table_fingerprint(TABLE.set_axis([5, 6, 7])) == provenance.table_fingerprint(
        TABLE
    )
    workspace.write_table(TABLE, tmp_path / "t.parquet")
    assert provenance.table_fingerprint(
        workspace.read_table(tmp_path / "t.parquet")
    ) == provenance.table_fingerprint(TABLE)


@pytest.mark.parametrize(
    "other",
    [
        TABLE.assign(label=["x", "y", "x"]),
        TABLE.assign(text=["a", "b", "c"]),
        TABLE.assign(text=["a", "b", "None"]),
        TABLE.assign(text=["a", "b ", None]),
        TABLE.assign(n=[1, 2, 4]),
        TABLE.iloc[[1, 0, 2]],
        TABLE.iloc[:2],
        TABLE[["label", "text", "n"]],
        TABLE.rename(columns={"text": "body"}),
        TABLE.rename(columns={"text": "label", "label": "text"}),
    ],
    ids=[
        "label",
        "null",
        "word None",
        "blank",
        "number",
        "order",
        "length",
        "columns",
        "name",
        "names swapped",
    ],
)
def test_a_tables_fingerprint_sees_every_change(other):
    assert provenance.table_fingerprint(other) != provenance.table_fingerprint(TABLE)


def test_a_tables_fingerprint_is_the_same_in_another_process():
    code = (
        "import pandas as pd; from lib.provenance import table_fingerprint; "
        "print(table_fingerprint(pd.DataFrame({'text': ['a', None], 'n': [1, 2]})))"
    )
    told = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=workspace.REPOSITORY,
        env={**os.environ, "PYTHONHASHSEED": "7"},
    )
    assert told.stdout.strip() == provenance.table_fingerprint(
        pd.DataFrame({"text": ["a", None], "n": [1, 2]})
    )


def test_a_texts_fingerprint_is_the_start_of_its_sha256():
    assert provenance.text_fingerprint("abc") == "ba7816bf8f01cfea"
    assert provenance.text_fingerprint("") == "e3b0c44298fc1c14"
    assert provenance.text_fingerprint("abc ") != provenance.text_fingerprint("abc")
    assert len(provenance.text_fingerprint("\ud800")) == 16


def test_a_files_fingerprint_is_its_sha256(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert (
        provenance.path_fingerprint(tmp_path / "a")
        == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    )
    assert provenance.path_fingerprint(tmp_path / "none") is None


def test_a_folders_fingerprint_sees_content_names_and_places(tmp_path):
    write_folder(tmp_path / "f", a="1", b="2")
    (tmp_path / "f" / "sub").mkdir()
    seen = [provenance.path_fingerprint(tmp_path / "f")]
    os.utime(tmp_path / "f" / "a", (1, 1))
    assert provenance.path_fingerprint(tmp_path / "f") == seen[0]
    for change in (
        lambda f: (f / "a").write_text("3", encoding="utf-8"),
        lambda f: (f / "a").rename(f / "c"),
        lambda f: (f / "c").rename(f / "sub" / "c"),
        lambda f: (f / "b").unlink(),
    ):
        change(tmp_path / "f")
        seen.append(provenance.path_fingerprint(tmp_path / "f"))
    assert len(set(seen)) == 5


def write_library(root, **sources):
    """Write modules of a `lib`: a.b -> lib/a/b.py, packages with their `__init__`."""
    for name, source in sources.items():
        path = root.joinpath("lib", *name.split("__"))
        path.parent.mkdir(parents=True, exist_ok=True)
        for folder in (path.parent, path.parent.parent):
            if folder != root:
                (folder / "__init__.py").touch()
        path.with_suffix(".py").write_text(source, encoding="utf-8")


@pytest.fixture
def library(tmp_path, monkeypatch):
    """plots <- data.tables <- training.fit -> errors, and a page that nothing imports."""
    monkeypatch.setattr(workspace, "REPOSITORY", tmp_path)
    write_library(
        tmp_path,
        errors="x = 1",
        plots="import os",
        data__tables="from lib import plots",
        training__fit="def fit():\n    from lib.data.tables import z\nimport lib.errors",
        delivery__page="from lib.training import fit",
    )
    return tmp_path / "lib"


@pytest.mark.parametrize(
    ("module", "counts"),
    [
        ("lib.training.fit", {"errors", "plots", "data/tables", "data/__init__", "training/fit"}),
        ("lib.data.tables", {"plots", "data/tables", "data/__init__"}),
        ("lib.errors", {"errors"}),
        ("lib.data", {"data/__init__"}),
        ("os", set()),
    ],
)
def test_the_codes_fingerprint_covers_what_a_module_imports_and_nothing_else(
    library, module, counts
):
    before = provenance.code_fingerprint(module)
    changed = set()
    for path in sorted(library.rglob("*.py")):
        source = path.read_text(encoding="utf-8")
        path.write_text(f"{source}\ny = 2", encoding="utf-8")
        if provenance.code_fingerprint(module) != before:
            changed.add(path.relative_to(library).with_suffix("").as_posix())
        path.write_text(source, encoding="utf-8")
    everywhere = {"__init__"} if module != "os" else set()
    packages = {f"{name.split('/')[0]}/__init__" for name in counts if "/" in name}
    assert changed == counts | everywhere | packages


def test_the_codes_fingerprint_covers_the_data_of_a_package(library):
    (library / "data" / "static").mkdir()
    script = library / "data" / "static" / "a.js"
    script.write_text("1", encoding="utf-8")
    before = [provenance.code_fingerprint(name) for name in ("lib.data.tables", "lib.errors")]
    script.write_text("2", encoding="utf-8")
    after = [provenance.code_fingerprint(name) for name in ("lib.data.tables", "lib.errors")]
    assert [a == b for a, b in zip(before, after)] == [False, True]


def test_no_training_depends_on_how_figures_and_reports_look():
    modules = provenance.imported_modules(["lib.training.cached_training"])
    assert "lib.training.backbones" in modules
    assert not [name for name in modules if name.startswith(("lib.plots", "lib.delivery"))]


def test_a_fingerprint_takes_tables_and_files_by_their_content(tmp_path):
    (tmp_path / "a").write_text("1", encoding="utf-8")
    parts = (TABLE, tmp_path / "a", {"x": [1, 2.5, None]})
    before = provenance.fingerprint(*parts)
    (tmp_path / "a").rename(tmp_path / "b")
    assert provenance.fingerprint(TABLE.copy(), tmp_path / "b", {"x": [1, 2.5, None]}) == before
    assert provenance.fingerprint(TABLE[:2], tmp_path / "b", parts[2]) != before
    (tmp_path / "b").write_text("2", encoding="utf-8")
    assert provenance.fingerprint(TABLE, tmp_path / "b", parts[2]) != before


def test_work_is_done_once_for_a_key(tmp_path):
    record, output = tmp_path / "done.json", tmp_path / "output"
    calls = []

    def make():
        assert not record.exists()  # never next to an output of another key
        calls.append(len(calls))
        output.write_text("x", encoding="utf-8")
        return {"n": len(calls)}

    def once(key):
        return provenance.once(record, key, make, outputs=[output])

    assert [once("a"), once("a"), once("b"), once("b")] == [{"n": n} for n in (1, 1, 2, 2)]
    output.unlink()
    assert once("b") == {"n": 3}
    assert once("a") == {"n": 4}


def test_work_that_failed_is_done_again(tmp_path):
    record = tmp_path / "done.json"
    provenance.once(record, "a", dict)

    def fail():
        raise RuntimeError

    with pytest.raises(RuntimeError):
        provenance.once(record, "b", fail)
    assert not record.exists()
    assert provenance.once(record, "b", lambda: {"n": 1}) == {"n": 1}


def git(folder, *words):
    who = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
    return subprocess.run(
        ["git", "-C", str(folder), *who, *words], capture_output=True, text=True, check=True
    ).stdout.strip()


def test_the_commit_is_the_heads_and_marked_where_files_differ(tmp_path, monkeypatch):
    monkeypatch.setattr(workspace, "REPOSITORY", tmp_path)
    git(tmp_path, "init")
    assert provenance.commit() is None
    (tmp_path / "a").write_text("1", encoding="utf-8")
    git(tmp_path, "add", "a")
    git(tmp_path, "commit", "-m", "first")
    head = git(tmp_path, "rev-parse", "HEAD")
    assert provenance.commit() == head
    (tmp_path / "a").write_text("2", encoding="utf-8")
    assert provenance.commit() == f"{head}+changes"


def test_without_git_there_is_no_commit(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert provenance.commit() is None


def test_machine_facts_are_those_of_this_machine_and_fit_json():
    facts = provenance.machine_facts()
    assert facts["cores"] == os.cpu_count()
    assert facts["versions"]["pandas"] == pd.__version__
    assert facts["versions"]["numpy"] == np.__version__
    assert set(facts["versions"]) == set(provenance.VERSIONED)
    assert json.loads(json.dumps(facts)) == facts


def test_a_package_that_is_not_installed_has_no_version():
    assert provenance.package_version("no-such-package-at-all") is None
