"""Reads a directory's archive while it arrives: a streamed ZIP of small files, of which some are wanted.

The server writes such an archive without knowing how long its entries are: sizes and check sums follow
each of them, and only the inflater tells where one ends. What does not look exactly like that is no
archive for us: whoever asked fetches the files one by one.

Source: contract 4.5; APPNOTE.TXT 6.3 "data descriptor".
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Mapping

from vfsmount.errors import ProtocolError
from vfsmount.values import NAME_MAX

_HEADER = struct.Struct("<4s5H3I2H")
_DESCRIPTOR = struct.Struct("<4s3I")
_END = struct.Struct("<4s4H2IH")
_SIGNATURE = 4
_DEFLATED = 8
_SIZES_FOLLOW, _UTF8 = 1 << 3, 1 << 11
_KNOWN_FLAGS = _SIZES_FOLLOW | _UTF8 | 0b110  # the last two say how well it was packed
_PIECE = 4 << 10  # given to the inflater at a time: it copies what it does not need
_MOST_AT_ONCE = 64 << 10  # that it may give back for it


class Unzipper:
    """Takes an archive in pieces of any length.

    Attributes:
        files: by name, what was wanted, whole and with the right check sum. Names that came twice are
            left out.
    """

    def __init__(self, wanted: Mapping[bytes, int], most: int) -> None:
        """Args:
        wanted: names with the sizes that they must have; all others are skipped.
        most: bytes that the archive may have, packed and unpacked.
        """
        self.files: dict[bytes, bytes] = {}
        self._wanted = wanted
        self._seen: set[bytes] = set()
        self._left = {"packed": most, "unpacked": most}
        self._buffer = bytearray()
        self._at = 0
        self._step: Callable[[], bool] = self._begin
        self._entries = 0
        self._last = b""

    def feed(self, data: bytes | bytearray | memoryview) -> None:
        """The next bytes of the archive; not kept.

        Raises:
            ProtocolError: it is not what it should be, or too long.
        """
        self._spend("packed", len(data))
        self._buffer += data
        while self._step():
            pass
        del self._buffer[: self._at]
        self._at = 0

    def end(self) -> None:
        """Nothing more comes.

        Raises:
            ProtocolError: it was cut.
        """
        if len(self._last) != _END.size:
            raise ProtocolError("an archive that ends too early")
        signature, *_, entries, _, _, comment = _END.unpack(self._last)
        if signature != b"PK\5\6" or entries != self._entries & 0xFFFF or comment:
            raise ProtocolError("an archive without its end")

    def _spend(self, what: str, size: int) -> None:
        self._left[what] -= size
        if self._left[what] < 0:
            raise ProtocolError("an archive of more than was asked for")

    # --- steps: each says whether there may be another one with what is here -----------------------

    def _begin(self) -> bool:
        """An entry, or the directory behind all of them."""
        here = len(self._buffer) - self._at
        if here < _SIGNATURE:
            return False
        signature = bytes(self._buffer[self._at : self._at + _SIGNATURE])
        if signature in (b"PK\1\2", b"PK\5\6"):
            self._step = self._tail
            return True
        if signature != b"PK\3\4":
            raise ProtocolError("no ZIP archive")
        if here < _HEADER.size:
            return False
        _, _, flags, method, *_, name_length, extra = _HEADER.unpack_from(self._buffer, self._at)
        if method != _DEFLATED or not flags & _SIZES_FOLLOW or flags & ~_KNOWN_FLAGS:
            raise ProtocolError("an archive of another kind")
        if here < _HEADER.size + name_length + extra:
            return False
        start = self._at + _HEADER.size
        self._enter(bytes(self._buffer[start : start + name_length]), utf8=bool(flags & _UTF8))
        self._at = start + name_length + extra
        self._step = self._inflate
        return True

    def _enter(self, name: bytes, *, utf8: bool) -> None:
        self._entries += 1
        self._name = name
        # Anything else is in some other character set, or no name of a file.
        is_plain = (utf8 or name.isascii()) and 0 < len(name) <= NAME_MAX and b"/" not in name
        self._data = bytearray() if is_plain and name in self._wanted else None
        if name in self._seen:
            self._data = None
            self.files.pop(name, None)
        elif self._data is not None:
            self._seen.add(name)
        self._inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        self._packed = self._size = self._crc = 0

    def _inflate(self) -> bool:
        piece = bytes(self._buffer[self._at : self._at + _PIECE])
        if not piece:
            return False
        try:
            out = self._inflater.decompress(piece, _MOST_AT_ONCE)
        except zlib.error as e:
            raise ProtocolError("an archive that cannot be unpacked") from e
        used = len(piece) - len(self._inflater.unconsumed_tail) - len(self._inflater.unused_data)
        self._at += used
        self._packed += used
        self._size += len(out)
        self._spend("unpacked", len(out))
        self._crc = zlib.crc32(out, self._crc)
        if self._data is not None:
            if self._size > self._wanted[self._name]:
                self._data = None
            else:
                self._data += out
        if self._inflater.eof:
            self._step = self._describe
        elif not used and not out:
            raise ProtocolError("an archive that cannot be unpacked")
        return True

    def _describe(self) -> bool:
        """Sizes and check sum of the entry that has ended."""
        if len(self._buffer) - self._at < _DESCRIPTOR.size:
            return False
        found = _DESCRIPTOR.unpack_from(self._buffer, self._at)
        if found != (b"PK\7\x08", self._crc, self._packed, self._size):
            raise ProtocolError("an entry of an archive that is not what its check sum says")
        self._at += _DESCRIPTOR.size
        if self._data is not None and self._size == self._wanted[self._name]:
            self.files[self._name] = bytes(self._data)
        self._step = self._begin
        return True

    def _tail(self) -> bool:
        """The directory says again what was there; its last record has to come."""
        self._last = (self._last + self._buffer[self._at :])[-_END.size :]
        self._at = len(self._buffer)
        return False
