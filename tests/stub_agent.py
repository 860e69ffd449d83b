"""Stand-ins for headless clients: small programs that write what a client writes, and end as it may end.

stub_agent.install(tmp_path / "bin", "claude", 'out(result("done"))')
"""

from __future__ import annotations

import sys
import textwrap
from pathlib import Path

PRELUDE = """\
import json, os, signal, subprocess, sys, time
def out(*events):
    for event in events:
        print(json.dumps(event), flush=True)
def text(said):
    return {"type": "assistant", "message": {"content": [{"type": "text", "text": said}]}}
def result(said, **more):
    return {"type": "result", "subtype": "success", "is_error": False, "result": said, **more}
def failed(said, status=None):
    return result(said, is_error=True, api_error_status=status)
"""


def install(folder: Path, name: str, body: str) -> Path:
    """A program of this name that runs the body; `out`, and Claude Code's events by name, are at hand."""
    folder.mkdir(parents=True, exist_ok=True)
    program = folder / name
    program.write_text(f"#!{sys.executable} -IS\n{PRELUDE}{textwrap.dedent(body)}")
    program.chmod(0o755)
    return program
