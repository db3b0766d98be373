"""Against a local S3 server."""

import boto3
import pytest
from moto.server import ThreadedMotoServer

from lib import remote
from lib.config import Config
from lib.data import sources
from lib.errors import WorkbookError

TABLE = (
    "text,label\nthe owl sang,bird\nthe crow sang,bird\na pear fell,fruit\nan apple fell,fruit\n"
)


@pytest.fixture(scope="module")
def server():
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(server, monkeypatch, home):
    for name, value in {
        "AWS_ENDPOINT_URL": server,
        "AWS_ACCESS_KEY_ID": "nobody",
        "AWS_SECRET_ACCESS_KEY": "nothing",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        monkeypatch.setenv(name, value)
    client = boto3.client("s3")
    client.create_bucket(Bucket="bkt")
    yield client
    for item in client.list_objects(Bucket="bkt").get("Contents", []):
        client.delete_object(Bucket="bkt", Key=item["Key"])
    client.delete_bucket(Bucket="bkt")


def put(bucket, key, content):
    bucket.put_object(Bucket="bkt", Key=key, Body=content.encode())


def test_a_table_in_a_bucket_is_read_as_a_local_one(bucket):
    put(bucket, "in/my.csv", TABLE)
    config = Config.load("smoke", {"data.source": "s3://bkt/in/my.csv", "data.rows": None})
    assert config.data.source == "s3://bkt/in/my.csv"
    assert sources.raw_path(config).name.startswith("my-")
    table = sources.load_table(config.data.source)
    assert table["label"].tolist() == ["bird", "bird", "fruit", "fruit"]


def test_a_file_is_fetched_once_until_it_changes(bucket, monkeypatch):
    put(bucket, "my.csv", TABLE)
    copy = remote.fetch("s3://bkt/my.csv")
    copy.write_text("changed here, to show that it stays")
    assert remote.fetch("s3://bkt/my.csv") == copy
    assert copy.read_text() == "changed here, to show that it stays"
    put(bucket, "my.csv", TABLE + "more,fruit\n")
    assert remote.fetch("s3://bkt/my.csv").read_text() == TABLE + "more,fruit\n"


def assert_a_folder_comes_back_whole(url, scratch):
    (scratch / "model" / "inner").mkdir(parents=True)
    (scratch / "model" / "a.json").write_text("1")
    (scratch / "model" / "inner" / "b.json").write_text("2")
    assert remote.upload(scratch / "model", f"{url}/") == 2
    copy = remote.fetch(url)
    assert copy.name == "model"
    found = {str(path.relative_to(copy)): path.read_text() for path in copy.rglob("*.json")}
    assert found == {"a.json": "1", "inner/b.json": "2"}


def test_a_folder_goes_up_and_comes_back_whole(bucket, tmp_path):
    assert_a_folder_comes_back_whole("s3://bkt/out/model", tmp_path)


@pytest.mark.parametrize("url", ["s3://bkt/none.csv", "s3://no-such-bucket/my.csv"])
def test_what_is_not_there_is_named(bucket, url):
    with pytest.raises(WorkbookError, match=f"'{url}': no such file, folder or bucket"):
        remote.fetch(url)


def test_without_the_store_an_earlier_copy_is_used_with_a_warning(bucket, monkeypatch):
    put(bucket, "my.csv", TABLE)
    copy = remote.fetch("s3://bkt/my.csv")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.warns(UserWarning, match="cannot be reached: .*; an earlier copy is used"):
        assert remote.fetch("s3://bkt/my.csv") == copy
    with pytest.raises(WorkbookError, match=r"'s3://bkt/other\.csv' cannot be reached"):
        remote.fetch("s3://bkt/other.csv")
    s3fs.S3FileSystem.clear_instance_cache()


def test_a_missing_package_is_named(monkeypatch, home):
    import fsspec

    def missing(url):
        raise ImportError("Please install gcsfs")

    monkeypatch.setattr(fsspec.core, "url_to_fs", missing)
    with pytest.raises(WorkbookError, match="a package for gs:// is missing; pip install gcsfs"):
        remote.fetch("gs://bkt/my.csv")
