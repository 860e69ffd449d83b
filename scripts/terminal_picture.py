"""Run a command on a terminal of its own and save what it shows as a picture: SVG, nothing fetched when it is viewed.

Usage: python scripts/terminal_picture.py OUT.svg [--columns N] [--title TEXT] -- COMMAND...

Needs rich (`.[dev]`). Exit codes: 0 saved, 1 the command failed (the picture is saved all the same), 2 usage.
"""

from __future__ import annotations

import argparse
import os
import pty
import struct
import sys
import termios
from fcntl import ioctl
from pathlib import Path

# rich's own frame asks a font service; this one names fonts that are there
_FRAME = """\
<svg xmlns="http://www.w3.org/2000/svg" xml:space="preserve" viewBox="0 0 {terminal_width} {terminal_height}">
<style>
{styles}
.{unique_id}-matrix {{ font-family: Menlo, Consolas, "DejaVu Sans Mono", monospace; font-size: {char_height}px;
  line-height: {line_height}px; }}
</style>
<defs>{lines}</defs>
<rect width="{terminal_width}" height="{terminal_height}" rx="8" fill="#292929"/>
<g transform="translate(12, 10)">
{backgrounds}
<g class="{unique_id}-matrix">{matrix}</g>
</g>
</svg>
"""


def run_on_terminal(command: list[str], columns: int) -> tuple[bytes, int]:
    """A command's output as a terminal of so many columns receives it, and its exit code."""
    pid, terminal = pty.fork()
    if pid == 0:
        ioctl(1, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
        try:
            os.execvp(command[0], command)
        except OSError as error:
            os.write(1, f"{command[0]}: {error.strerror}\n".encode())
            os._exit(127)
    shown = b""
    while True:
        try:
            part = os.read(terminal, 1 << 16)
        except OSError:  # Linux says so when the other end is closed
            break
        if not part:
            break
        shown += part
    return shown, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def settled(shown: bytes) -> str:
    """The text that stays on the screen: of a line that was written over, the last state."""
    lines = []
    for line in shown.decode(errors="replace").replace("\r\n", "\n").split("\n"):
        states = [state.removeprefix("\x1b[K") for state in line.split("\r")]
        lines.append(next((state for state in reversed(states) if state), ""))
    return "\n".join(lines).rstrip("\n")


def save(text: str, target: Path, *, columns: int, title: str) -> None:
    """Draw terminal text."""
    from rich.console import Console
    from rich.text import Text

    with Path(os.devnull).open("w") as nowhere:
        console = Console(record=True, width=columns, file=nowhere, force_terminal=True)
        console.print(Text.from_ansi(f"$ {title}\n{text}\n"))
        target.parent.mkdir(parents=True, exist_ok=True)
        console.save_svg(str(target), title=title, code_format=_FRAME, unique_id="terminal")


def main(argv: list[str]) -> int:
    """Parse, run, draw."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--columns", type=int, default=120)
    parser.add_argument("--title", help="the first line; default: the command")
    here = argv.index("--") if "--" in argv else len(argv)
    options, command = parser.parse_args(argv[:here]), argv[here + 1 :]
    if not command:
        parser.error("a command is needed, for example: scripts/terminal_picture.py out.svg -- mlx loop status")
    shown, code = run_on_terminal(command, options.columns)
    save(settled(shown), options.out, columns=options.columns, title=options.title or " ".join(command))
    print(f"wrote {options.out}: {options.out.stat().st_size} bytes")
    return 1 if code else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
