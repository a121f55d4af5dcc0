"""Files for the block cache, their content known from their names, and a process that reads and keeps them.

    python -m tests.support.cached ROOT --limit BYTES --seed N [--files N] [--blocks N] [--sweep]

Random blocks until it is killed, or with `--sweep` every block of a file of its own once. Ends with status
3 when the cache gives a block that was never written.
"""

from __future__ import annotations

import argparse
import hashlib
import random
import sys
from pathlib import Path

from vfsmount.core.blockindex import BLOCK_SIZE
from vfsmount.store.blockcache import BlockCache, FileKey
from vfsmount.store.segments import block_length
from vfsmount.values import Validator


def key(name: str, size: int, mtime_ns: int = 1) -> FileKey:
    return FileKey("https://manager.example.org", "f" * 32, name, Validator(mtime_ns, size))


def content(of: FileKey, block_no: int) -> bytes:
    """What this block holds, and no other."""
    pattern = hashlib.blake2b(of.encoded() + block_no.to_bytes(8, "big"), digest_size=64).digest()
    return (pattern * (BLOCK_SIZE // 64))[: block_length(of, block_no)]


def fill(cache: BlockCache, of: FileKey) -> int:
    """Keep every block of a file; how many were taken."""
    blocks = -(-of.validator.size // BLOCK_SIZE)
    return sum(cache.write(of, no, content(of, no)) for no in range(blocks))


def held(cache: BlockCache, of: FileKey) -> list[int]:
    """Numbers of the blocks that are there, each as it has to be."""
    found = []
    for no in range(-(-of.validator.size // BLOCK_SIZE)):
        data = cache.read(of, no)
        if data is not None:
            assert data == content(of, no), (of, no)
            found.append(no)
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("root", type=Path)
    parser.add_argument("--limit", type=int, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--files", type=int, default=6)
    parser.add_argument("--blocks", type=int, default=20)
    parser.add_argument("--sweep", action="store_true")
    args = parser.parse_args()
    cache = BlockCache(args.root, args.limit, 0)
    chosen = random.Random(args.seed)
    print("ready", flush=True)
    size = args.blocks * BLOCK_SIZE - 5
    into = memoryview(bytearray(BLOCK_SIZE))
    for turn in range(args.blocks if args.sweep else 1 << 40):
        of = key(f"own{args.seed}" if args.sweep else f"f{chosen.randrange(args.files)}", size)
        no = turn if args.sweep else chosen.randrange(args.blocks)
        wanted = content(of, no)
        found = cache.read(of, no, into)
        if found is None:
            cache.write(of, no, wanted)
        elif found != wanted:
            print(f"wrong bytes: {of} block {no}", flush=True)
            sys.exit(3)
    cache.close()


if __name__ == "__main__":
    main()
