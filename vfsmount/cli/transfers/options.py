"""Options that upload, download and sync share."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import click

from vfsmount.cli import show
from vfsmount.cli.options import api_options
from vfsmount.cli.target import state_dir_option


def filter_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--include`` and ``--exclude``, as parameters of these names."""
    exclude = click.option(
        "--exclude",
        metavar="GLOB",
        multiple=True,
        help="Leave out what matches, and what lies below it. Repeatable; docs/transfers.md has the rules.",
    )
    include = click.option(
        "--include",
        metavar="GLOB",
        multiple=True,
        help="Take only files that match. Excludes win. Repeatable.",
    )
    return include(exclude(function))


def trust_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--trust-listings``, as parameter `trust_listings`."""
    return click.option(
        "--trust-listings",
        is_flag=True,
        help="Believe listings of a round number of names, below the usual limit of 1000, to be whole.",
    )(function)


def common_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--verify``, ``--json``, ``--state-dir`` and the settings of the server, as `flags`."""

    @functools.wraps(function)
    def collect(*args: Any, override_storage_proxy: str | None, chunk_size: str | None, **params: Any) -> Any:
        if override_storage_proxy is not None:
            params["flags"] = {**params["flags"], "storage_proxy_map": override_storage_proxy}
        return function(*args, **params)

    decorated: Callable[..., Any] = api_options(collect)
    # As the official client spells them; we choose the size of pieces ourselves.
    decorated = click.option("--override-storage-proxy", metavar="FROM=TO[,…]", hidden=True)(decorated)
    decorated = click.option("--chunk-size", metavar="SIZE", hidden=True)(decorated)
    decorated = state_dir_option(decorated)
    decorated = show.json_option(decorated)
    return click.option(
        "--verify", is_flag=True, help="Read all content from the server once more, and compare."
    )(decorated)
