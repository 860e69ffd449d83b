"""MNIST, CIFAR-10 and CIFAR-100 from the files they are published in, which are fetched on request."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from autoexperiment.datasets import cifar, mnist
from autoexperiment.datasets.base import CLASSIFICATION, BaseDataset, Facts, Table, say
from autoexperiment.errors import DataError, unknown

MNIST, CIFAR10, CIFAR100 = "mnist", "cifar10", "cifar100"
NAMES = (MNIST, CIFAR10, CIFAR100)
FINE, COARSE = "fine", "coarse"
LABELS = (FINE, COARSE)

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Source:
    """One published file.

    Attributes:
        digest: "sha256:…".
        n_bytes: a longer file is not fetched.
    """

    url: str
    digest: str
    n_bytes: int

    @property
    def file(self) -> str:
        return self.url.rpartition("/")[2]


_MNIST_URL = "https://ossci-datasets.s3.amazonaws.com/mnist/"
_CIFAR_URL = "https://www.cs.toronto.edu/~kriz/"
# Nothing was fetched when this was written. Each hash is the one that several independent public projects pin.
SOURCES: Mapping[str, tuple[Source, ...]] = MappingProxyType({
    MNIST: (
        Source(
            f"{_MNIST_URL}{mnist.TRAIN_IMAGES}.gz",
            "sha256:440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
            9_912_422,
        ),
        Source(
            f"{_MNIST_URL}{mnist.TRAIN_LABELS}.gz",
            "sha256:3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
            28_881,
        ),
        Source(
            f"{_MNIST_URL}{mnist.TEST_IMAGES}.gz",
            "sha256:8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
            1_648_877,
        ),
        Source(
            f"{_MNIST_URL}{mnist.TEST_LABELS}.gz",
            "sha256:f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
            4_542,
        ),
    ),
    CIFAR10: (
        Source(
            f"{_CIFAR_URL}{cifar.CIFAR10.archive}",
            "sha256:6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
            170_498_071,
        ),
    ),
    CIFAR100: (
        Source(
            f"{_CIFAR_URL}{cifar.CIFAR100.archive}",
            "sha256:85cd44d02ba6437773c5bbd22e183051d648de2e7d6b014e1ef29b855ba677a7",
            169_001_437,
        ),
    ),
})  # fmt: skip


def _files(name: str, folder: Path, labels: str) -> mnist.MnistFiles | cifar.CifarFiles:
    if name == MNIST:
        return mnist.MnistFiles(folder)
    if name == CIFAR10:
        return cifar.CifarFiles(folder, cifar.CIFAR10, "labels")
    return cifar.CifarFiles(folder, cifar.CIFAR100, f"{labels}_labels")


class ImageDataset(BaseDataset):
    """Pictures of a published dataset, read from its standard files in a folder; its own test set stays one.

    `sources` holds what is fetched from where; a class derived from this one may name other servers.
    """

    task = CLASSIFICATION
    sources: Mapping[str, tuple[Source, ...]] = SOURCES

    def __init__(
        self,
        name: str,
        folder: Path,
        *,
        download: bool = False,
        labels: str = FINE,
    ) -> None:
        """Nothing is read yet.

        Args:
            folder: where the standard files are: MNIST's four IDX files, plain or gzipped; or CIFAR's batches, in it,
                in the archive's own folder below it, or in the archive, which is then unpacked beside itself once.
            download: `load` fetches what is missing.
            labels: of cifar100: "fine" (100 classes) or "coarse" (20).
        Raises: DataError: an unknown name or kind of labels.
        """
        for kind, word, known in (("picture dataset", name, NAMES), ("labels", labels, LABELS)):
            if word not in known:
                raise DataError(unknown(kind, str(word), known))
        self.name, self.folder, self.labels = name, folder, labels
        self.download = download
        self._files = _files(name, folder, labels)
        self._loaded: Facts | None = None

    def load(self) -> Table:
        """Pictures as uint8, shape (n, height, width, channels), the standard test set last; int32 class numbers.

        Raises: DataError: a file is missing, cannot be fetched, or is not sound.
        """
        self.fetch(say)
        self._check_complete()
        table = self._files.load()
        n_classes = self._files.published.n_classes
        self._loaded = Facts(self.task, len(table.X), table.X.shape[1:], n_classes, table.n_test)
        return table

    def facts(self) -> Facts:
        """Facts of what was loaded; before, of the files; or, where `load` will fetch some, of the published dataset.

        Raises: DataError: what `load` would raise, except for what only fetching tells.
        """
        if self._loaded:
            return self._loaded
        if self.download and self._missing():
            return self._files.published
        self._check_complete()
        return self._files.facts()

    def _missing(self) -> list[str]:
        try:
            return self._files.missing()
        except OSError as error:
            raise DataError(
                f"Cannot look into {self.folder}: {error.strerror}. Choose a folder that can be read."
            ) from error

    def must_fetch(self) -> list[str]:
        return [source.file for source in self._absent()]

    def _absent(self) -> list[Source]:
        """What `load` fetches."""
        if not (self.download and (missing := self._missing())):
            return []
        sources = self.sources[self.name]
        return [source for source in sources if self.name != MNIST or source.file.removesuffix(".gz") in missing]

    def fetch(self, say: Callable[[str], None]) -> None:
        if not (absent := self._absent()):
            return
        from autoexperiment.datasets.download import fetch  # urllib and ssl take 40 ms to import

        for source in absent:
            fetch(source.url, self.folder / source.file, digest=source.digest, limit_bytes=source.n_bytes, say=say)

    def _check_complete(self) -> None:
        if not (missing := self._missing()):
            return
        problem = f"lacks {', '.join(missing)}" if self.folder.is_dir() else "is not there"
        urls = ", ".join(source.url for source in self.sources[self.name])
        raise DataError(
            f"{self.name} is not complete: {self.folder} {problem}. Put the published files there ({urls}), "
            'or have them fetched: "download": true in dataset.params.'
        )
