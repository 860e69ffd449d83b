"""The fast BLAS: loaded before MLX, answering MLX's matrix products, and harmless where it cannot be used."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from autoexperiment import blas

HAS_LIBRARY = sys.platform == "linux" and blas.find_library(sys.path) and not blas.has_gpu_backend(sys.path)
needs_library = pytest.mark.skipif(not HAS_LIBRARY, reason="needs Linux, no GPU backend, and scipy-openblas32")


def run_python(source: str, **variables: str) -> str:
    clean = {k: v for k, v in os.environ.items() if not k.endswith("_NUM_THREADS") and k != blas.SWITCH}
    answer = subprocess.run(
        [sys.executable, "-c", source], env={**clean, **variables}, capture_output=True, text=True, check=True
    )
    return answer.stdout.strip()


def show(field: str) -> str:
    return f"from autoexperiment import blas; print(blas.loaded().{field})"


@needs_library
def test_plain_names_lead_to_the_fast_library() -> None:
    source = (
        "import ctypes; from autoexperiment import blas\n"
        "address = lambda function: ctypes.cast(function, ctypes.c_void_p).value\n"
        "fast = ctypes.CDLL(blas.loaded().path)\n"
        "print([address(ctypes.CDLL(None)[n]) == address(fast['scipy_' + n]) "
        "for n in ('cblas_sgemm', 'cblas_dgemm', 'cblas_cgemm')])"
    )

    assert run_python(source) == "[True, True, True]"


@needs_library
def test_mlx_calls_what_the_alias_library_points_to() -> None:
    source = (
        "import os; os.environ['AUTOEXPERIMENT_BLAS'] = 'off'\n"
        "import ctypes; from autoexperiment import blas\n"
        "calls = []\n"
        "callback = ctypes.CFUNCTYPE(None)(lambda: calls.append(1))\n"
        "fd = os.memfd_create('names')\n"
        "os.write(fd, blas.alias_library({'cblas_sgemm': ctypes.cast(callback, ctypes.c_void_p).value}))\n"
        "ctypes.CDLL(f'/proc/self/fd/{fd}', mode=ctypes.RTLD_GLOBAL)\n"
        "import mlx.core as mx\n"
        "a = mx.ones((64, 64)); mx.eval(a @ a)\n"
        "print(len(calls))"
    )

    assert run_python(source) == "1"


@needs_library
def test_products_are_right() -> None:
    source = (
        "import autoexperiment.blas, numpy as np, mlx.core as mx\n"
        "rng = np.random.default_rng(0)\n"
        "a, b = rng.normal(size=(70, 130)).astype('f'), rng.normal(size=(130, 90)).astype('f')\n"
        "print(np.allclose(np.array(mx.array(a) @ mx.array(b)), a.astype('d') @ b, atol=1e-4))"
    )

    assert run_python(source) == "True"


@needs_library
def test_status_names_library_version_and_threads() -> None:
    assert run_python(show("name")) == "OpenBLAS"
    assert run_python(show("version"))[:2] == "0."
    assert int(run_python(show("threads"))) >= 1


@needs_library
@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="needs 2 cores")
def test_thread_count_of_the_environment_wins() -> None:
    assert run_python(show("threads"), OPENBLAS_NUM_THREADS="2") == "2"


def test_switch_keeps_mlx_own_blas() -> None:
    assert run_python(show("path"), AUTOEXPERIMENT_BLAS="off") == "None"
    assert run_python(show("reason"), AUTOEXPERIMENT_BLAS="off") == "AUTOEXPERIMENT_BLAS=off"


@needs_library
def test_import_after_mlx_is_reported_not_hidden() -> None:
    status = run_python("import mlx.core; " + show("reason"))

    assert "mlx.core was imported before" in status


@pytest.mark.skipif(sys.platform != "linux", reason="Linux only")
def test_missing_package_says_what_to_type(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delitem(sys.modules, "mlx.core", raising=False)

    assert "pip install scipy-openblas32" in blas.why_not([str(tmp_path)])


@pytest.mark.parametrize("name", ["mlx_cuda_13-0.32.4.dist-info", "mlx_metal-0.32.4.dist-info"])
def test_nothing_is_loaded_beside_a_gpu_backend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.delitem(sys.modules, "mlx.core", raising=False)
    (tmp_path / name).mkdir()

    assert blas.has_gpu_backend([str(tmp_path)])
    if sys.platform == "linux":
        assert blas.why_not([str(tmp_path)]) == "MLX has a GPU backend here"


def test_cpu_backend_is_no_gpu_backend(tmp_path: Path) -> None:
    (tmp_path / "mlx_cpu-0.32.4.dist-info").mkdir()

    assert not blas.has_gpu_backend([str(tmp_path), str(tmp_path / "missing"), ""])


@pytest.mark.skipif(sys.platform != "linux", reason="Linux only")
def test_damaged_library_is_reported_not_fatal(tmp_path: Path) -> None:
    library = tmp_path / "scipy_openblas32" / "lib" / "libscipy_openblas.so"
    library.parent.mkdir(parents=True)
    library.write_bytes(b"\x7fELF is not enough")

    reason = run_python(
        "import sys; from autoexperiment import blas; print(blas._load([sys.argv[1]]).reason)".replace(
            "sys.argv[1]", repr(str(tmp_path))
        )
    )

    assert "libscipy_openblas.so could not be used" in reason
