"""Loads an optimised BLAS before MLX, once per process; importing this module is what does it.

MLX's Linux CPU wheel calls a reference BLAS. A library loaded earlier with global symbols answers
those calls instead, which makes matrix products about 50 times faster. The order is therefore

    import autoexperiment.blas  # first
    import mlx.core as mx

On macOS and with a GPU backend nothing is loaded. `AUTOEXPERIMENT_BLAS=off` keeps MLX's own BLAS;
`OPENBLAS_NUM_THREADS` sets the number of threads.
"""

from __future__ import annotations

import ctypes
import os
import sys
from dataclasses import dataclass
from pathlib import Path

SWITCH = "AUTOEXPERIMENT_BLAS"
_LIBRARY = Path("cmeel.prefix", "lib", "libopenblas.so")
_GPU_BACKENDS = ("mlx_cuda", "mlx_metal")
_THREAD_VARIABLES = ("OPENBLAS_NUM_THREADS", "GOTO_NUM_THREADS", "OMP_NUM_THREADS")


@dataclass(frozen=True)
class BlasStatus:
    """Which BLAS this process's MLX uses. `path` and `version` are None when nothing was loaded.

    `threads` is the number of BLAS threads, 0 when unknown; `reason` says why it is this one.
    """

    name: str
    path: str | None
    version: str | None
    threads: int
    reason: str


def find_library(folders: list[str]) -> Path | None:
    """The OpenBLAS of the `cmeel-openblas` package in the first of these folders that has it."""
    candidates = (Path(folder) / _LIBRARY for folder in folders if folder)
    return next((path for path in candidates if path.exists()), None)


def has_gpu_backend(folders: list[str]) -> bool:
    """Whether one of these folders holds MLX's Metal or CUDA backend."""
    present = (name for folder in folders if Path(folder or ".").is_dir() for name in os.listdir(folder or "."))
    return any(name.startswith(_GPU_BACKENDS) and name.endswith(".dist-info") for name in present)


def why_not(folders: list[str]) -> str:
    """Why no library is to be loaded into this process; empty when one is."""
    if os.environ.get(SWITCH, "").lower() == "off":
        return f"{SWITCH}=off"
    if sys.platform == "darwin":
        return "macOS has Accelerate and Metal"
    if has_gpu_backend(folders):
        return "MLX has a GPU backend here"
    if "mlx.core" in sys.modules:
        return "mlx.core was imported before autoexperiment.blas; import autoexperiment.blas first"
    if find_library(folders) is None:
        return "cmeel-openblas is not installed; type: pip install cmeel-openblas"
    return ""


def _cores() -> int:
    """Physical cores this process may use, so far as the affinity mask tells."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _load(folders: list[str]) -> BlasStatus:
    reason = why_not(folders)
    path = None if reason else find_library(folders)
    if path is None:
        return BlasStatus("MLX's own", None, None, 0, reason)
    try:
        library = ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)
    except OSError as error:
        return BlasStatus("MLX's own", None, None, 0, f"{path.name} could not be loaded: {error}")
    if not any(os.environ.get(name) for name in _THREAD_VARIABLES):
        library.openblas_set_num_threads(_cores())
    library.openblas_get_config.restype = ctypes.c_char_p
    words = library.openblas_get_config().decode("ascii", "replace").split()
    version = words[1] if len(words) > 1 else None
    return BlasStatus("OpenBLAS", str(path), version, library.openblas_get_num_threads(), "loaded before mlx.core")


_STATUS = _load(sys.path)


def loaded() -> BlasStatus:
    """The BLAS that was chosen when this module was first imported."""
    return _STATUS
