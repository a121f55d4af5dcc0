"""JSON from the wire, including what JSON libraries refuse."""

from __future__ import annotations

import json

import msgspec


def loads(body: bytes) -> object:
    """Decode a JSON body.

    23.09 writes names that are not UTF-8 as lone surrogates (``"\\udcff"``), which msgspec rightly
    refuses and the standard library keeps; so the slower one is the second try.

    Raises:
        ValueError: not JSON.
    """
    try:
        try:
            return msgspec.json.decode(body)
        except msgspec.DecodeError:
            return json.loads(body)
    except RecursionError as e:
        raise ValueError("nested too deeply") from e
