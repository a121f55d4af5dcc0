"""Write what is made from the commands into the checkout that this module lies in."""

from __future__ import annotations

import sys
from pathlib import Path

from vfsmount.cli.completion.command import script
from vfsmount.cli.reference import man, markdown

CHECKOUT = Path(__file__).parents[3]
COMMAND = "python -m vfsmount.cli.reference"


def files(checkout: Path = CHECKOUT) -> dict[Path, str]:
    """Path → what should be there."""
    exit_codes = (checkout / "docs" / "exit-codes.md").read_text(encoding="utf-8")
    completions = checkout / "packaging" / "completions"
    return {
        checkout / "docs" / "commands.md": markdown.page(),
        checkout / "docs" / "man" / "vfsmount.1": man.page(exit_codes),
        # Under the names that the shells look for.
        completions / "bash" / "vfsmount": script("bash"),
        completions / "zsh" / "_vfsmount": script("zsh"),
        completions / "fish" / "vfsmount.fish": script("fish"),
    }


def main() -> int:
    for path, text in files().items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        sys.stdout.write(f"{path}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
