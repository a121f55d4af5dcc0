"""Manager calls on files inside a folder: listing, changes, and leave to transfer.

Source: contract 3.5, 3.6, 5; Backend.AI manager ``api/vfolder.py``.
"""

from __future__ import annotations

import json
import math
import secrets
import stat
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import PurePosixPath
from typing import Any

import msgspec
from aiohttp import web

from vfsmount.server import params
from vfsmount.server.params import Field
from vfsmount.server.problems import Problem, no_such
from vfsmount.server.settings import VOLUME
from vfsmount.server.state import Call, Route
from vfsmount.server.uploads import OFFSET_LIFE_S
from vfsmount.server.volume import Entry, FolderGone, OutsideFolder


async def list_files(call: Call) -> web.Response:
    """One directory, all at once, cut at the scandir limit without a word."""
    items = await _on_volume(call, call.server.volume.listing, call.params["path"])
    mode = lru_cache(call.dialect.mode)  # few different ones
    reply: dict[str, Any] = {"items": [_item(entry, mode) for entry in items]}
    if call.dialect.strict:
        reply["files"] = _json([_legacy_item(entry) for entry in items]).decode()
    elif _has_surrogates(items):
        raise Problem("internal-server-error")
    return web.Response(body=_json(reply), content_type="application/json", charset="utf-8")


def _json(value: object) -> bytes:
    """As json.dumps writes it but for white space, ten times faster for what is all ASCII."""
    with suppress(UnicodeEncodeError):
        quick = msgspec.json.encode(value)
        if quick.isascii():
            return quick
    return json.dumps(msgspec.to_builtins(value)).encode()


class _Item(msgspec.Struct, gc=False):
    """One entry as both dialects send it. A Struct, because there may be 100,000 of them at a time."""

    name: str
    type: str
    size: int
    mode: str | int
    created: str
    modified: str


def _item(entry: Entry, mode: Callable[[int], str | int]) -> _Item:
    created = _iso(entry.created)
    modified = created if entry.modified == entry.created else _iso(entry.modified)
    return _Item(entry.name, entry.type, entry.size, mode(entry.st_mode), created, modified)


class _LegacyItem(msgspec.Struct, gc=False):
    """One entry of the text ``files`` of 23.09, which its own client parses."""

    filename: str
    size: int
    mode: str
    ctime: float
    atime: int
    mtime: float


def _legacy_item(entry: Entry) -> _LegacyItem:
    mode = _filemode(entry.st_mode)
    return _LegacyItem(entry.name, entry.size, mode, entry.created, 0, entry.modified)


_filemode = lru_cache(stat.filemode)


def _iso(seconds: float) -> str:
    """A time as the real server has it: from a float, in microseconds, without a fraction of zero."""
    whole = math.floor(seconds)
    micro = round((seconds - whole) * 1e6)
    if micro == 1_000_000:
        whole, micro = whole + 1, 0
    return f"{_second(whole)}.{micro:06d}+00:00" if micro else f"{_second(whole)}+00:00"


@lru_cache(4096)  # many files of one directory were made in the same second
def _second(whole: int) -> str:
    return datetime.fromtimestamp(whole, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def _has_surrogates(items: list[Entry]) -> bool:
    try:
        "".join(entry.name for entry in items).encode()
    except UnicodeEncodeError:
        return True
    return False


async def mkdir(call: Call) -> web.Response:
    """Make a directory; several in 26.x, with an outcome for each."""
    options = {"parents": call.params["parents"], "exist_ok": call.params["exist_ok"]}
    paths = call.params["path"]
    if not call.dialect.many_mkdir:
        await _on_volume(call, call.server.volume.mkdir, paths[0], **options)
        return web.Response(status=201)
    outcomes = [(path, await _mkdir_one(call, path, options)) for path in paths]
    failed = [{"msg": msg, "item": path} for path, msg in outcomes if msg]
    if paths and len(failed) == len(paths):
        raise Problem("vfolder-operation-failed", "Unexpected error 422 from storage proxy")
    success = [{"msg": None, "item": path} for path, msg in outcomes if not msg]
    return web.json_response({"results": {"success": success, "failed": failed}})


async def _mkdir_one(call: Call, path: str, options: dict[str, Any]) -> str | None:
    try:
        await call.on_disk(call.server.volume.mkdir, call.folder.id, _relative(path), **options)
    except (OSError, ValueError, OutsideFolder) as e:
        return repr(e)
    return None


async def rename_file(call: Call) -> web.Response:
    """Move to a sibling name, so an existing directory of that name receives the source."""
    await _on_volume(call, call.server.volume.rename, call.params["target_path"], call.params["new_name"])
    return call.dialect.done(200)


async def move_file(call: Call) -> web.Response:
    """`shutil.move` from one path to another."""
    await _on_volume(call, call.server.volume.move, call.params["src"], call.params["dst"])
    return call.dialect.done(200)


async def delete_files(call: Call) -> web.Response:
    """Remove several paths in order."""
    await _delete(call)
    return call.dialect.done(200)


async def delete_files_async(call: Call) -> web.Response:
    """The same in the background (26.x)."""
    task = call.server.background.start(_delete(call))
    return web.json_response({"bgtask_id": task.id}, status=202)


async def _delete(call: Call) -> None:
    await _on_volume(
        call,
        call.server.volume.delete,
        call.params["files"],
        recursive=call.params["recursive"],
        quiet=call.dialect.quiet_delete,
    )


async def request_download(call: Call) -> web.Response:
    """Leave to download; whether the path exists shows later."""
    path = _normal(_relative_or_refuse(call, call.params["path"]))
    token = call.server.tokens.mint(_claims(call, "download") | {"relpath": path})
    return web.json_response({"token": token, "url": f"{call.server.storage_address(call.request)}/download"})


async def request_download_archive(call: Call) -> web.Response:
    """Leave to download several paths as one ZIP (26.x)."""
    claims = {
        "operation": "download",
        "op": "archive",
        "volume": VOLUME,
        "virtual_folder_id": _claims(call, "")["vfid"],
        "files": call.params["files"],
        "filename": call.params["filename"],
    }
    token = call.server.tokens.mint(claims)
    return web.json_response(
        {"token": token, "url": f"{call.server.storage_address(call.request)}/download-archive"}
    )


async def request_upload(call: Call) -> web.Response:
    """An upload session: its staging file exists from now on, visible in the folder's root."""
    path = _normal(_relative_or_refuse(call, call.params["path"]))
    session = secrets.token_hex(16)
    await call.on_disk(_stage, call, session)
    call.records.set_upload_offset(session, 0, time.time() + OFFSET_LIFE_S)
    call.server.calls.upload(path).sessions += 1
    claims = _claims(call, "upload") | {"relpath": path, "size": call.params["size"], "session": session}
    token = call.server.tokens.mint(claims)
    return web.json_response({"token": token, "url": f"{call.server.storage_address(call.request)}/upload"})


def _stage(call: Call, session: str) -> None:
    staging = call.server.volume.folder(call.folder.id) / ".upload"
    try:
        staging.mkdir(exist_ok=True)
        (staging / session).touch()
    except (FileNotFoundError, FileExistsError):
        # A finishing upload removed the empty .upload between our two steps: the race is real.
        raise _crashed(call) from None


def _claims(call: Call, op: str) -> dict[str, Any]:
    vfid = f"{call.folder.quota_scope}/{call.folder.id}"
    return {"op": op, "volume": VOLUME, "vfid": vfid}


def _normal(path: str) -> str:
    return str(PurePosixPath(path))


# --- errors of the volume, as each dialect tells them ------------------------------------------


async def _on_volume(call: Call, work: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    checked = [_relative_or_refuse(call, a) for a in args]
    try:
        return await call.on_disk(work, call.folder.id, *checked, **kwargs)
    except OSError as e:
        raise _os_problem(call, e) from None
    except FolderGone:
        raise no_such("virtual folder") if call.dialect.codes else _crashed(call) from None
    except OutsideFolder:
        raise _bad_request() if call.dialect.codes else _crashed(call) from None
    except (ValueError, IndexError, RuntimeError):  # NUL, no name, nothing to delete, a symlink loop
        raise _crashed(call) from None


def _os_problem(call: Call, error: OSError) -> Problem:
    if not call.dialect.errno:
        return _bad_request()
    names = [n for n in (error.filename, error.filename2) if isinstance(n, str)]
    paths = [call.server.volume.relative(call.folder.id, n) for n in names]
    return Problem("invalid-api-params", error.strerror or str(error), {"errno": error.errno, "paths": paths})


def _bad_request() -> Problem:
    title = "Virtual folder operation has failed due to bad request."
    return Problem("vfolder-operation-failed", "Bad request to storage proxy", title=title)


def _crashed(call: Call) -> Problem:
    # The storage-proxy died on the request and said so in plain text.
    if call.dialect.codes:
        return Problem("forwarded-error")
    return Problem(
        "vfolder-operation-failed", "Storage proxy responded with 500 Internal Server Error", status=400
    )


def _relative(path: str) -> str:
    if path.startswith("/"):
        raise OutsideFolder(path)
    return path


def _relative_or_refuse(call: Call, value: Any) -> Any:
    """`value` unless it is, or has among it, an absolute path."""
    values = value if isinstance(value, list) else [value]
    if not any(v.startswith("/") for v in values):
        return value
    if call.dialect.codes:
        raise _bad_request()
    refusal = {
        "type": "https://api.backend.ai/probs/storage/invalid-api-params",
        "title": "Invalid API parameters",
        "data": {"relpath": "expected relative path but the value is absolute"},
    }
    raise Problem("invalid-api-params", data=refusal)


_DELETE = (Field("files", params.texts), Field("recursive", params.boolean, False))
_DOWNLOAD = (Field("path", params.text, aliases=("file",)), Field("archive", params.boolean, False))
_RENAME = (
    Field("target_path", params.text),
    Field("new_name", params.text),
    Field("is_dir", params.boolean, False),
)

ROUTES = (
    Route(
        "GET",
        "/folders/{vf}/files",
        list_files,
        (Field("path", params.any_text, ""),),
        need="READ",
        status="readable",
    ),
    Route(
        "POST",
        "/folders/{vf}/mkdir",
        mkdir,
        (
            Field("path", params.text_or_texts),
            Field("parents", params.boolean, True),
            Field("exist_ok", params.boolean, False),
        ),
        need="CREATE",
        frozen="new",
    ),
    *(
        Route("POST", f"/folders/{{vf}}/{name}", rename_file, _RENAME, need="UPDATE", frozen="new")
        for name in ("rename-file", "rename_file")
    ),
    Route(
        "POST",
        "/folders/{vf}/move-file",
        move_file,
        (Field("src", params.text), Field("dst", params.text)),
        need="UPDATE",
        frozen="new",
    ),
    *(
        Route("DELETE", f"/folders/{{vf}}/{name}", delete_files, _DELETE, need="UPDATE", frozen="new")
        for name in ("delete-files", "delete_files")
    ),
    Route(
        "POST", "/folders/{vf}/delete-files", delete_files, _DELETE, need="UPDATE", frozen="new", only="26"
    ),
    Route(
        "POST",
        "/folders/{vf}/delete-files-async",
        delete_files_async,
        _DELETE,
        need="UPDATE",
        frozen="new",
        only="26",
    ),
    Route(
        "POST",
        "/folders/{vf}/request-upload",
        request_upload,
        (Field("path", params.text), Field("size", params.integer)),
        need="CREATE",
        frozen="new",
    ),
    # The old manager lets nobody download from a folder that is busy.
    Route(
        "POST",
        "/folders/{vf}/request-download",
        request_download,
        _DOWNLOAD,
        need="READ",
        status="updatable",
        only="23.09",
    ),
    Route(
        "POST",
        "/folders/{vf}/request-download",
        request_download,
        _DOWNLOAD,
        need="READ",
        status="readable",
        only="26",
    ),
    Route(
        "POST",
        "/folders/{vf}/request-download-archive",
        request_download_archive,
        (Field("files", params.texts), Field("filename", params.optional(params.text), None)),
        need="READ",
        status="readable",
        only="26",
    ),
)
