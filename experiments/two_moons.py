"""A dataset of one's own: two half circles that reach into each other, one class each."""

from __future__ import annotations

import numpy as np

from autoexperiment.datasets import BaseDataset, Table


class TwoMoons(BaseDataset):
    """`dataset.params` are the constructor's arguments."""

    task = "classification"

    def __init__(self, n_samples: int = 500, noise: float = 0.1, seed: int = 42) -> None:
        self.n_samples = n_samples
        self.noise = noise
        self.seed = seed

    def load(self) -> Table:
        """X: shape (n_samples, 2); y: 0 for the upper moon, 1 for the lower."""
        random = np.random.default_rng(self.seed)
        y = np.arange(self.n_samples) % 2
        angle = random.uniform(0.0, np.pi, self.n_samples)
        upper = np.stack([np.cos(angle), np.sin(angle)], axis=1)
        lower = np.stack([1.0 - np.cos(angle), 0.5 - np.sin(angle)], axis=1)
        moons = np.where(y[:, None] == 0, upper, lower)
        return Table(moons + random.normal(0.0, self.noise, moons.shape), y)
