"""An ordinary user, where the tests are run by root: no privilege, and a /dev/fuse for everybody."""

from __future__ import annotations

import os
import sys
import sysconfig
from pathlib import Path

CHECKOUT = Path(__file__).parents[2]
NOBODY = 65534
DROP = ["setpriv", "--reuid", str(NOBODY), "--regid", str(NOBODY), "--clear-groups", "--"]

# In a mount namespace of its own: /dev/fuse that everybody may open, as a distribution has it, and what
# Python needs where everybody may read it, wherever it lies here.
_PREPARE = """
set -e
top=$1 base=$2 checkout=$3 packages=$4
shift 4
mount -t tmpfs -o mode=755 none "$top"
mkdir "$top/base" "$top/checkout" "$top/packages"
mount --bind "$base" "$top/base"
mount --bind "$checkout" "$top/checkout"
mount --bind "$packages" "$top/packages"
mknod "$top/fuse" c 10 229
chmod 666 "$top/fuse"
mount --bind "$top/fuse" /dev/fuse
exec "$@"
"""
CAN_MOUNT = "import os, pyfuse3, vfsmount; os.close(os.open('/dev/fuse', os.O_RDWR))"


def ordinary_user(home: Path) -> list[str]:
    """The beginning of a command that runs without any privilege."""
    if os.geteuid():
        return []
    return [*their_place(home), *DROP]


def their_place(home: Path) -> list[str]:
    """The beginning of a command that runs as root where that user would run."""
    places = [str(home / "top"), sys.base_prefix, str(CHECKOUT), sysconfig.get_path("platlib")]
    return ["unshare", "-m", "sh", "-c", _PREPARE, "sh", *places]


def their_python(home: Path) -> tuple[str, dict[str, str]]:
    """The interpreter as they reach it, and where it finds what it needs."""
    if os.geteuid():
        return sys.executable, {}
    top = home / "top"
    program = Path(sys.executable).resolve().relative_to(Path(sys.base_prefix).resolve())
    paths = {"PYTHONPATH": f"{top}/checkout:{top}/packages", "LD_LIBRARY_PATH": f"{top}/base/lib"}
    return str(top / "base" / program), paths
