"""A storage is the same whether it is a folder, a file system behind a URI, or an object store."""

from __future__ import annotations

import resource
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from hpo.core.errors import StorageError
from hpo.core.storage import Storage, absolute, below

KINDS = ["path", "file", "memory", "local", "s3"]


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """The address of a bucket in an S3 server of our own."""
    boto3 = pytest.importorskip("boto3")
    server = pytest.importorskip("moto.server").ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    keys = {"aws_access_key_id": "me", "aws_secret_access_key": "hidden", "region_name": "us-east-1"}
    boto3.client("s3", endpoint_url=f"http://{host}:{port}", **keys).create_bucket(Bucket="bucket")
    yield f"s3://me:hidden@bucket/of/mine?scheme=http&region=us-east-1&endpoint_override={host}:{port}"
    server.stop()


@pytest.fixture(params=KINDS)
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Of a folder that is not there yet; of `local`, fsspec wants the folder before the file."""
    if request.param == "s3":
        return below(request.getfixturevalue("bucket"), tmp_path.name)
    new = tmp_path / "not" / "there-yet"
    return {"path": str(new), "file": f"file://{new}", "memory": f"memory:/{new}", "local": f"local://{new}"}[
        request.param
    ]


@pytest.fixture
def storage(address: str) -> Storage:
    return Storage(address)


class TestEveryStorage:
    def test_a_file_is_read_as_it_was_written(self, storage, address):
        for content in (b"", b"one", bytes(range(256)) * 1000):
            storage.write("trial/1.ckpt", content)
            assert storage.read("trial/1.ckpt") == content
            assert Storage(address).read("trial/1.ckpt") == content
        storage.write("beside", b"two")
        assert (storage.read("beside"), storage.names("")) == (b"two", ["beside", "trial"])

    def test_names_are_those_of_one_folder_sorted(self, storage):
        for name in ("b/2", "b/10", "b/1", "a/1", "b/deeper/1"):
            storage.write(name, b"content")
        assert storage.names("b") == ["1", "10", "2", "deeper"]
        assert storage.names("") == ["a", "b"]
        assert storage.names("b/deeper") == ["1"]
        assert storage.names("c") == storage.names("b/c/d") == []

    def test_a_new_storage_is_empty(self, storage):
        assert storage.names("") == storage.names("trial") == []

    def test_a_missing_file_cannot_be_read(self, storage):
        with pytest.raises(FileNotFoundError):
            storage.read("trial/1.ckpt")
        storage.write("trial/2.ckpt", b"content")
        with pytest.raises(FileNotFoundError):
            storage.read("trial/1.ckpt")

    def test_a_removed_file_is_absent_and_may_be_removed_again(self, storage):
        storage.remove("trial")
        for name in ("trial/1", "trial/2", "other/1"):
            storage.write(name, b"content")
        storage.remove("trial/1")
        storage.remove("trial/1")
        assert storage.names("trial") == ["2"]
        storage.remove("trial")
        storage.remove("trial")
        assert storage.names("trial") == []
        assert storage.names("") == ["other"]
        storage.remove("")
        assert storage.names("") == []
        storage.write("trial/1", b"again")
        assert storage.read("trial/1") == b"again"

    def test_a_storage_below_another_is_a_folder_in_it(self, storage, address):
        Storage(below(address, "study")).write("trial/1", b"content")
        assert storage.read("study/trial/1") == b"content"
        assert storage.names("") == ["study"]


class TestAtOnceOrNotAtAll:
    @pytest.fixture(params=["path", "file"])
    def folder(self, request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
        return Storage(str(tmp_path) if request.param == "path" else f"file://{tmp_path}")

    def test_a_reader_sees_whole_files_only(self, folder):
        ended = threading.Event()

        def write() -> None:
            for number in range(40):
                folder.write("trial/1", bytes([number]) * 300_000)
                folder.write(f"trial/{number}.new", bytes([number]) * 300_000)
            ended.set()

        folder.write("trial/1", b"\0" * 300_000)
        writer = threading.Thread(target=write)
        writer.start()
        seen = set()
        while not ended.is_set():
            content = folder.read(f"trial/{folder.names('trial')[-1]}")
            assert content == content[:1] * 300_000
            assert all(name == "1" or name.endswith(".new") for name in folder.names("trial"))
            seen.add(folder.read("trial/1")[0])
        writer.join()
        assert len(seen) > 1

    def test_a_write_that_fails_midway_keeps_the_old_file(self, folder, tmp_path):
        folder.write("trial/1", b"before")
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))  # as a full disk
        try:
            with pytest.raises(OSError, match="large"):
                folder.write("trial/1", b"x" * 5000)
            with pytest.raises(OSError, match="large"):
                folder.write("trial/2", b"x" * 5000)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert folder.read("trial/1") == b"before"
        assert [path.name for path in (tmp_path / "trial").iterdir()] == ["1"]

    def test_a_write_that_fails_at_its_end_leaves_nothing(self, folder, tmp_path):
        (tmp_path / "trial" / "1").mkdir(parents=True)
        with pytest.raises(OSError, match="directory"):
            folder.write("trial/1", b"content")
        assert [path.name for path in (tmp_path / "trial").iterdir()] == ["1"]

    def test_files_of_a_killed_writer_are_hidden_and_removed_with_the_folder(self, folder, tmp_path):
        folder.write("trial/1", b"content")
        (tmp_path / "trial" / ".2.4711").write_bytes(b"con")
        assert folder.names("trial") == ["1"]
        folder.remove("trial")
        assert not (tmp_path / "trial").exists()


@pytest.mark.parametrize("form", ["{}", "file://{}", "local://{}"])
def test_below_a_file_nothing_can_be_written(form: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"mine")
    storage = Storage(form.format(tmp_path / "file" / "folder"))
    with pytest.raises(OSError):  # noqa: PT011 - of the kind that each system has for this
        storage.write("trial/1", b"content")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_bytes() == b"mine"


# --- addresses


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("/shared/checkpoints", "/shared/checkpoints/study"),
        ("/shared/checkpoints/", "/shared/checkpoints/study"),
        ("/what?/x", "/what?/x/study"),
        ("s3://bucket", "s3://bucket/study"),
        ("s3://bucket/a/b", "s3://bucket/a/b/study"),
        ("s3://bucket/a/b/", "s3://bucket/a/b/study"),
        ("s3://bucket/a?region=eu&endpoint_override=h:1", "s3://bucket/a/study?region=eu&endpoint_override=h:1"),
        ("s3://me:hidden@bucket/a?x=/", "s3://me:hidden@bucket/a/study?x=/"),
        ("hdfs:///user/me", "hdfs:///user/me/study"),
        ("hdfs://host:8020/user/me", "hdfs://host:8020/user/me/study"),
        ("file:///shared", "file:///shared/study"),
        ("memory://", "memory://study"),
        ("memory:///", "memory:///study"),
    ],
)
def test_a_folder_below_an_address_keeps_scheme_and_options(address: str, expected: str) -> None:
    assert below(address, "study") == expected


def test_a_path_is_made_absolute_and_a_uri_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert absolute("a/../b") == str(tmp_path / "b")
    assert absolute("/shared/x") == "/shared/x"
    for address in ("s3://bucket/a?region=eu", "hdfs:///user/me", "memory://x"):
        assert absolute(address) == address


SECRETS = [
    "nosuch://me:hidden@x",
    "nosuch://me:hid/hidden@x?secret_key=hidden",
    "s3://me:hid/hidden@bucket/a?region=eu",
    "s3://me:hid hidden@bucket/a",
    "s3://me:hid@hidden@bucket/a b",
    "s3://me:hidden@bucket/a?bad=1&secret_key=hidden",
    "s3://me:hidden@",
    "gs://me:hidden@bucket/a",
    "file://me:hidden@host/a",
    "ftp://me:hidden@localhost:1/a",
]


@pytest.mark.parametrize("address", SECRETS)
def test_no_error_shows_a_secret(address: str) -> None:
    try:
        shown = str(Storage(address))
    except StorageError as error:
        shown = str(error)
        assert shown.startswith("--storage: ")
        assert " cannot be used: " in shown or ": expected percent-encoded characters " in shown
        assert "\n" not in shown
        assert len(shown) < 400
    assert "hid" not in shown


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("memory://me:hidden@x/y?key=hidden", "memory://***@x/y?key=***"),
        ("memory://me@x/y", "memory://***@x/y"),
        ("memory://x/y@z", "memory://x/y@z"),
        ("memory:///x", "memory:///x"),
        ("/a:b/c@d?e", "/a:b/c@d?e"),
        ("file:///a%20b", "file:///a%20b"),
    ],
)
def test_a_storage_is_shown_without_its_secrets(address: str, expected: str) -> None:
    assert str(Storage(address)) == expected


def test_errors_of_a_store_are_os_errors_without_a_secret(bucket: str) -> None:
    storage = Storage(bucket.replace("@bucket", "@other"))
    assert str(storage).startswith("s3://***@other/of/mine?scheme=http&region=us-east-1&endpoint_override=")
    with pytest.raises(OSError, match="other") as raised:
        storage.write("trial/1", b"content")
    assert "hidden" not in str(raised.value)


def test_an_unknown_scheme_is_named_in_one_line() -> None:
    with pytest.raises(StorageError, match=r"^--storage: nosuch://x cannot be used: [^\n]*nosuch[^\n]*$"):
        Storage("nosuch://x")


def test_an_escaped_uri_and_its_path_are_the_same_folder(tmp_path: Path) -> None:
    Storage(f"file://{tmp_path}/a%20b").write("1", b"content")
    assert Storage(str(tmp_path / "a b")).read("1") == b"content"
    assert Storage(f"file://localhost{tmp_path}/a b").read("1") == b"content"
