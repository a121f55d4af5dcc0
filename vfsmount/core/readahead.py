"""How much to fetch for a reader: what it asked for, or more when it reads on.

The window doubles while reads follow one another and falls back to one block as soon as they do
not, so a random reader pays for no more than the blocks it touches.
"""

from __future__ import annotations

from dataclasses import dataclass

from vfsmount.core.blockindex import BLOCK_SIZE

MAX_WINDOW = 8  # blocks in one range; a guess that keeps a slow link's first byte within reach


@dataclass(slots=True)
class Readahead:
    """The pattern of one open handle.

    Attributes:
        next_offset: where a sequential reader would go on.
        window: blocks worth fetching at once.
    """

    next_offset: int = 0
    window: int = 1

    def on_read(self, offset: int, length: int) -> int:
        """Note one read; return how many blocks from its first one are worth fetching at once.

        The kernel reads ahead a little itself and out of order, so "follows" allows a block's gap.
        """
        if abs(offset - self.next_offset) <= BLOCK_SIZE:
            if offset + length > self.next_offset and (offset + length) // BLOCK_SIZE > offset // BLOCK_SIZE:
                self.window = min(self.window * 2, MAX_WINDOW)
        else:
            self.window = 1
        self.next_offset = offset + length
        needed = (offset + length - 1) // BLOCK_SIZE - offset // BLOCK_SIZE + 1
        return max(needed, self.window)
