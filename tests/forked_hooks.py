"""The guard's answer from a fresh process that need not start an interpreter: forked from one that has imported it.

Each call has a process, an environment, a folder, streams and an exit code of its own, as in the client; what is
shared is what the interpreter and the imports are before the first event is read. `test_guard.py` compares some
answers with those of the script itself.
"""

from __future__ import annotations

import atexit
import functools
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import hooked
from hooked import HOOKS, Answer, Place

SERVER = """
import json, os, sys, traceback
sys.path.insert(0, sys.argv[1])
import guard, sessions, commands, places, searches, interpreters, scripts
def serve(asked):
    for number, (path, flags) in enumerate(asked["files"]):
        os.dup2(os.open(path, flags, 0o600), number)
    os.environ.clear()
    os.environ.update(asked["environment"])
    os.chdir(asked["cwd"])
    code = guard.main()
    sys.stdout.flush()
    return code
for line in sys.stdin:
    pid = os.fork()
    if not pid:
        code = 1
        try:
            code = serve(json.loads(line))
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""


class _Server:
    """One interpreter with the guard imported, and a folder for the streams of its children."""

    def __init__(self) -> None:
        self.folder = tempfile.TemporaryDirectory(prefix="guard-")
        self.process = subprocess.Popen(
            [sys.executable, "-ES", "-c", SERVER, str(HOOKS)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        atexit.register(self.close)

    def close(self) -> None:
        self.process.communicate()
        self.folder.cleanup()

    def ask(self, event: dict[str, Any], cwd: Path, environment: dict[str, str]) -> Answer:
        """Raises: AssertionError: the server died."""
        stdin, stdout, stderr = (Path(self.folder.name) / name for name in ("stdin", "stdout", "stderr"))
        stdin.write_text(json.dumps(event))
        files = [
            (str(stdin), os.O_RDONLY),
            *((str(file), os.O_WRONLY | os.O_CREAT | os.O_TRUNC) for file in (stdout, stderr)),
        ]
        asked = {"files": files, "environment": environment, "cwd": str(cwd)}
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps(asked) + "\n")
        self.process.stdin.flush()
        code = self.process.stdout.readline()
        assert code, "the server of hooks died"
        return Answer(int(code), stdout.read_text(), stderr.read_text())


_server = functools.cache(_Server)


def ask(place: Place, event: dict[str, Any], **variables: str) -> Answer:
    """The guard's answer to an event; as `hooked.run` with guard.py."""
    return _server().ask(event, place.root, {**place.environment, **variables})


def call(place: Place, tool: str, *, cwd: Path | None = None, **asked: Any) -> Answer:
    """The guard's answer to a tool call; as `hooked.call`."""
    more = {"cwd": str(cwd)} if cwd else {}
    return ask(place, hooked.event(place, "PreToolUse", tool_name=tool, tool_input=asked, tool_use_id="toolu_1") | more)
