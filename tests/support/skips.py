"""Skipping what is not meant, as opposed to what cannot run."""

from __future__ import annotations

import pytest


class NotMeant(pytest.skip.Exception):
    """A combination of parameters that nobody wants to be run; no machine lacks anything for it."""
