"""How the launcher talks. Standard output belongs to the program."""

from __future__ import annotations

import sys


class Problem(Exception):
    """`mlx` cannot be started or installed; the message says what to do."""


def tell(words: str) -> None:
    """One line on standard error."""
    print(f"mlx: {words}", file=sys.stderr, flush=True)
