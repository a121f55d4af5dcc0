"""``vfsmount ls, cat, du, mkdir, mv, rm`` at the server, on both dialects."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.embedded import Embedded
from tests.support.fixtures import fresh
from tests.support.mounting import VFSMOUNT, clean_environment
from vfsmount.cli import main
from vfsmount.cli.exit_codes import CONFLICT, DENIED, FAILED, NOT_FOUND, OK, READER_GONE, USAGE

ODD_NAMES = ["-x", " ", "日本語", "a\nb", "a\\b", ".dot", "e\u0301", "%41?#&+"]


class Site:
    """A folder of the test's own, and the commands as its owner types them."""

    def __init__(self, server: Embedded, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
        self.server = server
        self.name, ident = fresh(server)
        self.disk = server.folder_dir(ident)
        self._monkeypatch = monkeypatch
        self._capsys = capsys
        self.user = "owner"
        self.err = ""

    def run(self, *words: str, code: int = OK) -> str:
        """Run one command; what it wrote to stdout."""
        for name, value in self.server.env(self.user).items():
            self._monkeypatch.setenv(name, value)
        found = main(words)
        out, self.err = self._capsys.readouterr()
        assert found == code, f"{words}: {found}\n{out}{self.err}"
        return out

    def put(self, path: str, text: str = "") -> Path:
        """A file on the server's disk."""
        file = self.disk / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text or path)
        return file

    def there(self) -> list[str]:
        """What is on the server's disk."""
        return sorted(str(p.relative_to(self.disk)) for p in self.disk.rglob("*"))


@pytest.fixture(autouse=True)
def no_mounts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No mount of whoever runs the tests is asked anything."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


@pytest.fixture
def site(both: Embedded, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Site:
    return Site(both, monkeypatch, capsys)


@pytest.fixture(scope="module", params=["23.09", "26"])
def cutting(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Embedded]:
    """A server that lists seven entries and no more: a number that nobody suspects."""
    directory = tmp_path_factory.mktemp("cutting")
    with Embedded(directory, dialect=request.param, scandir_limit=7) as server:
        yield server


@pytest.fixture
def cut(cutting: Embedded, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Site:
    return Site(cutting, monkeypatch, capsys)


# --- ls ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [["ls"], ["vfolder", "ls"], ["ls", "-l"]])
def test_ls_is_long_and_sorted(site: Site, words: list[str]) -> None:
    os.utime(site.put("b", "12345"), (0, 86400 * 365))
    site.put("a/deep")
    (site.disk / "b").chmod(0o640)
    (site.disk / ".upload").mkdir()
    lines = site.run(*words, site.name, ".").splitlines()
    assert [line.split()[-1] for line in lines] == ["a", "b"]
    assert lines[0].startswith("drwx") and lines[1].split()[:3] == ["-rw-r-----", "5", "1971-01-01"]
    assert ".upload" in site.run("ls", "-a1", site.name)


def test_ls_of_a_directory_of_a_file_and_of_several(site: Site) -> None:
    site.put("d/x")
    site.put("d/e/y")
    site.put("f", "f" * 2048)
    name = site.name
    assert site.run("ls", "-1", name, "d") == "e\nx\n"
    assert site.run("ls", "-1", f"{name}:d/") == "e\nx\n"
    assert "2.0 KiB" in site.run("ls", "-h", name, "f")
    assert site.run("ls", "-1", name, "f", "d") == f"f\n\n{name}:d:\ne\nx\n"
    assert site.run("ls", "-1R", name) == f"{name}:\nd\nf\n\n{name}:d:\ne\nx\n\n{name}:d/e:\ny\n"


def test_ls_of_what_is_not_there(site: Site) -> None:
    site.put("f")
    site.run("ls", site.name, "no", code=NOT_FOUND)
    assert f"{site.name}:no" in site.err
    site.run("ls", site.name, "f/below", code=FAILED)
    site.run("ls", "no-such-folder", code=NOT_FOUND)
    assert site.run("ls", "-1", site.name, "no", "f", code=NOT_FOUND) == "f\n"


def test_ls_shows_odd_names_on_one_line_each(site: Site) -> None:
    for name in ODD_NAMES:
        site.put(name, "x")
    lines = site.run("ls", "-1", site.name).splitlines()
    assert sorted(lines) == sorted(n.replace("\n", "\\n") for n in ODD_NAMES)
    found = json.loads(site.run("ls", "--json", site.name))
    assert [e["name"] for e in found["entries"]] == sorted(ODD_NAMES)
    assert {(e["type"], e["size"], e["mode"]) for e in found["entries"]} == {("file", 1, "0644")}
    for name in ODD_NAMES:
        assert json.loads(site.run("ls", "--json", "--", site.name, name))["entries"][0]["path"] == name


def test_ls_of_links(site: Site) -> None:
    site.put("d/x")
    (site.disk / "to-d").symlink_to("d")
    (site.disk / "to-x").symlink_to("d/x")
    (site.disk / "out").symlink_to("/etc")
    assert [x[0] for x in site.run("ls", site.name).splitlines()] == ["d", "l", "l", "l"]
    assert site.run("ls", "-1", site.name, "to-d") == "x\n"
    assert site.run("ls", "-1", site.name, "to-x") == "to-x\n"
    assert site.run("ls", "-1", site.name, "out") == "out\n"
    assert "to-d:" not in site.run("ls", "-R", site.name)


def test_ls_tells_of_a_listing_that_may_be_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with Embedded(tmp_path / "data", dialect="26", scandir_limit=100) as server:
        site = Site(server, monkeypatch, capsys)
        for n in range(120):
            site.put(f"many/{n}", "x")
        site.put("few/x")
        assert len(site.run("ls", "-1", site.name, "many").splitlines()) == 100
        assert f"{site.name}:many" in site.err and "100 entries" in site.err
        site.run("ls", site.name, "few")
        assert site.err == ""
        found = json.loads(site.run("ls", "-R", "--json", site.name))
        assert found["partial"] == [f"{site.name}:many"]
        site.run("du", "-s", site.name)
        assert "1 directory" in site.err
        sums = json.loads(site.run("du", "--json", site.name))["sums"]
        assert [s["path"] for s in sums if s["partial"]] == ["many", ""]


def test_ls_recursive_goes_on_where_a_directory_fails(site: Site) -> None:
    for n in range(12):
        site.put(f"d{n:02}/e/x")
    calls = {"path": "/folders/*/files", "half": "manager"}
    refuse = {"action": "status", "status": 403, **calls}
    site.server.faults({"rules": [{"action": "delay", "delay_ms": 1, **calls}, refuse]})
    out = site.run("ls", "-R", site.name, code=DENIED)
    assert site.err.startswith(f"vfsmount: {site.name}:d00: ") and f"{site.name}:d01/e:" in out
    site.server.clear_faults()
    lines = site.run("ls", "-1R", site.name).splitlines()
    titles = [line for line in lines if line.endswith(":")]
    wanted = [f"{site.name}:"] + [f"{site.name}:d{n:02}{e}:" for n in range(12) for e in ("", "/e")]
    assert titles == wanted


# --- du ----------------------------------------------------------------------------------------


def test_du_adds_up(site: Site) -> None:
    site.put("a/x", "1" * 10)
    site.put("a/b/y", "1" * 100)
    site.put("a-b/z", "1" * 1000)
    site.put("w", "1" * 10000)
    (site.disk / "empty").mkdir()
    (site.disk / "a/link").symlink_to("b")
    name = site.name
    assert site.run("du", name).splitlines() == [
        f"100\t{name}:a/b",
        f"111\t{name}:a",
        f"1000\t{name}:a-b",
        f"0\t{name}:empty",
        f"11111\t{name}",
    ]
    assert site.run("du", "-s", name) == f"11111\t{name}\n"
    assert site.run("du", "-sh", name, "a-b", "w") == f"1000 B\t{name}:a-b\n9.8 KiB\t{name}:w\n"
    assert site.run("du", "-d", "1", name, "a").splitlines() == [f"100\t{name}:a/b", f"111\t{name}:a"]
    assert site.run("du", "-a", name, "a").splitlines() == [
        f"1\t{name}:a/link",
        f"10\t{name}:a/x",
        f"100\t{name}:a/b/y",
        f"100\t{name}:a/b",
        f"111\t{name}:a",
    ]
    sums = {s["path"]: s for s in json.loads(site.run("du", "--json", name))["sums"]}
    assert sums[""]["files"] == 5 and sums["a"]["size"] == 111 and sums["empty"]["files"] == 0
    site.run("du", name, "no", code=NOT_FOUND)
    site.run("du", "-sa", name, code=USAGE)


# --- cat ---------------------------------------------------------------------------------------


def cat(site: Site, *words: str, code: int = OK, **options: object) -> bytes:
    command = [*VFSMOUNT, "cat", *words]
    done = subprocess.run(command, env=clean_environment(site.server.env("owner")), capture_output=True)
    assert done.returncode == code, done.stderr
    site.err = done.stderr.decode()
    return done.stdout


def test_cat_gives_bytes_as_they_are(site: Site) -> None:
    data = bytes(range(256)) * 20_000
    (site.disk / "big").write_bytes(data)
    (site.disk / "empty").touch()
    site.put("-x", "dash")
    name = site.name
    assert cat(site, name, "big", "empty", "./-x") == data + b"dash"
    assert cat(site, f"{name}:big", "--offset", "1000000", "--length", "3000000") == data[1000000:4000000]
    assert cat(site, name, "big", "--offset", "-10") == data[-10:]
    assert cat(site, name, "big", "--offset", "6000000") == b""
    assert cat(site, name, "--offset=-100", "--", "-x") == b"dash"
    assert cat(site, name, "no", "./-x", code=NOT_FOUND) == b"dash"
    assert f"{name}:no" in site.err
    assert cat(site, name, ".", code=FAILED) == b""


def test_cat_ends_quietly_with_its_reader(site: Site) -> None:
    (site.disk / "big").write_bytes(bytes(20 << 20))
    command = [*VFSMOUNT, "cat", site.name, "big"]
    env = clean_environment(site.server.env("owner"))
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        assert child.stdout is not None and child.stderr is not None
        assert child.stdout.read(10) == bytes(10)
        child.stdout.close()
        assert child.stderr.read() == b""
        assert child.wait(30) == READER_GONE


def test_cat_of_a_file_that_is_replaced_never_mixes_versions(site: Site) -> None:
    (site.disk / "big").write_bytes(b"a" * (8 << 20))
    site.server.faults(
        {"rules": [{"action": "cut_down", "path": "/download", "half": "storage", "after_bytes": 3 << 20}]}
    )
    command = [*VFSMOUNT, "cat", site.name, "big"]
    env = clean_environment(site.server.env("owner"))
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        assert child.stdout is not None and child.stderr is not None
        found = child.stdout.read(1)
        # It waits for us while it has more than a pipe holds, so this is in time.
        (site.disk / "new").write_bytes(b"b" * (8 << 20))
        (site.disk / "new").rename(site.disk / "big")
        found += child.stdout.read()
        assert set(found) == set(b"a") and len(found) < 8 << 20
        assert b"changed on the server" in child.stderr.read()
        assert child.wait(30) == CONFLICT


# --- mkdir -------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [["mkdir"], ["vfolder", "mkdir"]])
def test_mkdir(site: Site, words: list[str]) -> None:
    name = site.name
    site.run(*words, name, "a", "日本語", " ")
    site.run(*words, name, "a", code=CONFLICT)
    site.run(*words, "-e", name, "a")
    site.run(*words, name, "x/y", code=NOT_FOUND)
    site.run(*words, "-p", name, "x/y", "x/y", "a")
    site.put("f")
    for options in ([], ["-p"], ["-e"]):
        site.run(*words, *options, name, "f", code=CONFLICT)
    site.run(*words, name, "f/below", code=FAILED)
    site.run(*words, name, ".", code=USAGE)
    site.run(*words, name, "a\nb", code=FAILED)
    assert site.there() == sorted([" ", "a", "f", "x", "x/y", "日本語"])


# --- mv ----------------------------------------------------------------------------------------


def test_mv_renames_replaces_and_moves_into_directories(site: Site) -> None:
    name = site.name
    for path in ("a", "b", "c", "d/keep", "e/deep/x"):
        site.put(path)
    site.run("mv", name, "a", "new")
    assert (site.disk / "new").read_text() == "a"
    site.run("vfolder", "mv", name, "new", "b")  # a file replaces a file
    assert (site.disk / "b").read_text() == "a"
    site.run("mv", name, "b", "c", "d")  # into a directory
    site.run("mv", f"{name}:e", f"{name}:d/")  # a directory as well
    site.run("mv", name, "d/e", "g")  # and out, under another name
    site.run("mv", name, "d/b", ".")
    assert site.there() == ["b", "d", "d/c", "d/keep", "g", "g/deep", "g/deep/x"]


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["no", "x"], NOT_FOUND, "no such file"),
        (["f", "no/x"], NOT_FOUND, "no: "),
        (["d", "no/x"], NOT_FOUND, "no: "),  # the server would make it
        (["d", "f"], CONFLICT, "a file stands"),
        (["f", "same"], CONFLICT, "a directory stands"),  # same/f
        (["d", "same"], CONFLICT, "a directory stands"),  # same/d, empty: the server would move into it
        (["-T", "d", "empty"], CONFLICT, "a directory stands"),
        (["-n", "f", "g"], CONFLICT, "exists"),
        (["d", "d/e/d"], FAILED, "into itself"),
        (["f", "f"], FAILED, "are the same"),
        (["f", "new/"], NOT_FOUND, "is no directory"),
        (["f", "g", "h"], NOT_FOUND, "is no directory"),
        (["f", "g", "same/x"], FAILED, "is no directory"),
        (["link", "x"], FAILED, "symlink"),
        (["f", "link"], FAILED, "symlink"),
        ([".", "x"], FAILED, "root"),
        (["f/", "x"], FAILED, "is no directory"),
    ],
)
def test_mv_refuses(site: Site, words: list[str], code: int, says: str) -> None:
    for path in ("f", "g", "d/e/x", "same/x", "same/f/x"):
        site.put(path)
    (site.disk / "empty").mkdir()
    (site.disk / "same/d").mkdir()
    (site.disk / "link").symlink_to("g")
    before = site.there()
    options = [w for w in words if w in ("-T", "-n")]
    site.run("mv", *options, site.name, *words[len(options) :], code=code)
    assert says in site.err
    assert site.there() == before and (site.disk / "g").read_text() == "g"


def test_mv_of_a_directory_makes_no_parents_and_needs_none_to_be_guessed(site: Site) -> None:
    site.put("d/x")
    (site.disk / "to").mkdir()
    site.run("mv", site.name, "d", "to/d2")
    site.run("mv", site.name, "to/d2/", "d3/")
    assert site.there() == ["d3", "d3/x", "to"]


def test_mv_between_folders_is_refused_with_a_sentence(site: Site) -> None:
    site.put("f")
    other, _ = fresh(site.server)
    site.run("mv", f"{site.name}:f", f"{other}:f", code=FAILED)
    assert "different folders" in site.err and site.there() == ["f"]


def test_mv_whose_reply_is_lost(site: Site) -> None:
    site.put("f")
    site.server.faults({"rules": [{"action": "lose_reply", "path": "/folders/*/move-file"}]})
    site.run("mv", site.name, "f", "g")
    assert site.there() == ["g"]


def test_rename_file_stays_in_its_directory(site: Site) -> None:
    site.put("d/a")
    site.run("vfolder", "rename-file", site.name, "d/a", "b")
    assert site.there() == ["d", "d/b"]
    site.run("rename-file", site.name, "d/b", "x/y", code=FAILED)
    site.run("rename-file", site.name, "d", "d", code=FAILED)


# --- rm ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [["rm"], ["vfolder", "rm"], ["vfolder", "delete-file"]])
def test_rm_removes_files(site: Site, words: list[str]) -> None:
    site.put("bigdata.csv")
    site.put("stays")
    site.run(*words, site.name, "./bigdata.csv")
    assert site.there() == ["stays"]
    site.run(*words, site.name, "./bigdata.csv", code=NOT_FOUND)


def test_rm_of_odd_names(site: Site) -> None:
    for name in ODD_NAMES:
        site.put(name)
        site.put(f"dir{name}/x")
    site.run("rm", "-r", "--", site.name, *ODD_NAMES, *(f"dir{name}" for name in ODD_NAMES))
    assert site.there() == []


def test_rm_tells_what_it_did_not_remove_and_goes_on(site: Site) -> None:
    site.put("a")
    site.put("d/x")
    out = site.run("rm", "-v", site.name, "no", "d", "a", "a/below", code=NOT_FOUND)
    assert out == f"removed {site.name}:a\n" and site.there() == ["d", "d/x"]
    assert f"{site.name}:no: no such file" in site.err and f"{site.name}:d: is a directory" in site.err
    site.run("rm", "-f", site.name, "no", "x/y/z")
    assert site.err == ""


def test_rm_recursive_with_a_path_inside_another(site: Site) -> None:
    site.put("d/e/x")
    site.put("d-e")
    (site.disk / "empty").mkdir()
    site.run("rm", "-r", site.name, "d/e/x", "d", "d/e", "empty", "d-e")
    assert site.there() == []


@pytest.mark.parametrize("path", [".", "", "./", "./."])
def test_rm_never_takes_the_root(site: Site, path: str) -> None:
    site.put("f")
    site.run("rm", "-rf", site.name, path, code=USAGE)
    site.run("rm", "-rf", f"{site.name}:{path}", code=USAGE)
    site.run("rm", "-rf", site.name, "d/../..", code=FAILED)
    site.run("rm", "-rf", site.name, "/", code=FAILED)
    assert site.there() == ["f"]


def test_rm_never_goes_through_a_link(site: Site) -> None:
    site.put("d/x")
    for name, target in (("to-d", "d"), ("to-x", "d/x"), ("dangling", "no"), ("out", "/etc")):
        (site.disk / name).symlink_to(target)
    for path in ("to-d", "to-x", "dangling", "out", "to-d/x"):
        site.run("rm", "-rf", site.name, path, code=FAILED)
        assert "symlink" in site.err
    (site.disk / "holder").mkdir()
    (site.disk / "holder/to-d").symlink_to("../d")
    site.run("rm", "-r", site.name, "holder")  # a link goes with its directory, not its target
    assert (site.disk / "d/x").read_text() == "d/x" and not (site.disk / "holder").exists()


def test_rm_sends_few_calls(site: Site) -> None:
    names = [f"n{n}" for n in range(1100)]
    for name in names:
        site.put(name, "x")
    site.server.reset_calls()
    site.run("rm", site.name, *names)
    assert site.there() == []
    calls = site.server.calls("manager")
    assert sum(n for (_, _, route), n in calls.items() if "delete-files" in route) == 3
    # One listing before and one after, twice, because the first shows 1000 of them.
    assert sum(n for (_, _, route), n in calls.items() if route.endswith("/files")) == 4
    assert sum(n for (_, _, route), n in calls.items() if "request-download" in route) <= 2


def test_rm_of_directories_asks_for_none_of_them_afterwards(site: Site) -> None:
    site.put("x")
    for n in range(30):
        site.put(f"d{n}/x")
    site.server.reset_calls()
    site.run("rm", "-r", site.name, *(f"d{n}" for n in range(30)))
    assert site.there() == ["x"]
    assert sum(site.server.calls("manager").values()) <= 8 and not site.server.calls("storage")


def test_rm_notices_what_stays_although_the_server_says_yes(
    new_server: Embedded, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    site = Site(new_server, monkeypatch, capsys)
    os.mkfifo(site.disk / "fifo")
    site.put("f")
    site.run("rm", site.name, "fifo", "f", code=FAILED)
    assert "yet it is there" in site.err and site.there() == ["fifo"]


def test_rm_goes_on_where_a_call_fails_for_one_name(site: Site) -> None:
    for name in ("a", "b", "c"):
        site.put(name)
    site.server.faults({"rules": [{"action": "status", "path": "/folders/*/delete-files", "status": 400}]})
    site.run("rm", site.name, "a", "b", "c")
    assert site.there() == []


def test_rm_whose_reply_is_lost(site: Site) -> None:
    site.put("d/x")
    site.server.faults({"rules": [{"action": "lose_reply", "path": "/folders/*/delete-files"}]})
    site.run("rm", "-r", site.name, "d")
    assert site.there() == []


def test_rm_of_what_is_shared_read_only(site: Site) -> None:
    site.put("f")
    site.server.share_folder("owner", site.name, "friend", "ro")
    site.user = "friend"
    site.run("rm", site.name, "f", code=DENIED)
    site.run("mkdir", site.name, "d", code=DENIED)
    site.run("mv", site.name, "f", "g", code=DENIED)
    assert site.there() == ["f"]


# --- listings that are cut ----------------------------------------------------------------------


def test_rm_recursive_of_a_directory_that_is_listed_in_part(cut: Site) -> None:
    for n in range(30):
        cut.put(f"d/{n}")
        cut.put(f"d/s{n}/x")
    cut.run("rm", "-r", cut.name, "d")
    assert cut.there() == []


def unlisted(site: Site, directory: str = "") -> list[str]:
    found = json.loads(site.run("ls", "--json", site.name, directory or "."))["entries"]
    return sorted(set(os.listdir(site.disk / directory)) - {e["name"] for e in found})


def test_rm_recursive_takes_what_nobody_can_list(site: Site) -> None:
    (site.disk / "d/e").mkdir(parents=True)
    (site.disk / "d/e" / os.fsdecode(b"\xff")).write_text("x")  # 26.x cannot list its directory
    site.run("rm", "-r", site.name, "d/e")
    assert site.there() == ["d"]


def test_what_a_cut_listing_does_not_show_is_found(cut: Site) -> None:
    for n in range(12):
        cut.put(f"f{n}")
    hidden = unlisted(cut)[0]
    assert cut.run("ls", "-1", cut.name, hidden) == f"{hidden}\n"
    assert cut.run("du", "-a", cut.name, hidden) == f"{len(hidden)}\t{cut.name}:{hidden}\n"
    cut.run("rm", cut.name, hidden, code=FAILED)
    assert "may be a symlink" in cut.err and (cut.disk / hidden).exists()
    cut.run("rm", "--unlisted", cut.name, hidden)
    assert not (cut.disk / hidden).exists()
    # -n sees it, a directory is not moved onto it, and it is not moved while it may be a link.
    hidden = unlisted(cut)[0]
    shown = next(n for n in os.listdir(cut.disk) if n not in unlisted(cut))
    cut.run("mv", "-n", "--unlisted", cut.name, shown, hidden, code=CONFLICT)
    cut.run("mv", cut.name, hidden, "new", code=FAILED)
    cut.run("mv", "--unlisted", cut.name, hidden, "new")
    assert (cut.disk / "new").read_text() == hidden


def test_directory_that_a_cut_listing_does_not_show(cut: Site) -> None:
    for n in range(12):
        cut.put(f"d{n}/x")
    hidden = unlisted(cut)[0]
    assert cut.run("ls", "-1", cut.name, hidden) == "x\n"
    cut.run("rm", "-r", cut.name, hidden, code=FAILED)
    cut.run("rm", cut.name, f"{hidden}/x", code=FAILED)
    cut.run("mv", "--unlisted", cut.name, f"{hidden}/x", hidden, code=FAILED)
    cut.run("rm", "-r", "--unlisted", cut.name, hidden)
    assert not (cut.disk / hidden).exists()


def test_help_of_ls_and_du_is_under_its_long_name(site: Site) -> None:
    for command in ("ls", "du", "cat", "mkdir", "mv", "rm", "rename-file"):
        assert f"Usage: vfsmount {command}" in site.run(command, "--help")


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys; from vfsmount.cli import main; "
        "[main([c, '--help']) for c in ('ls','du','cat','mkdir','mv','rm','rename-file')]; "
        "print([m for m in ('httpx','trio','pyfuse3','rich') if m in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"
