"""How many threads the BLAS of a training process uses: what it computes depends on it, to the last bit."""

from __future__ import annotations

import os

VARIABLES = ("OPENBLAS_NUM_THREADS", "GOTO_NUM_THREADS", "OMP_NUM_THREADS")  # OpenBLAS takes the first that is set
MOST = 8


def given() -> int | None:
    """The number that the environment asks for, or None."""
    words = [os.environ.get(name, "") for name in VARIABLES]
    return next((int(word) for word in words if word.isdigit() and int(word)), None)


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def usual() -> int:
    """Half the usable cores.

    The rest stay free for MLX's own thread and for others: on 2 cores a second BLAS thread gained 1.4x when they were
    idle and lost 7x when they were shared, because the threads of a product wait for each other.
    """
    return max(1, min(cores() // 2, MOST))
