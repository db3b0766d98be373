import gc
import hashlib
import inspect
import sys
from importlib import metadata

import joblib
import pandas as pd
import pytest
import yaml

from lib.data import docstrings
from lib.data.docstrings import harvest, package_versions
from lib.errors import WorkbookError

LONG = "ten words or more tell what this thing is about"


@pytest.fixture(autouse=True)
def in_this_process():
    """Two small packages are read faster without other processes."""
    with joblib.parallel_config(backend="sequential"):
        yield


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Put packages of the given files on the path, and take them as topics."""
    monkeypatch.syspath_prepend(tmp_path)

    def install_all(topics):
        for topic, files in topics.items():
            for name, source in files.items():
                path = tmp_path / f"made_{topic}" / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(source if isinstance(source, bytes) else source.encode())
        monkeypatch.setattr(docstrings, "TOPICS", {topic: (f"made_{topic}",) for topic in topics})

    return install_all


def doc(word):
    return f'"""{word} {LONG}"""\n'


def texts_of(table):
    return sorted(table["text"])


def test_the_topics_are_five_and_share_no_package():
    packages = [name for names in docstrings.TOPICS.values() for name in names]
    assert len(docstrings.TOPICS) == 5
    assert len(packages) == len(set(packages))


def test_every_documented_statement_is_read_as_found(install):
    source = f'''"""Module {LONG}

    with  its   blanks.
    """
class Thing:
    """Class {LONG}"""
    async def wait(self):
        """Coroutine {LONG}"""
        def inner():
            """Inner {LONG}"""
try:
    import nothing_at_all
except ImportError:
    def fallback():
        """Handler {LONG}"""
else:
    def other():
        """Else {LONG}"""
finally:
    def last():
        """Finally {LONG}"""
x = """String {LONG}"""
def bare():
    return """Returned {LONG}"""
'''
    install({"one": {"__init__.py": source}})
    table = harvest(rows_per_topic=7, progress=False)
    names = ("Module", "Class", "Coroutine", "Inner", "Handler", "Else", "Finally")
    assert texts_of(table) == sorted(
        f"{name} {LONG}" + ("\n\n    with  its   blanks.\n    " if name == "Module" else "")
        for name in names
    )
    with pytest.raises(
        WorkbookError, match=r"8 a topic are needed, found \{'one': 7\}: run `make setup`"
    ):
        harvest(rows_per_topic=8, progress=False)


def test_a_short_text_says_nothing_of_its_field(install):
    install({"one": {"__init__.py": f'"""One two three."""\ndef f():\n    """A {LONG}"""\n'}})
    assert texts_of(harvest(rows_per_topic=1, progress=False)) == [f"A {LONG}"]
    assert texts_of(harvest(rows_per_topic=2, min_words=3, progress=False)) == [
        f"A {LONG}",
        "One two three.",
    ]
    with pytest.raises(WorkbookError, match="too few"):
        harvest(rows_per_topic=2, min_words=4, progress=False)


def test_of_equal_texts_one_is_taken_by_the_first_topic(install):
    install(
        {
            "zebra": {"__init__.py": doc("Shared"), "own.py": doc("Zebra")},
            "ape": {"__init__.py": doc("Ape"), "same.py": doc("Shared"), "again.py": doc("Ape")},
        }
    )
    with pytest.raises(WorkbookError, match=r"found \{'zebra': 2, 'ape': 1\}"):
        harvest(rows_per_topic=2, progress=False)
    assert set(harvest(rows_per_topic=1, progress=False)["label"]) == {"zebra", "ape"}


def test_a_topic_is_sampled_and_ordered_by_the_hash(install):
    install(
        {
            topic: {"__init__.py": "", **{f"m{i}.py": doc(f"{topic} {i}") for i in range(6)}}
            for topic in ("a", "b")
        }
    )
    digest = {
        f"{topic} {i} {LONG}": hashlib.sha256(f"{topic} {i} {LONG}".encode()).hexdigest()
        for topic in ("a", "b")
        for i in range(6)
    }
    smallest = [
        text
        for topic in ("a", "b")
        for text in sorted((t for t in digest if t[0] == topic), key=digest.get)[:4]
    ]
    expected = sorted(smallest, key=lambda text: digest[text][::-1])
    table = harvest(rows_per_topic=4, progress=False)
    assert table["text"].tolist() == expected
    assert table["label"].tolist() == [text[0] for text in expected]
    assert table.columns.tolist() == ["text", "label"]


def test_tests_broken_files_and_half_surrogates_are_left_out(install):
    files = {
        "__init__.py": doc("Kept"),
        "tests/test_a.py": doc("Test"),
        "sub/test/a.py": doc("Test below"),
        "test_of_hypotheses.py": doc("Named alike"),
        "template.py": '"""{{ cookiecutter }} ' + LONG + '"""\nclass {{ name }}: pass\n',
        "python2.py": doc("Old") + "print 'x'\n",
        "nul.py": b'"""NUL ' + LONG.encode() + b'"""\n\0',
        "latin.py": b'"""caf\xe9 ' + LONG.encode() + b'"""\n',
        "coded.py": b'# -*- coding: latin-1 -*-\n"""caf\xe9 ' + LONG.encode() + b'"""\n',
        "surrogate.py": '"""Half \\ud800 ' + LONG + '"""\n',
        "escape.py": '"""Escape \\d ' + LONG + '"""\n',
        "data.txt": doc("No Python"),
    }
    install({"one": files})
    assert texts_of(harvest(rows_per_topic=4, progress=False)) == sorted(
        f"{word} {LONG}" for word in ("Kept", "Named alike", "café", "Escape \\d")
    )
    with pytest.raises(WorkbookError, match=r"found \{'one': 4\}"):
        harvest(rows_per_topic=5, progress=False)


def test_the_garbage_collector_is_back_on_after_a_good_and_a_bad_file(tmp_path):
    (tmp_path / "good.py").write_text(f'"""{LONG}"""', encoding="utf-8")
    (tmp_path / "bad.py").write_text("(", encoding="utf-8")
    for name, texts in {"good.py": [LONG], "bad.py": []}.items():
        assert docstrings._docstrings(tmp_path / name, 10) == texts
        assert gc.isenabled()


def test_packages_are_read_and_never_run(install):
    install({"one": {"__init__.py": doc("Kept") + "raise RuntimeError('imported')\n"}})
    assert texts_of(harvest(rows_per_topic=1, progress=False)) == [f"Kept {LONG}"]
    assert "made_one" not in sys.modules


def test_a_package_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setattr(docstrings, "TOPICS", {"one": ("yaml", "no_such_package_at_all")})
    with pytest.raises(
        WorkbookError,
        match="the package 'no_such_package_at_all', a part of the data set `docstrings`, is not "
        "installed: run `make setup`",
    ):
        harvest(rows_per_topic=1, progress=False)


def test_installed_packages_are_found(monkeypatch):
    monkeypatch.setattr(docstrings, "TOPICS", {"files": ("yaml",), "progress": ("tqdm",)})
    table = harvest(rows_per_topic=5, min_words=4, progress=False)
    assert table["label"].value_counts().to_dict() == {"files": 5, "progress": 5}
    every = harvest(rows_per_topic=9, min_words=4, progress=False)
    assert set(table["text"]) < set(every["text"])
    found = docstrings._docstrings(docstrings._python_files("yaml")[0], 4)
    assert inspect.getdoc(yaml.safe_load) in map(inspect.cleandoc, found)


def test_other_processes_find_the_same(install):
    install({"one": {"__init__.py": doc("Kept"), "more.py": doc("More")}})
    here = harvest(rows_per_topic=2, progress=False)
    with joblib.parallel_config(backend="threading"):
        pd.testing.assert_frame_equal(harvest(rows_per_topic=2, progress=False), here)


def test_versions_are_those_of_the_distributions():
    versions = package_versions()
    assert list(versions) == [name for names in docstrings.TOPICS.values() for name in names]
    assert versions["sklearn"] == metadata.version("scikit-learn")
    assert versions["PIL"] == metadata.version("pillow")
    assert versions["pandas"] == pd.__version__
