"""Paths on their way to the server: checked, normalised, percent-encoded.

Everything that could leave a folder, name its root by accident or never come back is refused here,
before a byte is sent: `..` escapes on 23.09 and in uploads of both generations, a path that
normalises to the root destroys the folder when deleted (contract 4.2, 4.3, trap 6).
"""

from __future__ import annotations

from urllib.parse import quote

from vfsmount.errors import InvalidName, InvalidRequest, NameTooLong
from vfsmount.values import NAME_MAX

# aiohttp's limit of a request line; "GET ", " HTTP/1.1" and CRLF are counted generously.
TARGET_MAX = 8190 - 32


def relative(path: str) -> str:
    """The path without empty and ``.`` components; "" is the folder's root.

    Raises:
        InvalidName: not UTF-8, NUL, or a ``..`` component.
        NameTooLong: a component over 255 bytes.
    """
    parts = [part for part in path.split("/") if part not in ("", ".")]
    for part in parts:
        _check_component(part)
    return "/".join(parts)


def below_root(path: str) -> str:
    """As `relative`, but the root itself is refused.

    Raises:
        InvalidRequest: the path normalises to the folder's root.
    """
    rel = relative(path)
    if not rel:
        raise InvalidRequest("this needs a path below the folder's root")
    return rel


def creatable(path: str) -> str:
    """As `below_root`, for a name that is to come into being.

    Raises:
        InvalidName: also for CR and LF, which the server would store but never give back (trap 17).
    """
    rel = below_root(path)
    if "\r" in rel or "\n" in rel:
        raise InvalidName("a name with a line break could be uploaded but never downloaded")
    return rel


def downloadable(path: str) -> str:
    """As `below_root`, for a file whose content is wanted (same reason as `creatable`)."""
    return creatable(path)


def bare_name(name: str) -> str:
    """A single new name, as ``rename-file`` wants it."""
    rel = creatable(name)
    if "/" in name or rel != name:
        raise InvalidName("a new name must be one component")
    return name


def split(rel: str) -> tuple[str, str]:
    """(parent, name) of a normalised path."""
    parent, _, name = rel.rpartition("/")
    return parent, name


def encode(text: str) -> str:
    """Percent-encode everything but unreserved characters.

    httpx leaves such text alone, so that what is signed is what is sent.
    """
    return quote(text, safe="")


def query(pairs: dict[str, str]) -> str:
    """``?a=b&c=d`` or nothing; ``/`` stays readable and costs a third of its encoded length."""
    if not pairs:
        return ""
    return "?" + "&".join(f"{encode(k)}={quote(v, safe='/')}" for k, v in pairs.items())


# Every word of the paths that we ask for and that is no name.
_WORDS = (
    "_ accept admin all-hosts allowed-types auth background-task bootstrap-script change-ownership "
    "clone compute-session container-logs delete delete-files delete-files-async "
    "delete-from-trash-bin domain-config dotfiles events files folders force gql graphql "
    "group-config hosts id invitations invite kernel leave list list-sent login login-check logout "
    "logs mkdir mounts move-file purge quota rename rename-file request-download "
    "request-download-archive request-upload restore-from-trash-bin server session share shared "
    "sharing stream unshare update update-options usage used-bytes user-config"
)
_KNOWN = frozenset(_WORDS.split())
_DEPTH = 4


def endpoint(target: str) -> str:
    """The path of a request without names, query and what is far below: for logs and counters, which are
    for everybody's eyes."""
    before = ""
    words = []
    for word in target.partition("?")[0].strip("/").split("/")[:_DEPTH]:
        hidden = "{vf}" if before == "folders" else "{name}"
        words.append(word if not word or word in _KNOWN else hidden)
        before = word
    return "/" + "/".join(words)


def _check_component(part: str) -> None:
    if part == ".." or "\0" in part:
        raise InvalidName("'..' and NUL cannot be part of a path on the server")
    try:
        size = len(part.encode())
    except UnicodeEncodeError as e:
        raise InvalidName("the server stores only names that are UTF-8") from e
    if size > NAME_MAX:
        raise NameTooLong(f"a name of {size} bytes, {NAME_MAX} is the most")
