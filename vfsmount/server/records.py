"""Users, folders, grants, invitations and dotfiles: the rows of ``DIR/server.sqlite``.

One connection, used from the event loop's thread only; every statement is its own transaction
unless it stands inside `transaction`. Ids are 32 hex digits everywhere.
"""

from __future__ import annotations

import secrets
import sqlite3
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from vfsmount.server.settings import HOST, PROJECT

_SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS users (
    id TEXT PRIMARY KEY, name TEXT UNIQUE NOT NULL, email TEXT UNIQUE NOT NULL,
    access_key TEXT UNIQUE NOT NULL, secret_key TEXT NOT NULL, password TEXT NOT NULL,
    role TEXT NOT NULL, personal_project TEXT NOT NULL, bootstrap_script TEXT NOT NULL DEFAULT '');
CREATE TABLE IF NOT EXISTS projects (id TEXT PRIMARY KEY, name TEXT UNIQUE NOT NULL);
CREATE TABLE IF NOT EXISTS members (
    project TEXT NOT NULL REFERENCES projects(id), user TEXT NOT NULL REFERENCES users(id),
    PRIMARY KEY (project, user));
CREATE TABLE IF NOT EXISTS folders (
    id TEXT PRIMARY KEY, name TEXT NOT NULL, host TEXT NOT NULL, usage_mode TEXT NOT NULL,
    permission TEXT NOT NULL, user TEXT, project TEXT, creator TEXT NOT NULL,
    cloneable INTEGER NOT NULL, status TEXT NOT NULL, created_at TEXT NOT NULL,
    unmanaged_path TEXT NOT NULL DEFAULT '', max_size INTEGER);
CREATE INDEX IF NOT EXISTS folders_by_name ON folders (name);
CREATE TABLE IF NOT EXISTS grants (
    folder TEXT NOT NULL REFERENCES folders(id) ON DELETE CASCADE,
    user TEXT NOT NULL REFERENCES users(id), permission TEXT NOT NULL, PRIMARY KEY (folder, user));
CREATE TABLE IF NOT EXISTS invitations (
    id TEXT PRIMARY KEY, folder TEXT NOT NULL REFERENCES folders(id) ON DELETE CASCADE,
    inviter TEXT NOT NULL, invitee TEXT NOT NULL, permission TEXT NOT NULL, state TEXT NOT NULL,
    created_at TEXT NOT NULL, modified_at TEXT);
CREATE TABLE IF NOT EXISTS dotfiles (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, scope TEXT NOT NULL, owner TEXT NOT NULL,
    path TEXT NOT NULL, permission TEXT NOT NULL, data TEXT NOT NULL, UNIQUE (scope, owner, path));
CREATE TABLE IF NOT EXISTS uploads (session TEXT PRIMARY KEY, upload_offset INTEGER NOT NULL, until REAL);
CREATE TABLE IF NOT EXISTS logins (cookie TEXT PRIMARY KEY, user TEXT NOT NULL, until REAL NOT NULL);
"""

# name, role; the e-mail is <name>@example.org
_FIRST_USERS = (("owner", "user"), ("friend", "user"), ("admin", "superadmin"))


def dashed(hex_id: str) -> str:
    """The same id with dashes, as most places of the API print it."""
    return str(uuid.UUID(hex_id))


def now_text() -> str:
    """This moment as the manager prints times: a space, microseconds, offset."""
    return str(datetime.now(UTC))


@dataclass(frozen=True, slots=True)
class User:
    """One account with its one key pair."""

    id: str
    name: str
    email: str
    access_key: str
    secret_key: str = field(repr=False)
    password: str = field(repr=False)
    role: str
    personal_project: str
    bootstrap_script: str = ""

    @property
    def is_superadmin(self) -> bool:
        """Our only admins are superadmins."""
        return self.role == "superadmin"


@dataclass(frozen=True, slots=True)
class FolderRecord:
    """One vfolder. Exactly one of `user` and `project` is set."""

    id: str
    name: str
    host: str
    usage_mode: str
    permission: str
    user: str | None
    project: str | None
    creator: str
    cloneable: int
    status: str
    created_at: str
    unmanaged_path: str = ""
    max_size: int | None = None

    @property
    def ownership(self) -> str:
        """``user`` or ``group``."""
        return "user" if self.user else "group"

    @property
    def quota_scope(self) -> str:
        """``user:<uuid>`` or ``project:<uuid>``."""
        return f"user:{dashed(self.user)}" if self.user else f"project:{dashed(self.project or '')}"


@dataclass(frozen=True, slots=True)
class Invitation:
    """An offer to share a user's folder with an e-mail address."""

    id: str
    folder: str
    inviter: str
    invitee: str
    permission: str
    state: str
    created_at: str
    modified_at: str | None


@dataclass(frozen=True, slots=True)
class Dotfile:
    """One dotfile of a scope (``user``, ``group`` or ``domain``)."""

    path: str
    permission: str
    data: str


class Records:
    """All rows of one data directory; makes the database and its first users when missing."""

    def __init__(self, path: Path) -> None:
        self._db = sqlite3.connect(path, isolation_level=None)
        self._db.row_factory = sqlite3.Row
        path.chmod(0o600)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=NORMAL")
        self._db.execute("PRAGMA foreign_keys=ON")
        self._db.executescript(_SCHEMA)
        if not self.users():
            self._found()
        self.token_secret: str = self._one("SELECT value FROM meta WHERE name='token_secret'")["value"]
        self.project_id: str = self._one("SELECT id FROM projects WHERE name=?", PROJECT)["id"]

    def close(self) -> None:
        """Give the database back; nothing works afterwards."""
        self._db.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All statements inside, or none."""
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    def _found(self) -> None:
        # Keys are random, made once: a data directory that is copied or shown to somebody
        # must not open every other embedded server.
        with self.transaction():
            self._run("INSERT INTO meta VALUES ('token_secret', ?)", secrets.token_urlsafe(32))
            project = uuid.uuid4().hex
            self._run("INSERT INTO projects VALUES (?, ?)", project, PROJECT)
            for name, role in _FIRST_USERS:
                user = self._add_user(name, role)
                self._run("INSERT INTO members VALUES (?, ?)", project, user)

    def _add_user(self, name: str, role: str) -> str:
        user = uuid.uuid4().hex
        self._run(
            "INSERT INTO users (id, name, email, access_key, secret_key, password, role, personal_project)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            user,
            name,
            f"{name}@example.org",
            "AKIA" + secrets.token_hex(8).upper(),
            secrets.token_urlsafe(30),
            secrets.token_urlsafe(12),
            role,
            uuid.uuid4().hex,
        )
        return user

    def _run(self, sql: str, *args: Any) -> sqlite3.Cursor:
        return self._db.execute(sql, args)

    def _one(self, sql: str, *args: Any) -> sqlite3.Row:
        row = self._run(sql, *args).fetchone()
        assert isinstance(row, sqlite3.Row)
        return row

    # --- users and projects --------------------------------------------------------------------

    def users(self) -> list[User]:
        """Every account, in the order they were made."""
        return [User(**row) for row in self._run("SELECT * FROM users ORDER BY rowid")]

    def user_by(self, column: str, value: str) -> User | None:
        """The account whose `column` (id, name, email, access_key) is `value`."""
        assert column in ("id", "name", "email", "access_key")
        row = self._run(f"SELECT * FROM users WHERE {column} = ?", value).fetchone()  # noqa: S608
        return User(**row) if row else None

    def set_bootstrap_script(self, user: str, script: str) -> None:
        """Keep the script that the user's sessions start with."""
        self._run("UPDATE users SET bootstrap_script = ? WHERE id = ?", script, user)

    def project(self, name_or_id: str) -> tuple[str, str] | None:
        """(id, name) of a project."""
        row = self._run("SELECT id, name FROM projects WHERE ? IN (id, name)", name_or_id).fetchone()
        return (row["id"], row["name"]) if row else None

    def projects_of(self, user: str) -> set[str]:
        """Ids of the projects the user is a member of."""
        return {r["project"] for r in self._run("SELECT project FROM members WHERE user = ?", user)}

    # --- folders -------------------------------------------------------------------------------

    def add_folder(self, folder: FolderRecord) -> None:
        """Keep a new folder."""
        self._run(
            "INSERT INTO folders VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            folder.id,
            folder.name,
            folder.host,
            folder.usage_mode,
            folder.permission,
            folder.user,
            folder.project,
            folder.creator,
            folder.cloneable,
            folder.status,
            folder.created_at,
            folder.unmanaged_path,
            folder.max_size,
        )

    def folder(self, folder_id: str) -> FolderRecord | None:
        """One folder, whoever owns it."""
        row = self._run("SELECT * FROM folders WHERE id = ?", folder_id).fetchone()
        return FolderRecord(**row) if row else None

    def folders(self) -> list[FolderRecord]:
        """Every folder in the order they were made: the order of the real database, too."""
        return [FolderRecord(**row) for row in self._run("SELECT * FROM folders ORDER BY rowid")]

    def update_folder(self, folder_id: str, **columns: Any) -> None:
        """Change some columns of a folder."""
        assert columns.keys() <= {"name", "permission", "cloneable", "status", "user", "creator"}
        sets = ", ".join(f"{name} = ?" for name in columns)
        self._run(f"UPDATE folders SET {sets} WHERE id = ?", *columns.values(), folder_id)  # noqa: S608

    def drop_folder(self, folder_id: str) -> None:
        """Forget a folder with its grants and invitations."""
        self._run("DELETE FROM folders WHERE id = ?", folder_id)

    # --- grants --------------------------------------------------------------------------------

    def grants(self, *, folder: str | None = None, user: str | None = None) -> list[sqlite3.Row]:
        """Rows (folder, user, permission), filtered."""
        return self._run(
            "SELECT * FROM grants WHERE coalesce(?, folder) = folder AND coalesce(?, user) = user"
            " ORDER BY rowid",
            folder,
            user,
        ).fetchall()

    def grant(self, folder: str, user: str, permission: str) -> None:
        """Give or change a permission."""
        self._run("INSERT OR REPLACE INTO grants VALUES (?, ?, ?)", folder, user, permission)

    def revoke(self, folder: str, user: str) -> None:
        """Take a permission back; missing is fine."""
        self._run("DELETE FROM grants WHERE folder = ? AND user = ?", folder, user)

    # --- invitations ---------------------------------------------------------------------------

    def add_invitation(self, folder: str, inviter: str, invitee: str, permission: str) -> None:
        """Keep a new pending invitation."""
        self._run(
            "INSERT INTO invitations VALUES (?, ?, ?, ?, ?, 'pending', ?, NULL)",
            uuid.uuid4().hex,
            folder,
            inviter,
            invitee,
            permission,
            now_text(),
        )

    def invitations(self) -> list[Invitation]:
        """The pending ones."""
        rows = self._run("SELECT * FROM invitations WHERE state = 'pending' ORDER BY rowid")
        return [Invitation(**row) for row in rows]

    def update_invitation(self, invitation: str, **columns: str) -> None:
        """Change the state or the permission of an invitation."""
        assert columns.keys() <= {"state", "permission"}
        sets = ", ".join(f"{name} = ?" for name in columns)
        self._run(
            f"UPDATE invitations SET {sets}, modified_at = ? WHERE id = ?",  # noqa: S608
            *columns.values(),
            now_text(),
            invitation,
        )

    # --- dotfiles ------------------------------------------------------------------------------

    def dotfiles(self, scope: str, owner: str) -> list[Dotfile]:
        """All dotfiles of one scope and owner, oldest first; a changed one counts as new."""
        return [
            Dotfile(row["path"], row["permission"], row["data"])
            for row in self._run(
                "SELECT * FROM dotfiles WHERE scope = ? AND owner = ? ORDER BY seq", scope, owner
            )
        ]

    def put_dotfile(self, scope: str, owner: str, dotfile: Dotfile) -> None:
        """Add or replace one dotfile."""
        self._run(
            "INSERT OR REPLACE INTO dotfiles (scope, owner, path, permission, data) VALUES (?, ?, ?, ?, ?)",
            scope,
            owner,
            dotfile.path,
            dotfile.permission,
            dotfile.data,
        )

    def drop_dotfile(self, scope: str, owner: str, path: str) -> None:
        """Forget one dotfile."""
        self._run("DELETE FROM dotfiles WHERE scope = ? AND owner = ? AND path = ?", scope, owner, path)

    # --- uploads (26.x) and logins -------------------------------------------------------------

    def upload_offset(self, session: str, now: float) -> int | None:
        """Bytes committed to an upload session; None when unknown or expired."""
        row = self._run("SELECT * FROM uploads WHERE session = ? AND until > ?", session, now).fetchone()
        return int(row["upload_offset"]) if row else None

    def set_upload_offset(self, session: str, offset: int, until: float) -> None:
        """Commit an offset and keep the session until then (seconds since the epoch)."""
        self._run("INSERT OR REPLACE INTO uploads VALUES (?, ?, ?)", session, offset, until)

    def drop_upload(self, session: str) -> None:
        """Forget a finished session."""
        self._run("DELETE FROM uploads WHERE session = ?", session)

    def add_login(self, cookie: str, user: str, until: float) -> None:
        """Keep a session-mode login."""
        self._run("INSERT INTO logins VALUES (?, ?, ?)", cookie, user, until)

    def login(self, cookie: str, now: float) -> User | None:
        """Whose valid cookie this is."""
        row = self._run("SELECT user FROM logins WHERE cookie = ? AND until > ?", cookie, now).fetchone()
        return self.user_by("id", row["user"]) if row else None

    def drop_login(self, cookie: str) -> None:
        """Log out."""
        self._run("DELETE FROM logins WHERE cookie = ?", cookie)


def new_folder(
    name: str, creator: User, *, project: str | None = None, permission: str = "rw", **more: Any
) -> FolderRecord:
    """A ready folder of `creator`, or of `project`, that is not kept yet."""
    return FolderRecord(
        id=uuid.uuid4().hex,
        name=name,
        host=more.get("host") or HOST,
        usage_mode=more.get("usage_mode") or "general",
        permission=permission,
        user=None if project else creator.id,
        project=project,
        creator=creator.email,
        cloneable=int(bool(more.get("cloneable"))),
        status="ready",
        created_at=now_text(),
        unmanaged_path=more.get("unmanaged_path") or "",
        max_size=more.get("max_size"),
    )
