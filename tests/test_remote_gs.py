"""Against a local stand-in for Google's store."""

import fsspec
import pytest
from gcp_storage_emulator.server import create_server
from test_remote import TABLE, assert_a_folder_comes_back_whole

from lib import remote
from lib.config import Config
from lib.data import sources
from lib.errors import WorkbookError


@pytest.fixture(scope="module")
def server():
    server = create_server("127.0.0.1", 0, in_memory=True, default_bucket="bkt")
    server.start()
    yield f"http://127.0.0.1:{server._api._httpd.server_address[1]}"
    server.stop()


@pytest.fixture
def store(server, monkeypatch, home):
    import gcsfs

    monkeypatch.setenv("STORAGE_EMULATOR_HOST", server)
    monkeypatch.setitem(fsspec.config.conf, "gs", {"token": "anon"})
    gcsfs.GCSFileSystem.clear_instance_cache()
    yield fsspec.filesystem("gs")
    gcsfs.GCSFileSystem.clear_instance_cache()


def test_a_table_in_a_bucket_is_read_and_fetched_again_when_it_changes(store):
    store.pipe_file("bkt/in/my.csv", TABLE.encode())
    config = Config.load("smoke", {"data.source": "gs://bkt/in/my.csv", "data.rows": None})
    table = sources.load_table(config.data.source)
    assert table["label"].tolist() == ["bird", "bird", "fruit", "fruit"]
    store.pipe_file("bkt/in/my.csv", (TABLE + "another plum fell,fruit\n").encode())
    assert remote.fetch("gs://bkt/in/my.csv").read_text() == TABLE + "another plum fell,fruit\n"


def test_a_folder_goes_up_and_comes_back_whole(store, tmp_path):
    assert_a_folder_comes_back_whole("gs://bkt/out/model", tmp_path)


def test_what_is_not_there_is_named(store):
    with pytest.raises(WorkbookError, match=r"'gs://bkt/none\.csv': no such file, folder or bu"):
        remote.fetch("gs://bkt/none.csv")
