"""``python -m vfsmount``, the console script and cli.py: `cli.main`, and a short way for ``health``."""

from __future__ import annotations

import sys


def main(argv: list[str] | None = None) -> int:
    """Run one command; return its exit status (docs/exit-codes.md)."""
    words = sys.argv[1:] if argv is None else argv
    if words[:1] == ["health"]:
        # A probe asks every few seconds, and to load the other commands takes longer than to answer.
        from vfsmount.health import quick

        status = quick(words[1:])
        if status is not None:
            return status
    from vfsmount.cli import main as run

    return run(argv)


if __name__ == "__main__":
    raise SystemExit(main())
