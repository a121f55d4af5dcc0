"""The servers that the contract tests run against: one set of tests, three servers."""

from __future__ import annotations

import itertools
import os
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.embedded import Embedded
from tests.support.live import DIRECTORY, live_environment, settings_of
from vfsmount.api.client import Client
from vfsmount.api.dialect import Dialect
from vfsmount.api.transfer import Transfers
from vfsmount.config import ApiSettings
from vfsmount.errors import VfsError
from vfsmount.values import Folder

_numbers = itertools.count()


@dataclass(frozen=True)
class Server:
    """One server under test.

    Attributes:
        embedded: the embedded server, whose faults can be ordered; None for the real one.
    """

    dialect: Dialect
    embedded: Embedded | None

    def environment(self, user: str) -> Mapping[str, str]:
        """The variables of ``owner``, ``friend`` or ``admin``."""
        if self.embedded is not None:
            return self.embedded.env(user)
        try:
            return live_environment(user)
        except FileNotFoundError:
            pytest.skip(f"the real server has no env-{user}.sh")

    def settings(self, user: str) -> ApiSettings:
        """How to reach it as this user."""
        return settings_of(self.environment(user))

    def disk(self, folder: Folder) -> Path:
        """Where the folder's files lie on the server's own disk."""
        if self.embedded is not None:
            return self.embedded.folder_dir(folder.id)
        root = Path(os.environ[DIRECTORY]) / "vfroot"
        i = folder.id
        for found in root.glob(f"*/*/{i[:2]}/{i[2:4]}/{i[4:]}"):
            return found
        pytest.skip(f"the real server's volume is not below {root}")


@pytest.fixture(scope="session")
def embedded_23(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Embedded]:
    with Embedded(tmp_path_factory.mktemp("embedded-23"), dialect="23.09") as server:
        yield server


@pytest.fixture(scope="session")
def embedded_26(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Embedded]:
    with Embedded(tmp_path_factory.mktemp("embedded-26"), dialect="26") as server:
        yield server


@pytest.fixture(params=["embedded-23.09", "embedded-26", pytest.param("live", marks=pytest.mark.live)])
def server(request: pytest.FixtureRequest) -> Server:
    """Each of the servers in turn."""
    if request.param == "live":
        return Server(Dialect.V23, None)
    fixture = "embedded_23" if request.param == "embedded-23.09" else "embedded_26"
    embedded: Embedded = request.getfixturevalue(fixture)
    embedded.clear_faults()
    return Server(Dialect.V23 if fixture == "embedded_23" else Dialect.V26, embedded)


@pytest.fixture
async def client(server: Server) -> AsyncIterator[Client]:
    """The owner, connected."""
    async with Client(server.settings("owner")) as c:
        await c.connect()
        yield c


@pytest.fixture
async def friend(server: Server) -> AsyncIterator[Client]:
    """Another user, connected."""
    async with Client(server.settings("friend")) as c:
        await c.connect()
        yield c


@pytest.fixture
def new_name() -> str:
    """A folder name nobody else uses."""
    return f"contract-{os.getpid()}-{next(_numbers)}"


@pytest.fixture
async def folder(client: Client, new_name: str) -> AsyncIterator[Folder]:
    """A fresh folder of the owner's."""
    made = await client.create_folder(new_name)
    yield made
    await drop_folder(client, made)


@pytest.fixture
def transfers(client: Client) -> Transfers:
    return Transfers(client)


async def drop_folder(client: Client, folder: Folder) -> None:
    """Remove a folder for good, whatever a test did to it."""
    try:
        await client.delete_folder(folder)
        if client.traits.has_trash:
            await client.delete_from_trash(folder)
    except VfsError:
        pass  # the test has removed it itself


async def put(transfers: Transfers, folder: Folder, path: str, data: bytes = b"content") -> None:
    """Upload some bytes."""

    async def read(offset: int, length: int) -> bytes:
        return data[offset : offset + length]

    await transfers.upload(folder, path, len(data), read)
