"""The facts about this machine that a measurement depends on, gathered without importing MLX."""

from __future__ import annotations

import os
import platform
import shutil
from functools import cache
from importlib import metadata
from pathlib import Path

GPU_BACKENDS = ("mlx-metal", "mlx-cuda", "mlx-cuda-12", "mlx-cuda-13")


@cache  # a look at the metadata of what is installed takes milliseconds, and each run asks for six
def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def device_class() -> str:
    """ "gpu" where the installed MLX has a GPU backend, else "cpu"."""
    return "gpu" if any(_version(name) for name in GPU_BACKENDS) else "cpu"


def facts() -> dict[str, str | int | None]:
    """What a session records once: runs from machines that differ in these are not comparable."""
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
        "memory_mb": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20,
        "python": platform.python_version(),
        "mlx": _version("mlx"),
        "blas": None if os.environ.get("AUTOEXPERIMENT_BLAS", "").lower() == "off" else _version("scipy-openblas32"),
        "device": device_class(),
    }


def free_bytes(folder: Path) -> int:
    """Free disk space where `folder` is or will be."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free
