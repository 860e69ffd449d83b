"""Loads an optimised BLAS before MLX, once per process; importing this module is what does it.

MLX's Linux CPU wheel calls a reference BLAS. Symbols that were loaded earlier, globally, answer
those calls instead, which makes matrix products about 30 times faster. The order is therefore

    import autoexperiment.blas  # first
    import mlx.core as mx

The library is the OpenBLAS of the `scipy-openblas32` package, which picks its kernels for the
running processor and needs nothing but libc. It prefixes its symbols with `scipy_`; a small ELF
library, made in memory, gives the three that MLX calls their plain names.

On macOS and with a GPU backend nothing is loaded. `AUTOEXPERIMENT_BLAS=off` keeps MLX's own BLAS;
`OPENBLAS_NUM_THREADS` sets the number of threads.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
import sys
from dataclasses import dataclass
from pathlib import Path

from autoexperiment import threads

PACKAGE = "scipy-openblas32"
SWITCH = "AUTOEXPERIMENT_BLAS"
_LIBRARY = Path("scipy_openblas32", "lib", "libscipy_openblas.so")
_PREFIX = "scipy_"
_PRODUCTS = ("cblas_sgemm", "cblas_dgemm", "cblas_cgemm")
_GPU_BACKENDS = ("mlx_cuda", "mlx_metal")
_ELF_MACHINES = {"x86_64": 62, "aarch64": 183}


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
    """The OpenBLAS of the first of these folders that has it."""
    candidates = (Path(folder) / _LIBRARY for folder in folders if folder)
    return next((path for path in candidates if path.exists()), None)


def has_gpu_backend(folders: list[str]) -> bool:
    """Whether one of these folders holds MLX's Metal or CUDA backend."""
    present = (name for folder in folders if folder and Path(folder).is_dir() for name in os.listdir(folder))
    return any(name.startswith(_GPU_BACKENDS) and name.endswith(".dist-info") for name in present)


def why_not(folders: list[str]) -> str:
    """Why no library is to be loaded into this process; empty when one is."""
    if os.environ.get(SWITCH, "").lower() == "off":
        return f"{SWITCH}=off"
    if sys.platform != "linux":
        return "only MLX's Linux CPU build needs one"
    if platform.machine() not in _ELF_MACHINES:
        return f"no wheel for {platform.machine()}"
    if has_gpu_backend(folders):
        return "MLX has a GPU backend here"
    if "mlx.core" in sys.modules:
        return "mlx.core was imported before autoexperiment.blas; import autoexperiment.blas first"
    if find_library(folders) is None:
        return f"{PACKAGE} is not installed; type: pip install {PACKAGE}"
    return ""


def alias_library(addresses: dict[str, int]) -> bytes:
    """An ELF shared library without code whose symbols are these absolute addresses.

    Source: System V ABI, chapters 4 and 5; glibc takes SHN_ABS values as they are since 2.28.
    """
    names = b"\0" + b"".join(name.encode() + b"\0" for name in addresses)
    count = len(addresses) + 1
    symbols, offset = bytes(24), 1
    for name, address in addresses.items():
        symbols += struct.pack("<IBBHQQ", offset, 0x12, 0, 0xFFF1, address, 0)  # global function, SHN_ABS
        offset += len(name) + 1
    # One bucket that chains every symbol: 3 names need no hash function.
    chain = [*range(2, count), 0]
    table = struct.pack(f"<{4 + len(chain)}I", 1, count, 1, 0, *chain)
    table += bytes(-len(table) % 8)
    start = 64 + 2 * 56
    at_symbols = start + 6 * 16
    at_table = at_symbols + len(symbols)
    at_names = at_table + len(table)
    entries = ((4, at_table), (5, at_names), (6, at_symbols), (10, len(names)), (11, 24), (0, 0))
    dynamic = b"".join(struct.pack("<QQ", *entry) for entry in entries)
    size = at_names + len(names)
    machine = _ELF_MACHINES[platform.machine()]
    header = (
        b"\x7fELF\x02\x01\x01"
        + bytes(9)
        + struct.pack("<HHIQQQIHHHHHH", 3, machine, 1, 0, 64, 0, 0, 64, 56, 2, 0, 0, 0)
    )
    segments = struct.pack("<IIQQQQQQ", 1, 6, 0, 0, 0, size, size, 0x10000)
    segments += struct.pack("<IIQQQQQQ", 2, 6, start, start, start, len(dynamic), len(dynamic), 8)
    return header + segments + dynamic + symbols + table + names


def _publish(library: ctypes.CDLL) -> None:
    """Give the library's matrix products their plain names for every library loaded after this."""
    addresses = {name: ctypes.cast(library[_PREFIX + name], ctypes.c_void_p).value or 0 for name in _PRODUCTS}
    fd = os.memfd_create("blas-names")
    try:
        os.write(fd, alias_library(addresses))
        ctypes.CDLL(f"/proc/self/fd/{fd}", mode=ctypes.RTLD_GLOBAL)
    finally:
        os.close(fd)


def _set_threads(library: ctypes.CDLL) -> int:
    """The usual number, unless the environment said one; returns the number in force."""
    if threads.given() is None:
        library[f"{_PREFIX}openblas_set_num_threads"](threads.usual())
    return int(library[f"{_PREFIX}openblas_get_num_threads"]())


def _version(library: ctypes.CDLL) -> str | None:
    config = library[f"{_PREFIX}openblas_get_config"]
    config.restype = ctypes.c_char_p
    words = config().decode("ascii", "replace").split()
    return words[1] if len(words) > 1 else None


def _load(folders: list[str]) -> BlasStatus:
    reason = why_not(folders)
    path = None if reason else find_library(folders)
    if path is None:
        return BlasStatus("MLX's own", None, None, 0, reason)
    try:
        library = ctypes.CDLL(str(path))
        _publish(library)
        return BlasStatus("OpenBLAS", str(path), _version(library), _set_threads(library), "loaded before mlx.core")
    except (OSError, AttributeError) as error:
        return BlasStatus("MLX's own", None, None, 0, f"{path.name} could not be used: {error}")


_STATUS = _load(sys.path)


def loaded() -> BlasStatus:
    """The BLAS that was chosen when this module was first imported."""
    return _STATUS
