"""Installing the clients, with a stand-in for npm that records its calls and lays down tiny clients."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from scripts import install_clients

SCRIPT = Path(install_clients.__file__)
NPM = """\
#!{python}
import os, pathlib, sys
with open({calls!r}, "a") as log:
    log.write(" ".join(sys.argv[1:]) + "\\n")
if {fails}:
    print("npm error code ECONNREFUSED")
    print("\\n".join("npm error    at line %d" % number for number in range(500)))
    sys.exit(1)
target = pathlib.Path(sys.argv[sys.argv.index("--prefix") + 1])
for path, version in {packages!r}:
    file = target / path
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("#!/bin/sh\\necho client " + version + "\\n")
        file.chmod(0o755)
"""


def lend_npm(folder: Path, *, fails: bool = False) -> Path:
    """A folder with a stand-in `npm`, which appends its arguments to `calls` beside it."""
    wanted = install_clients.clients(install_clients.this_platform())
    packages = [(str(client.path(Path())), client.version.partition("-")[0]) for client in wanted]
    folder.mkdir(parents=True)
    script = NPM.format(python=sys.executable, calls=str(folder / "calls"), fails=fails, packages=packages)
    (folder / "npm").write_text(script)
    (folder / "npm").chmod(0o755)
    return folder


def install(target: Path, path: Path | str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-I", "-S", str(SCRIPT), "--dir", str(target)]
    environment = {**os.environ, "PATH": str(path)}
    return subprocess.run(command, env=environment, capture_output=True, text=True)


def calls(npm: Path) -> list[str]:
    return (npm / "calls").read_text().splitlines()


def test_exact_versions_of_this_platform_are_installed_once(tmp_path: Path) -> None:
    npm = lend_npm(tmp_path / "npm")

    first = install(tmp_path / "clients", npm)
    second = install(tmp_path / "clients", npm)

    where = install_clients.this_platform()
    assert (first.returncode, second.returncode) == (0, 0)
    assert len(calls(npm)) == 1
    assert calls(npm)[0].endswith(f"@anthropic-ai/claude-code-{where}@2.1.329 @openai/codex@0.169.0-{where}")
    assert "--no-package-lock" in calls(npm)[0]
    assert first.stdout.count("Installed: ") == 2
    assert second.stdout.count("There already: ") == 2


@pytest.mark.parametrize("content", ["", "#!/bin/sh\necho client 0.0.1\n", "#!/bin/sh\necho client 2.1.329; exit 1\n"])
def test_client_that_does_not_run_or_is_another_version_is_made_again(tmp_path: Path, content: str) -> None:
    npm = lend_npm(tmp_path / "npm")
    install(tmp_path / "clients", npm)
    client = install_clients.clients(install_clients.this_platform())[0]
    client.path(tmp_path / "clients").write_text(content)

    answer = install(tmp_path / "clients", npm)

    assert answer.returncode == 0
    assert len(calls(npm)) == 2
    assert client.is_installed(tmp_path / "clients")


def test_without_npm_the_message_says_what_to_install(tmp_path: Path) -> None:
    answer = install(tmp_path / "clients", tmp_path / "nothing")

    assert answer.returncode == 1
    assert "npm is not installed" in answer.stderr
    assert not (tmp_path / "clients").exists()


def test_failure_of_npm_is_shown_bounded_with_its_cause(tmp_path: Path) -> None:
    answer = install(tmp_path / "clients", lend_npm(tmp_path / "npm", fails=True))

    assert answer.returncode == 1
    assert "npm error code ECONNREFUSED" in answer.stderr
    assert len(answer.stderr.splitlines()) <= 12


def test_platform_without_clients_is_named() -> None:
    with pytest.raises(install_clients.NotPossible, match="'plan9-x64'"):
        install_clients.clients("plan9-x64")
