"""git on a real mount, compared with git on a local disk."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.compare import run_in, same_on_both
from tests.support.mounting import run

# One thread, fixed dates and no hooks: the same objects, packs and logs each time.
GIT = [
    *("env", "GIT_AUTHOR_DATE=2020-01-01T00:00:00Z", "GIT_COMMITTER_DATE=2020-01-01T00:00:00Z"),
    *("GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null", "GIT_TEMPLATE_DIR="),
    *("git", "-c", "user.name=T", "-c", "user.email=t@example.org", "-c", "pack.threads=1"),
    *("-c", "gc.auto=0", "-c", "safe.directory=*", "-c", "init.defaultBranch=main"),
]
HOLDS_INODES = ["*.git/index"]


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bare repository of a few commits, with a program, a link and a file that grows."""
    source = tmp_path_factory.mktemp("origin") / "source"
    source.mkdir()
    run_in(source, *GIT, "init", "-q")
    (source / "run.sh").write_text("#!/bin/sh\necho run\n")
    (source / "run.sh").chmod(0o755)
    (source / "link").symlink_to("run.sh")
    (source / "docs" / "deep").mkdir(parents=True)
    for n in range(5):
        (source / "docs" / "deep" / f"page {n}.txt").write_text(f"page {n}\n" * 100)
        with (source / "grows").open("a") as f:
            f.write("".join(f"{n} {line}\n" for line in range(500)))
        run_in(source, *GIT, "add", ".")
        run_in(source, *GIT, "commit", "-qm", f"commit {n}")
    run(*GIT, "clone", "-q", "--bare", source, source.parent / "origin.git")
    run_in(source.parent / "origin.git", *GIT, "gc", "-q")
    return source.parent / "origin.git"


def test_clone_commit_merge_and_gc(folder: Path, disk: Path, tmp_path: Path, origin: Path) -> None:
    def work(directory: Path) -> list[str]:
        run_in(directory, *GIT, "clone", "-q", origin, "repo")
        repo = directory / "repo"
        (repo / "grows").write_text((repo / "grows").read_text() + "one more line\n")
        (repo / "new.sh").write_text("#!/bin/sh\n")
        (repo / "new.sh").chmod(0o755)
        run_in(repo, *GIT, "add", ".")
        run_in(repo, *GIT, "commit", "-qm", "here")
        run_in(repo, *GIT, "checkout", "-qb", "side", "HEAD~1")
        run_in(repo, *GIT, "mv", "docs/deep", "docs/moved")
        run_in(repo, *GIT, "commit", "-qam", "moved")
        run_in(repo, *GIT, "checkout", "-q", "main")
        run_in(repo, *GIT, "merge", "-q", "-m", "merged", "side")
        run_in(repo, *GIT, "gc", "-q", "--prune=now")
        run_in(repo, *GIT, "fsck", "--strict")
        return [
            run_in(repo, *GIT, "status", "--porcelain"),
            run_in(repo, *GIT, "log", "--format=%H %s"),
            run_in(repo, *GIT, "ls-files", "-s"),
            run_in(repo, *GIT, "push", "-q", "--dry-run", "origin", "main"),
        ]

    same_on_both(work, tmp_path / "local", folder, disk, own=HOLDS_INODES)
    run(*GIT, "--git-dir", disk / "repo" / ".git", "fsck", "--strict")


def test_clone_push_reset_and_clean_beside_the_origin(
    folder: Path, disk: Path, tmp_path: Path, origin: Path
) -> None:
    """A clone beside its origin tries hard links first, and copies where there are none."""

    def work(directory: Path) -> list[str]:
        how = [] if directory == folder else ["--no-hardlinks"]
        run_in(directory, *GIT, "clone", "-q", "--bare", *how, origin, "a.git")
        run_in(directory, *GIT, "clone", "-q", *how, "a.git", "b")
        (directory / "b" / "run.sh").write_text("#!/bin/sh\necho changed\n")
        run_in(directory / "b", *GIT, "commit", "-qam", "changed")
        run_in(directory / "b", *GIT, "push", "-q")
        said = [
            run_in(directory / "a.git", *GIT, "log", "--format=%H %s"),
            run_in(directory / "b", *GIT, "status", "-sb"),
        ]
        (directory / "b" / "untracked" / "dir").mkdir(parents=True)
        (directory / "b" / "untracked" / "f").write_text("x")
        run("rm", "-r", directory / "b" / "docs")
        (directory / "b" / "run.sh").chmod(0o644)
        said.append(run_in(directory / "b", *GIT, "status", "-s"))
        run_in(directory / "b", *GIT, "reset", "-q", "--hard")
        run_in(directory / "b", *GIT, "clean", "-qfd")
        return [*said, run_in(directory / "b", *GIT, "status", "-s")]

    same_on_both(work, tmp_path / "local", folder, disk, own=HOLDS_INODES)
