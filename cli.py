#!/usr/bin/env python3
"""Run vfsmount from a checkout: ``python cli.py ~/vfolders``."""

from vfsmount.__main__ import main

if __name__ == "__main__":
    raise SystemExit(main())
