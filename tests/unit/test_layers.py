"""Imports point one way. Every module is read, none is imported."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "vfsmount"

# Which part each module at the top belongs to; the folders are parts of their own.
PART_OF = {
    **dict.fromkeys(("values", "errors", "errnos"), "base"),
    **dict.fromkeys(
        ("config", "config_sources", "health", "log", "login_file", "metrics", "places", "supervisor"),
        "support",
    ),
    "__init__": "root",
    "__main__": "cli",
}
LOW = {"root", "base"}
MAY_IMPORT = {
    "root": {"root"},
    "base": LOW,
    "support": LOW | {"support"},
    "core": LOW | {"core"},
    "api": LOW | {"support", "core", "api"},
    "store": LOW | {"support", "core", "store"},
    "vfs": LOW | {"support", "core", "api", "store", "vfs"},
    # A process of its own, which loads nothing else.
    "holder": {"root", "holder"},
    "fuse": LOW | {"support", "core", "api", "store", "vfs", "holder", "fuse"},
    # Beside the mount, not part of it.
    "transfer": LOW | {"support", "core", "api", "store", "transfer"},
    # A second top beside `fuse` and `cli`: a library's users have neither.
    "fsspec": LOW | {"support", "core", "api", "vfs", "fsspec"},
    "cli": LOW | {"support", "core", "api", "store", "vfs", "holder", "fuse", "transfer", "server", "cli"},
    # Not even `support`: what it shared with the client could be wrong on both sides at once.
    "server": LOW | {"server"},
}
# Libraries and the only parts that may know them.
ONLY_IN = {
    "pyfuse3": {"fuse"},
    "httpx": {"api"},
    "aiohttp": {"server"},
    "jwt": {"server"},
    "asyncio": {"server", "cli"},  # cli only to run the server
    "sqlite3": {"store", "server"},
    "click": {"cli"},
    "rich": {"cli"},
    "prometheus_client": {"fuse"},
    "platformdirs": {"support"},
    "dotenv": {"support"},
    "fsspec": {"fsspec"},
    "trio": {"api", "store", "vfs", "fuse", "transfer", "fsspec", "cli"},
}
NOT_IN_CORE = {
    "os",
    "time",
    "io",
    "pathlib",
    "socket",
    "threading",
    "subprocess",
    "tempfile",
    "shutil",
    "logging",
}
# `open` and `os.open` reach files of ours only through store/; the others have files of their own.
MAY_OPEN = {"store", "server", "support", "cli", "holder", "fuse", "transfer", "fsspec"}


def part_of(module: str) -> str:
    """The part a dotted name below ``vfsmount`` belongs to."""
    first = [*module.split("."), "__init__"][1]
    return PART_OF.get(first, first)


def imported(tree: ast.AST) -> Iterator[str]:
    """Dotted names of everything imported anywhere in a module, also inside functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                yield "." * node.level
            elif node.module == "vfsmount":
                yield from (
                    "vfsmount" if alias.name == "__version__" else f"vfsmount.{alias.name}"
                    for alias in node.names
                )
            else:
                yield node.module or ""


def wrong_import(part: str, name: str) -> str:
    """Why `part` may not import `name`; empty where it may."""
    if name.startswith("."):
        return "a relative import; write the whole name"
    top = name.split(".")[0]
    if top == "vfsmount":
        target = part_of(name)
        return "" if target in MAY_IMPORT[part] else f"{part} may not import {target} ({name})"
    if top in ONLY_IN and part not in ONLY_IN[top]:
        return f"{top} belongs to {', '.join(sorted(ONLY_IN[top]))} only"
    return f"core does no I/O and imports no {top}" if part == "core" and top in NOT_IN_CORE else ""


def wrong_calls(part: str, tree: ast.AST) -> Iterator[str]:
    """Files opened where they may not be, and coroutines in the core."""
    for node in ast.walk(tree):
        if part == "core" and isinstance(node, ast.AsyncFunctionDef):
            yield f"{node.name} is async, and the core is plain def"
        if part not in MAY_OPEN and isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if called in ("open", "os.open", "io.open"):
                yield f"{part} may not call {called}"


def complaints(module: str, source: str) -> list[str]:
    """Everything about a module that points the wrong way."""
    tree = ast.parse(source)
    part = part_of(module)
    assert part in MAY_IMPORT, f"{module} belongs to no part: add it to PART_OF"
    return [why for name in imported(tree) if (why := wrong_import(part, name))] + list(
        wrong_calls(part, tree)
    )


def modules() -> dict[str, Path]:
    """Dotted name → file of every module of the package."""
    return {
        ".".join(("vfsmount", *path.relative_to(PACKAGE).with_suffix("").parts)): path
        for path in sorted(PACKAGE.rglob("*.py"))
    }


@pytest.mark.parametrize("module", modules())
def test_module_imports_only_what_its_layer_may(module: str) -> None:
    assert complaints(module, modules()[module].read_text()) == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("vfsmount.core.inodes", "import trio"),
        ("vfsmount.core.inodes", "import os.path"),
        ("vfsmount.core.inodes", "from time import monotonic"),
        ("vfsmount.core.inodes", "from vfsmount import log"),
        ("vfsmount.core.inodes", "from vfsmount.config import ApiSettings"),
        ("vfsmount.core.inodes", "def f():\n    import httpx"),
        ("vfsmount.core.inodes", "async def f(): ..."),
        ("vfsmount.core.inodes", "open('x')"),
        ("vfsmount.api.client", "from vfsmount.store import staging"),
        ("vfsmount.api.client", "from vfsmount.vfs.filesystem import Filesystem"),
        ("vfsmount.api.client", "import os\nos.open('x', 0)"),
        ("vfsmount.store.staging", "from vfsmount.api.client import Client"),
        ("vfsmount.store.staging", "from vfsmount import api"),
        ("vfsmount.vfs.filesystem", "import pyfuse3"),
        ("vfsmount.vfs.filesystem", "import vfsmount.fuse.ops"),
        ("vfsmount.vfs.filesystem", "from httpx import Response"),
        ("vfsmount.vfs.filesystem", "import sqlite3"),
        ("vfsmount.fuse.ops", "import vfsmount.cli"),
        ("vfsmount.fuse.ops", "from vfsmount.server.settings import Settings"),
        ("vfsmount.cli.login", "import httpx"),
        ("vfsmount.cli.mount", "import pyfuse3"),
        ("vfsmount.server.app", "from vfsmount.api.auth import sign"),
        ("vfsmount.server.app", "from vfsmount import config"),
        ("vfsmount.server.app", "import trio"),
        ("vfsmount.config", "from vfsmount.api import client"),
        ("vfsmount.values", "import vfsmount.log"),
        ("vfsmount.errors", "import pyfuse3"),
        ("vfsmount.api.client", "from . import auth"),
    ],
)
def test_wrong_arrow_is_found(module: str, source: str) -> None:
    assert len(complaints(module, source)) == 1


def test_right_arrows_are_not_complained_about() -> None:
    source = "from vfsmount import __version__, log\nimport vfsmount.core.inodes\nimport httpx, trio, os"
    assert complaints("vfsmount.api.client", source) == []
