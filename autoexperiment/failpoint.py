"""Places where a test can kill this process with SIGKILL, as a power cut or `kill -9` would.

`AUTOEXPERIMENT_FAIL_AT=n` kills at the n-th place reached (1 is the first). Without the variable
`reach` costs one comparison. `AUTOEXPERIMENT_FAIL_TRACE=file` appends the name of each place
reached, so that a test can prove that its sweep visited them all.
"""

from __future__ import annotations

import os
import signal

_fail_at = int(os.environ.get("AUTOEXPERIMENT_FAIL_AT", "0"))
_trace = os.environ.get("AUTOEXPERIMENT_FAIL_TRACE", "")
_reached = 0


def reach(name: str) -> None:
    """Mark one place between two effects; dies here if the environment asks for it."""
    global _reached
    if not (_fail_at or _trace):
        return
    _reached += 1
    if _trace:
        with open(_trace, "a", encoding="ascii") as file:
            file.write(f"{name}\n")
    if _reached == _fail_at:
        os.kill(os.getpid(), signal.SIGKILL)
