"""Commands about files against the real 23.09, as they are typed, and as the official client has them."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.embedded import RawClient
from tests.support.live import DIRECTORY, live_environment
from vfsmount.cli import main
from vfsmount.cli.exit_codes import CONFLICT, FAILED, NOT_FOUND, OK

pytestmark = pytest.mark.live

ODD_NAMES = ["-x", " ", "日本語", "a\\b", ".dot", "e\u0301", "%41?#&+"]


class Site:
    """A folder of the test's own at the real server, and the commands as its owner types them."""

    def __init__(self, owner: RawClient, capsys: pytest.CaptureFixture[str]) -> None:
        self.owner = owner
        self.name = f"files-{secrets.token_hex(4)}"
        self.ident = str(owner.ok("POST", "/folders", {"name": self.name})["id"]).replace("-", "")
        self._capsys = capsys
        self.err = ""

    @property
    def disk(self) -> Path:
        """Where its files lie on the server's own disk."""
        i = self.ident
        (found,) = (Path(os.environ[DIRECTORY]) / "vfroot").glob(f"*/*/{i[:2]}/{i[2:4]}/{i[4:]}")
        return found

    def run(self, *words: str, code: int = OK) -> str:
        found = main(words)
        out, self.err = self._capsys.readouterr()
        assert found == code, f"{words}: {found}\n{out}{self.err}"
        return out

    def put(self, path: str, text: str = "") -> None:
        self.owner.upload(self.name, path, (text or path).encode())

    def there(self) -> list[str]:
        found = (str(p.relative_to(self.disk)) for p in self.disk.rglob("*"))
        return sorted(p for p in found if not p.startswith(".upload"))


@pytest.fixture
def site(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Iterator[Site]:
    env = dict(live_environment("owner"))
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    owner = RawClient(env)
    site = Site(owner, capsys)
    yield site
    owner.ok("DELETE", f"/folders/{site.name}")
    owner.close()


@pytest.mark.parametrize("group", [[], ["vfolder"]], ids=["own", "official"])
def test_storage_chapter_as_typed(site: Site, group: list[str]) -> None:
    site.put("bigdata.csv")
    site.put("sub/x")
    assert [x.split()[-1] for x in site.run(*group, "ls", site.name, ".").splitlines()] == [
        "bigdata.csv",
        "sub",
    ]
    site.run(*group, "rm", site.name, "./bigdata.csv")
    site.run(*group, "rm", site.name, "./bigdata.csv", code=NOT_FOUND)
    site.run(*group, "mkdir", site.name, "d")
    site.run(*group, "mkdir", site.name, "d", code=CONFLICT)
    site.run(*group, "mkdir", site.name, "no/deep", code=NOT_FOUND)
    site.run(*group, "mkdir", "-p", site.name, "no/deep")
    site.run(*group, "mv", site.name, "sub/x", "d")
    site.run(*group, "mv", site.name, "d/x", "y")
    site.run(*group, "rm", "-r", site.name, "sub", "no", "d")
    assert site.there() == ["y"]


def test_odd_names(site: Site) -> None:
    for name in ODD_NAMES:
        site.put(name, "x")
        site.put(f"d{name}/x", "x")
    (site.disk / "a\nb").write_text("x")
    found = json.loads(site.run("ls", "--json", site.name))["entries"]
    assert [e["name"] for e in found] == sorted(["a\nb", *ODD_NAMES, *(f"d{name}" for name in ODD_NAMES)])
    for name in ODD_NAMES:
        assert site.run("cat", "--", site.name, name) == "x"
        site.run("mv", "--", site.name, name, f"{name}2")
    names = ["a\nb", *(f"{name}2" for name in ODD_NAMES), *(f"d{name}" for name in ODD_NAMES)]
    assert site.there() == sorted([*names, *(f"d{name}/x" for name in ODD_NAMES)])
    site.run("rm", "-r", "--", site.name, *names)
    assert site.there() == []


def test_du_and_recursive_ls(site: Site) -> None:
    site.put("a/x", "1" * 10)
    site.put("a/b/y", "1" * 100)
    site.run("mkdir", site.name, "empty")
    assert site.run("du", "-a", site.name, "a").splitlines() == [
        f"10\t{site.name}:a/x",
        f"100\t{site.name}:a/b/y",
        f"100\t{site.name}:a/b",
        f"110\t{site.name}:a",
    ]
    titles = [x for x in site.run("ls", "-1R", site.name).splitlines() if x.endswith(":")]
    assert titles == [f"{site.name}:", *(f"{site.name}:{d}:" for d in ("a", "a/b", "empty"))]


def test_ranges_of_a_file(site: Site) -> None:
    text = "".join(f"{n:07}\n" for n in range(300_000))
    site.put("big", text)
    assert site.run("cat", site.name, "big") == text
    assert site.run("cat", site.name, "big", "--offset", "-8") == text[-8:]
    assert site.run("cat", site.name, "big", "--offset", "8000", "--length", "16") == text[8000:8016]
    assert site.run("cat", site.name, "big", "--offset", "99999999") == ""
    site.run("cat", site.name, ".", code=FAILED)


def test_mv_never_moves_into_what_stands_there_by_accident(site: Site) -> None:
    site.put("d/x")
    site.put("to/d/y")
    site.put("f")
    (site.disk / "empty").mkdir()
    before = site.there()
    for words in (["d", "to"], ["-T", "d", "empty"], ["-T", "f", "to"], ["d", "f"], ["-n", "f", "f2/"]):
        options = [w for w in words if w.startswith("-")]
        site.run(
            "mv", *options, site.name, *words[len(options) :], code=NOT_FOUND if "f2/" in words else CONFLICT
        )
    site.run("mv", site.name, "d", "missing/d", code=NOT_FOUND)
    site.run("mv", site.name, "d", "d/e", code=FAILED)
    assert site.there() == before


def test_links_keep_their_targets(site: Site) -> None:
    site.put("d/x")
    for name, target in (("to-d", "d"), ("to-x", "d/x"), ("dangling", "no")):
        (site.disk / name).symlink_to(target)
    for path in ("to-d", "to-x", "dangling", "to-d/x"):
        site.run("rm", "-rf", site.name, path, code=FAILED)
    site.run("mv", site.name, "to-x", "y", code=FAILED)
    assert (site.disk / "d/x").read_text() == "d/x"
    (site.disk / "holder").mkdir()
    (site.disk / "holder/to-d").symlink_to("../d")
    site.run("rm", "-r", site.name, "holder")
    assert (site.disk / "d/x").read_text() == "d/x" and not (site.disk / "holder").exists()


def test_directory_over_the_listing_limit(site: Site) -> None:
    """The real server lists 1000 entries."""
    site.put("d/x")
    for n in range(1500):
        (site.disk / f"d/f{n}").write_text("x")
    shown = site.run("ls", "-1", site.name, "d").splitlines()
    assert len(shown) == 1000 and "may be cut" in site.err
    assert json.loads(site.run("ls", "--json", site.name, "d"))["partial"] == [f"{site.name}:d"]
    hidden = next(n for n in os.listdir(site.disk / "d") if n not in shown)
    assert site.run("ls", "-1", site.name, f"d/{hidden}") == f"{hidden}\n"
    site.run("rm", site.name, *(f"d/f{n}" for n in range(1200)))
    assert len(os.listdir(site.disk / "d")) == 301
    site.run("rm", "-r", site.name, "d")
    assert site.there() == []
