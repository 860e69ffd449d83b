"""Datasets: what a configuration's `dataset` section names, split into train, validation and test parts."""

from autoexperiment.datasets.base import BaseDataset, Facts, Table
from autoexperiment.datasets.registry import check_part, describe, fetch, load, must_fetch, sizes, splitting
from autoexperiment.datasets.synthetic import SyntheticClassificationDataset, SyntheticRegressionDataset

__all__ = [
    "BaseDataset",
    "Facts",
    "SyntheticClassificationDataset",
    "SyntheticRegressionDataset",
    "Table",
    "check_part",
    "describe",
    "fetch",
    "load",
    "must_fetch",
    "sizes",
    "splitting",
]
