"""The script that a generation is started with: this code, whatever else is installed."""

import os
import sys

if __name__ == "__main__":
    top = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    if top not in sys.path:
        sys.path.insert(0, top)
    from vfsmount.__main__ import main

    raise SystemExit(main())
