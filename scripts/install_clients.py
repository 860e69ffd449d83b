"""Install the agent clients that the tests drive: exact versions, only this platform's binaries, no lock file.

Usage: python3 scripts/install_clients.py [--dir .clients]

The clients are needed by tests only and never run outside a temporary home. What is there already is left alone.
Exit codes: 0 installed or there already, 1 not possible here.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DEFAULT = ROOT / ".clients"
CLAUDE_VERSION = "2.1.329"
CODEX_VERSION = "0.169.0"
_TRIPLES = {
    "linux-x64": "x86_64-unknown-linux-musl",
    "linux-arm64": "aarch64-unknown-linux-musl",
    "darwin-x64": "x86_64-apple-darwin",
    "darwin-arm64": "aarch64-apple-darwin",
}
_SHOWN_LINES = 8  # npm says the cause first, its stack after it


class NotPossible(Exception):
    """The clients cannot be installed here; the message says what to do."""


@dataclass(frozen=True)
class Client:
    """A client as a package registry knows it; `binary` is its path inside the package."""

    name: str
    package: str
    version: str
    binary: str

    def folder(self, target: Path) -> Path:
        return target / "node_modules" / self.package

    def path(self, target: Path) -> Path:
        return self.folder(target) / self.binary

    def is_installed(self, target: Path) -> bool:
        """Whether this very version lies in `target` and runs: a killed npm leaves half a binary behind."""
        if not os.access(self.path(target), os.X_OK):
            return False
        with tempfile.TemporaryDirectory() as home:
            environment = {"PATH": os.defpath, "HOME": home, "DISABLE_AUTOUPDATER": "1"}
            try:
                answer = subprocess.run(
                    [self.path(target), "--version"],
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    capture_output=True,
                    text=True,
                )
            except OSError:
                return False
        return answer.returncode == 0 and self.version.partition("-")[0] in answer.stdout


def this_platform() -> str:
    """Such as `linux-x64`, as the clients' packages call it."""
    machine = {"x86_64": "x64", "amd64": "x64", "aarch64": "arm64"}.get(platform.machine().lower(), platform.machine())
    return f"{sys.platform}-{machine}"


def clients(where: str) -> tuple[Client, ...]:
    """The clients for a platform.

    Raises: NotPossible: they are not made for it.
    """
    if where not in _TRIPLES:
        known = ", ".join(sorted(_TRIPLES))
        raise NotPossible(
            f"There are no clients for the platform {where!r}. Known: {known}. Run the tests on one of these."
        )
    # the main packages need node and fetch this platform's package themselves; it runs alone
    return (
        Client("claude", f"@anthropic-ai/claude-code-{where}", CLAUDE_VERSION, "claude"),
        Client("codex", "@openai/codex", f"{CODEX_VERSION}-{where}", f"vendor/{_TRIPLES[where]}/bin/codex"),
    )


def install(wanted: tuple[Client, ...], target: Path) -> None:
    """Install all of them into `target/node_modules`.

    Raises: NotPossible: no npm here, or it failed.
    """
    npm = shutil.which("npm")
    if npm is None:
        raise NotPossible(
            "npm is not installed, and the clients come as npm packages. "
            "Any version from 8 on will do. Type: apt-get install npm (Debian, Ubuntu) or brew install node (macOS)"
        )
    for client in wanted:
        if not client.is_installed(target):  # npm believes in a folder that a kill left half filled
            shutil.rmtree(client.folder(target), ignore_errors=True)
    target.mkdir(parents=True, exist_ok=True)
    words = [npm, "install", "--prefix", str(target), "--no-save", "--no-package-lock", "--no-audit", "--no-fund"]
    packages = [f"{client.package}@{client.version}" for client in wanted]
    answer = subprocess.run(
        [*words, "--ignore-scripts", *packages], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    missing = [client.name for client in wanted if not client.is_installed(target)]
    if answer.returncode or missing:
        errors = [line for line in answer.stdout.splitlines() if "error" in line.lower()]
        said = "\n".join(errors[:_SHOWN_LINES])
        raise NotPossible(
            f"npm could not install {' and '.join(packages)} into {target} (exit code {answer.returncode}):\n{said}\n"
            "It needs a package registry. Try the same again when there is a network."
        )


def main(argv: list[str]) -> int:
    """Install what is missing and say where each client is."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dir", type=Path, default=DEFAULT, help="folder of the clients")
    target = parser.parse_args(argv).dir.resolve()
    try:
        wanted = clients(this_platform())
        is_complete = all(client.is_installed(target) for client in wanted)
        if not is_complete:
            print(f"Installing {' and '.join(f'{client.name} {client.version}' for client in wanted)} ...", flush=True)
            install(wanted, target)
    except NotPossible as error:
        print(error, file=sys.stderr)
        return 1
    word = "There already" if is_complete else "Installed"
    for client in wanted:
        print(f"{word}: {client.name} {client.version} at {client.path(target)}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
