"""`vfolder://` for fsspec, beyond what fsspec's own suite asks."""

from __future__ import annotations

import errno
import gc
import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import fsspec
import pytest

from tests.support.embedded import Embedded
from tests.support.fixtures import fresh
from tests.support.pythonic import filesystem, only_settings
from vfsmount.fsspec import PartialListing, PartialListingWarning, VfolderFileSystem


@pytest.fixture
def fs(both: Embedded) -> VfolderFileSystem:
    return filesystem(both.env("owner"))


@pytest.fixture
def place(both: Embedded) -> tuple[str, Path]:
    """(name of a new folder, where it lies on the server's disk)."""
    name, folder_id = fresh(both)
    return name, both.folder_dir(folder_id)


def replace(path: Path, content: bytes) -> None:
    """Put another version in place, as somebody else would."""
    new = path.with_name("new")
    new.write_bytes(content)
    new.rename(path)


# --- reading -----------------------------------------------------------------------------------


def test_open_file_is_one_version(fs: VfolderFileSystem, place: tuple[str, Path]) -> None:
    name, disk = place
    (disk / "a").write_bytes(b"old" * 100_000)
    with fs.open(f"{name}/a", block_size=1000) as file:
        assert file.read(3) == b"old"
        replace(disk / "a", b"new" * 100_000)
        file.seek(200_000)
        with pytest.raises(OSError) as e:
            file.read(10)
        assert e.value.errno == errno.ESTALE
    assert fs.cat_file(f"{name}/a", 0, 3) == b"new"


def test_slices_are_as_of_bytes(fs: VfolderFileSystem, place: tuple[str, Path]) -> None:
    name, disk = place
    content = bytes(range(256)) * 8
    (disk / "a").write_bytes(content)
    for start, end in [
        (0, 10),
        (5, None),
        (None, 7),
        (-5, None),
        (-9, -3),
        (2000, 9999),
        (7, 3),
        (None, None),
    ]:
        assert fs.cat_file(f"{name}/a", start, end) == content[start:end], (start, end)
    assert fs.cat_ranges([f"{name}/a"] * 3, [0, 5, -4], [2, 6, None]) == [
        content[:2],
        content[5:6],
        content[-4:],
    ]


def test_empty_file_is_read(fs: VfolderFileSystem, place: tuple[str, Path]) -> None:
    fs.touch(f"{place[0]}/empty")
    assert fs.cat_file(f"{place[0]}/empty") == b""
    assert fs.cat_file(f"{place[0]}/empty", 0, 5) == b""
    with fs.open(f"{place[0]}/empty") as file:
        assert file.read() == b""


def test_errors_of_many_stand_in_their_places(fs: VfolderFileSystem, place: tuple[str, Path]) -> None:
    name, disk = place
    (disk / "a").write_bytes(b"a")
    found = fs.cat_ranges([f"{name}/a", f"{name}/none", f"{name}/none"], 0, 1)
    assert found[0] == b"a" and all(isinstance(e, FileNotFoundError) for e in found[1:])
    assert fs.cat([f"{name}/a", f"{name}/none"], on_error="omit") == {f"{name}/a": b"a"}
    with pytest.raises(FileNotFoundError):
        fs.cat([f"{name}/a", f"{name}/none"])


def test_many_threads_share_one_client(
    fs: VfolderFileSystem, both: Embedded, place: tuple[str, Path]
) -> None:
    name, disk = place
    for i in range(8):
        (disk / f"f{i}").write_bytes(b"%d" % i * 1000)
    fs.info(f"{name}/f0")
    both.reset_calls()

    def read(i: int) -> bytes:
        return filesystem(both.env("owner")).cat_file(f"{name}/f{i % 8}")

    for i in range(8):
        read(i)
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(fs.cat_file, [f"{name}/f{i % 8}" for i in range(64)])) == [
            b"%d" % (i % 8) * 1000 for i in range(64)
        ]
    assert both.count("GET", "/") == 0, "an instance with the same settings connected anew"


def test_info_tells_version_and_times(fs: VfolderFileSystem, place: tuple[str, Path]) -> None:
    name, disk = place
    (disk / "a").write_bytes(b"12345")
    os.utime(disk / "a", ns=(0, 1_700_000_000_123_456_789))
    before = fs.ukey(f"{name}/a"), fs.checksum(f"{name}/a")
    assert fs.info(f"{name}/a")["size"] == 5 and fs.size(f"{name}/a") == 5
    assert abs(fs.modified(f"{name}/a") - datetime(2023, 11, 14, 22, 13, 20, 123456, UTC)) < timedelta(
        microseconds=2
    )
    assert datetime.now(UTC) - fs.created(f"{name}/a") < timedelta(hours=1)
    assert fs.modified(name).tzinfo is UTC
    assert (fs.ukey(f"{name}/a"), fs.checksum(f"{name}/a")) == before
    replace(disk / "a", b"54321")
    assert fs.ukey(f"{name}/a") != before[0] and fs.checksum(f"{name}/a") != before[1]


def test_existence_is_not_denied_because_nobody_answers(tmp_path: Path, expect_warnings: object) -> None:
    server = Embedded(tmp_path)
    fs = filesystem(server.env("owner"))
    fs.mkdir("somewhere")
    assert not fs.exists("somewhere/a") and not fs.exists("nowhere/a") and fs.isdir("somewhere")
    fs = filesystem(server.env("owner"), deadline=1)  # by the same connection
    server.stop()
    for ask in (fs.exists, fs.isfile, fs.isdir, fs.find, fs.ls):
        with pytest.raises(OSError) as e:
            ask("somewhere/a")
        assert e.value.errno in (errno.EIO, errno.ETIMEDOUT)


# --- listings ----------------------------------------------------------------------------------


def test_root_lists_folders_and_hides_uploads(fs: VfolderFileSystem, place: tuple[str, Path]) -> None:
    name, disk = place
    (disk / ".upload").mkdir(exist_ok=True)
    (disk / "a").write_bytes(b"1")
    assert name in fs.ls("", detail=False) and name in fs.ls("vfolder://", detail=False)
    assert fs.ls(f"vfolder://{name}/", detail=False) == [f"{name}/a"]
    assert fs.ls(f"/{name}//./a") == [fs.info(f"{name}/a")]
    assert [p for p in fs.glob("*/a") if p.startswith(name)] == [f"{name}/a"]
    with pytest.raises(FileNotFoundError):
        fs.ls(f"{name}/none")


def test_partial_listing_is_never_passed_off_as_complete(
    fs: VfolderFileSystem, place: tuple[str, Path]
) -> None:
    name, disk = place
    (disk / "d").mkdir()
    for i in range(1005):
        (disk / "d" / f"f{i}").write_bytes(b"")
    for ask in (fs.ls, fs.find, fs.du, lambda p: fs.glob(f"{p}/*"), lambda p: list(fs.walk(p))):
        with pytest.raises(PartialListing):
            ask(f"{name}/d")
    assert all(fs.exists(f"{name}/d/f{i}") for i in range(0, 1005, 100))
    with pytest.raises(OSError, match="not empty"):
        fs.rmdir(f"{name}/d")
    fs.rm(f"{name}/d/f1004")
    assert not (disk / "d" / "f1004").exists()
    fs.rm(f"{name}/d", recursive=True)
    assert not (disk / "d").exists()


def test_partial_listing_may_be_asked_for(both: Embedded, place: tuple[str, Path]) -> None:
    name, disk = place
    for i in range(1005):
        (disk / f"f{i}").write_bytes(b"")
    fs = filesystem(both.env("owner"), partial_ok=True, use_listings_cache=True)
    with pytest.warns(PartialListingWarning):
        assert len(fs.ls(name)) == 1000
    with pytest.warns(PartialListingWarning):  # it was not kept
        fs.ls(name)


def test_listings_are_believed_only_where_asked_for(both: Embedded, place: tuple[str, Path]) -> None:
    name, disk = place
    plain = filesystem(both.env("owner"))
    caching = filesystem(both.env("owner"), use_listings_cache=True)
    assert plain.ls(name) == caching.ls(name) == []
    (disk / "a").write_bytes(b"")
    assert plain.ls(name, detail=False) == [f"{name}/a"]
    assert caching.ls(name) == [] and len(caching.ls(name, refresh=True)) == 1
    caching.pipe_file(f"{name}/b", b"")  # its own changes show at once
    assert caching.ls(name, detail=False) == [f"{name}/a", f"{name}/b"]


def test_symlinks_read_as_their_files_and_are_never_followed_or_removed(
    fs: VfolderFileSystem, place: tuple[str, Path]
) -> None:
    name, disk = place
    (disk / "d").mkdir()
    (disk / "d" / "a").write_bytes(b"content")
    (disk / "to-file").symlink_to("d/a")
    (disk / "d" / "up").symlink_to("..")
    (disk / "dangling").symlink_to("nothing")
    kinds = {i["name"]: (i["type"], i["size"]) for i in fs.ls(name) if i["name"] != f"{name}/dangling"}
    assert kinds == {f"{name}/d": ("directory", 0), f"{name}/to-file": ("file", 7)}
    assert fs.find(name) == sorted(f"{name}/{p}" for p in ("d/a", "d/up", "to-file", "dangling"))
    assert fs.cat_file(f"{name}/to-file") == b"content"
    for act in (fs.rm, lambda p: fs.mv(p, f"{name}/elsewhere")):
        with pytest.raises(PermissionError):
            act(f"{name}/to-file")
    assert (disk / "d" / "a").read_bytes() == b"content"
    fs.rm(f"{name}/d", recursive=True)
    assert disk.exists() and not (disk / "d").exists()


# --- writing -----------------------------------------------------------------------------------


def test_nothing_is_there_before_close_and_everything_after(
    fs: VfolderFileSystem, place: tuple[str, Path]
) -> None:
    name, disk = place
    (disk / "a").write_bytes(b"old")
    with fs.open(f"{name}/a", "wb", block_size=1000) as file:
        for _ in range(10):
            file.write(b"x" * 500)
        file.flush()
        assert (disk / "a").read_bytes() == b"old"
    assert (disk / "a").read_bytes() == b"x" * 5000
    with fs.open(f"{name}/new/deep/b", "w", encoding="utf-8") as text:
        text.write("grün\n")
    assert (disk / "new/deep/b").read_text() == "grün\n"


def test_half_a_file_replaces_nothing(fs: VfolderFileSystem, place: tuple[str, Path]) -> None:
    name, disk = place
    (disk / "a").write_bytes(b"old")
    with pytest.raises(ZeroDivisionError), fs.open(f"{name}/a", "wb") as file:
        file.write(b"half")
        _ = 1 / 0
    file = fs.open(f"{name}/a", "wb")
    file.write(b"half")
    with pytest.warns(ResourceWarning, match="never closed"):
        del file
        gc.collect()
    assert (disk / "a").read_bytes() == b"old"


def test_transaction_puts_all_in_place_or_nothing(fs: VfolderFileSystem, place: tuple[str, Path]) -> None:
    name, disk = place
    (disk / "local").write_bytes(b"l")
    with fs.transaction:
        with fs.open(f"{name}/a", "wb") as file:
            file.write(b"a")
        fs.pipe_file(f"{name}/b", b"b")
        fs.put_file(str(disk / "local"), f"{name}/c")
        assert sorted(p.name for p in disk.iterdir()) == ["local"]
    assert [(disk / n).read_bytes() for n in "abc"] == [b"a", b"b", b"l"]
    with pytest.raises(ZeroDivisionError), fs.transaction:
        fs.pipe_file(f"{name}/a", b"other")
        _ = 1 / 0
    assert (disk / "a").read_bytes() == b"a"


def test_append_keeps_what_others_appended(fs: VfolderFileSystem, place: tuple[str, Path]) -> None:
    name, disk = place
    with fs.open(f"{name}/log", "ab") as first:
        first.write(b"one\n")
    with fs.open(f"{name}/log", "ab") as second:
        assert second.tell() == 4
        second.write(b"three\n")
        (disk / "log").write_bytes(b"one\ntwo\n")
    assert (disk / "log").read_bytes() == b"one\ntwo\nthree\n"


def test_exclusive_creation_is_checked_at_both_ends(fs: VfolderFileSystem, place: tuple[str, Path]) -> None:
    name, disk = place
    file = fs.open(f"{name}/a", "xb")
    file.write(b"mine")
    (disk / "a").write_bytes(b"theirs")
    with pytest.raises(FileExistsError):
        file.close()
    with pytest.raises(FileExistsError):
        fs.pipe_file(f"{name}/a", b"mine", mode="create")
    assert (disk / "a").read_bytes() == b"theirs"


def test_copies_through_local_files(fs: VfolderFileSystem, place: tuple[str, Path], tmp_path: Path) -> None:
    name, disk = place
    content = os.urandom(20 << 20)
    (tmp_path / "big").write_bytes(content)
    fs.put(str(tmp_path / "big"), f"{name}/to/big")
    assert (disk / "to/big").read_bytes() == content
    fs.get(f"{name}/to", str(tmp_path / "back"), recursive=True)
    assert (tmp_path / "back/big").read_bytes() == content
    fs.cp(f"{name}/to/big", f"{name}/copy")
    assert (disk / "copy").read_bytes() == content


def test_read_only_folder_refuses(both: Embedded, place: tuple[str, Path]) -> None:
    name, disk = place
    (disk / "a").write_bytes(b"theirs")
    both.share_folder("owner", name, "friend", "ro")
    fs = filesystem(both.env("friend"))
    shared = next(p for p in fs.ls("", detail=False) if p.startswith(name))
    assert fs.cat_file(f"{shared}/a") == b"theirs"
    for act in (lambda: fs.pipe_file(f"{shared}/b", b"mine"), lambda: fs.rm(f"{shared}/a")):
        with pytest.raises(PermissionError):
            act()
    assert (disk / "a").exists() and not (disk / "b").exists()


# --- names -------------------------------------------------------------------------------------


def test_removal_takes_few_calls(fs: VfolderFileSystem, both: Embedded, place: tuple[str, Path]) -> None:
    name, disk = place
    (disk / "d").mkdir()
    for i in range(300):
        (disk / f"f{i}").write_bytes(b"")
        (disk / "d" / f"f{i}").write_bytes(b"")
    both.reset_calls()
    fs.rm(f"{name}/f*")
    deletions = both.count("POST", "/folders/{vf}/delete-files") + both.count(
        "DELETE", "/folders/{vf}/delete-files"
    )
    assert deletions == 2 and [p.name for p in disk.iterdir() if p.name != ".upload"] == ["d"]
    with pytest.raises(IsADirectoryError):
        fs.rm(f"{name}/d")
    fs.rm(f"{name}/d", recursive=True)
    assert not (disk / "d").exists()
    with pytest.raises(FileNotFoundError):
        fs.rm(f"{name}/d", recursive=True)


def test_rename_moves_no_content(fs: VfolderFileSystem, both: Embedded, place: tuple[str, Path]) -> None:
    name, disk = place
    (disk / "a").write_bytes(b"a")
    (disk / "b").write_bytes(b"b")
    (disk / "d").mkdir()
    both.reset_calls()
    fs.mv(f"{name}/a", f"{name}/b")
    fs.mv(f"{name}/b", f"{name}/d")
    fs.mv(f"{name}/d", f"{name}/e")
    fs.mv(f"{name}/e/b", f"{name}/new/deep/c")
    assert (disk / "new/deep/c").read_bytes() == b"a" and not (disk / "a").exists()
    assert both.count("POST", "/folders/{vf}/request-upload") == 0


def test_move_to_another_folder_copies(
    fs: VfolderFileSystem, both: Embedded, place: tuple[str, Path]
) -> None:
    name, disk = place
    other, other_id = fresh(both)
    (disk / "d").mkdir()
    (disk / "d/a").write_bytes(b"a")
    fs.mv(f"{name}/d", f"{other}/d", recursive=True)
    assert (both.folder_dir(other_id) / "d/a").read_bytes() == b"a" and not (disk / "d").exists()


def test_folders_are_made_and_removed_only_by_their_own_path(fs: VfolderFileSystem, both: Embedded) -> None:
    name = f"{fresh(both)[0]}-made"
    for act in (
        lambda: fs.makedirs(f"{name}/d"),
        lambda: fs.pipe_file(f"{name}/a", b""),
        lambda: fs.mkdir(f"{name}/d"),
    ):
        with pytest.raises(FileNotFoundError):
            act()
    fs.mkdir(name)
    with pytest.raises(FileExistsError):
        fs.mkdir(name)
    fs.makedirs(name, exist_ok=True)
    fs.pipe_file(f"{name}/a", b"")
    with pytest.raises(OSError, match="not empty"):
        fs.rmdir(name)
    with pytest.raises(PermissionError, match="rm deletes no folder"):
        fs.rm(name, recursive=True)
    fs.rm(f"{name}/*")
    fs.rmdir(name)
    assert not fs.exists(name)
    with pytest.raises(PermissionError):
        fs.pipe_file("at-the-root", b"")


# --- as others use it --------------------------------------------------------------------------


@pytest.fixture
def url(both: Embedded, place: tuple[str, Path]) -> Iterator[str]:
    """Address of a new folder, with the settings in the environment, where the libraries look."""
    with only_settings(both.env("owner")):
        VfolderFileSystem.clear_instance_cache()
        yield f"vfolder://{place[0]}"
        VfolderFileSystem.clear_instance_cache()


def test_address_opens_everywhere(url: str, tmp_path: Path) -> None:
    with fsspec.open(f"{url}/a.csv.gz", "wt", compression="infer") as out:
        out.write("x,y\n1,2\n")
    with fsspec.open(f"{url}/a.csv.gz", "rt", compression="infer") as file:
        assert file.read() == "x,y\n1,2\n"
    fs, path = fsspec.url_to_fs(url)
    assert fs.protocol == "vfolder" and fs.unstrip_protocol(path) == url
    mapper = fsspec.get_mapper(url)
    mapper["group/chunk.0"] = b"zarr"
    assert dict(mapper.getitems(["group/chunk.0"])) == {"group/chunk.0": b"zarr"}
    assert sorted(mapper) == ["a.csv.gz", "group/chunk.0"]
    cached = fsspec.open(f"simplecache::{url}/group/chunk.0", simplecache={"cache_storage": str(tmp_path)})
    with cached as file:
        assert file.read() == b"zarr"
    assert [f.path for f in fsspec.open_files(f"{url}/group/*")] == [f"{path}/group/chunk.0"]


def test_pandas_reads_and_writes(url: str) -> None:
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    frame = pandas.DataFrame({"x": [1, 2, 3], "y": ["a", "b", "c"]})
    frame.to_csv(f"{url}/new/frame.csv", index=False)
    assert pandas.read_csv(f"{url}/new/frame.csv").equals(frame)


def test_pyarrow_reads_and_writes(url: str) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    from pyarrow import dataset, parquet

    fs, path = fsspec.url_to_fs(url)
    table = pyarrow.table({"x": list(range(1000)), "part": [n % 3 for n in range(1000)]})
    for _ in range(2):  # the second one removes what the first has written
        dataset.write_dataset(
            table.slice(10),
            f"{path}/parts",
            filesystem=fs,
            format="parquet",
            partitioning=["part"],
            partitioning_flavor="hive",
            existing_data_behavior="delete_matching",
        )
    found = dataset.dataset(f"{path}/parts", filesystem=fs, partitioning="hive").to_table()
    assert sorted(found["x"].to_pylist()) == list(range(10, 1000))
    parquet.write_table(table, f"{path}/one.parquet", filesystem=fs)
    last = parquet.read_table(f"{path}/one.parquet", filesystem=fs, filters=[("x", ">", 997)])
    assert last["x"].to_pylist() == [998, 999]
    assert parquet.read_table(f"fsspec+{url}/one.parquet").equals(table)


@pytest.mark.filterwarnings("ignore")  # theirs are not ours to mend
def test_dask_reads_and_writes(url: str) -> None:
    pytest.importorskip("dask", reason="dask is not installed")
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    import dask
    import dask.dataframe

    frame = pandas.DataFrame({"x": range(100), "y": [str(n) for n in range(100)]})
    parts = dask.dataframe.from_pandas(frame, npartitions=4)
    with dask.config.set(scheduler="processes", num_workers=2):
        parts.to_csv(f"{url}/csv/part-*.csv", index=False)
        assert len(dask.dataframe.read_csv(f"{url}/csv/part-*.csv").compute()) == 100
        parts.to_parquet(f"{url}/parquet")
        parts.to_parquet(f"{url}/parquet", overwrite=True)
        assert list(dask.dataframe.read_parquet(f"{url}/parquet").compute()["x"]) == list(range(100))


@pytest.mark.filterwarnings("ignore")
def test_torch_reads_and_writes(url: str) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    fs, path = fsspec.url_to_fs(url)
    weights = {"w": torch.arange(100_000)}
    with fs.open(f"{path}/weights.pt", "wb") as file:
        torch.save(weights, file)
    with fs.open(f"{path}/weights.pt", "rb") as file:
        assert torch.equal(torch.load(file)["w"], weights["w"])
    for n in range(8):
        fs.pipe_file(f"{path}/items/{n}", b"%d" % n)
    loader = torch.utils.data.DataLoader(Items(fs, path), batch_size=2, num_workers=2)
    assert torch.cat(list(loader)).tolist() == list(range(8))


class Items:
    """A torch dataset: a file for each item, read in workers."""

    def __init__(self, fs: VfolderFileSystem, path: str) -> None:
        self.fs, self.path = fs, path

    def __len__(self) -> int:
        return 8

    def __getitem__(self, n: int) -> int:
        return int(self.fs.cat_file(f"{self.path}/items/{n}"))


def test_secrets_are_neither_taken_nor_shown(fs: VfolderFileSystem, both: Embedded, tmp_path: Path) -> None:
    secret = both.env("owner")["BACKEND_SECRET_KEY"]
    (tmp_path / "key").write_text(secret)
    (tmp_path / "key").chmod(0o600)
    with pytest.raises(TypeError, match="secret_key_file"):
        filesystem({}, secret_key=secret)
    with pytest.raises(TypeError, match="unknown option 'endpoint_url'"):
        filesystem({}, endpoint_url="http://127.0.0.1")
    with pytest.raises(ValueError, match="BACKEND_ENDPOINT"):
        filesystem({})
    env = both.env("owner")
    own = filesystem(
        {},
        endpoint=env["BACKEND_ENDPOINT"],
        access_key=env["BACKEND_ACCESS_KEY"],
        secret_key_file=str(tmp_path / "key"),
    )
    assert own.ls("") is not None and own.fsid == fs.fsid
    for shown in (repr(own), own.to_json(), repr(own.storage_options), repr(own.__dict__)):
        assert secret not in shown


def test_call_from_the_loop_itself_is_refused(fs: VfolderFileSystem) -> None:
    from vfsmount.fsspec.portal import portal

    async def misuse() -> None:
        portal().call(misuse)

    with pytest.raises(RuntimeError, match="own thread"):
        portal().call(misuse)


def test_ctrl_c_ends_the_request_and_nothing_else(fs: VfolderFileSystem) -> None:
    import signal

    import trio

    from vfsmount.fsspec.portal import portal

    main, begun, ended = threading.get_ident(), threading.Event(), threading.Event()

    async def for_ever() -> None:
        begun.set()
        try:
            await trio.sleep_forever()
        finally:
            ended.set()

    async def answer() -> int:
        return 42

    def interrupt() -> None:
        if begun.wait(60):  # or it would end the whole run of tests
            time.sleep(0.2)
            signal.pthread_kill(main, signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        portal().call(for_ever)
    thread.join()
    assert ended.is_set() and portal().call(answer) == 42
