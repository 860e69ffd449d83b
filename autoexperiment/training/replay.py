"""A function of MLX arrays that is traced once, and afterwards replayed without Python.

Building the graph of a training step anew, with its gradient, takes a small network as long as computing it: at a
batch of 128 rows and one hidden layer of 32, replaying made an epoch 1.5 times as fast on 2 cores. The arithmetic is
the same, to the bit. (`mx.compile` would do this too, but calls a C++ compiler on a CPU, for seconds.)
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import cast

from autoexperiment.models.losses import mx  # after the BLAS

Step = Callable[..., Sequence[mx.array]]


def replayed(function: Step, *examples: mx.array) -> Step:
    """`function` for arrays of the shapes and types of `examples`; itself where MLX can't write it down.

    Args: function: pure; takes arrays, returns arrays.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = str(Path(folder, "step.mlxfn"))
        try:
            mx.export_function(file, function, *examples)
            replay = mx.import_function(file)
        except (RuntimeError, ValueError):  # an operation of this backend that has no written form
            return function
    return cast(Step, replay)
