"""Going on where a killed process stopped: the journal that outlives it."""

from __future__ import annotations

import os


class Journal:
    """What must be known of the kernel's side of a mount by the process that takes it over."""

    def __init__(self, fd: int) -> None:
        """Args:
        fd: of memory that outlives the process (memfd_create(2)), shared by all processes of one mount, which
            serve one after the other. Nothing is read or written before it is asked for.
        """
        self._fd = fd

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to go on with: no process has begun to serve yet."""
        return os.fstat(self._fd).st_size == 0
