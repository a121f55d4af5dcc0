"""``python -m vfsmount``: the same command as the console script."""

from vfsmount.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
