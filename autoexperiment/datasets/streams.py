"""Independent random streams from one seed: the rows, the noise and the split of a dataset never share numbers."""

from __future__ import annotations

import hashlib

import numpy as np


def stream(seed: int, name: str) -> np.random.Generator:
    """The stream `name` of a seed: the same on every call, in any order, and unrelated to every other name's.

    The two are hashed, because neighbouring seeds (seed, seed + 1) are what people give to runs they compare.
    """
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(int.from_bytes(digest, "big"))))
