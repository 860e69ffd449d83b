"""From a configuration's `dataset` section to splits and facts; files that are missing, and files that are fetched."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pictures
import pytest
from file_server import FileServer
from hypothesis import given, settings
from hypothesis import strategies as st

from autoexperiment.datasets import (
    Facts,
    SyntheticRegressionDataset,
    Table,
    check_part,
    describe,
    load,
    must_fetch,
    sizes,
)
from autoexperiment.datasets.base import facts_of
from autoexperiment.datasets.files import FileDataset
from autoexperiment.datasets.splits import split
from autoexperiment.errors import DataError


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("AUTORESEARCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


FRACTIONS = st.sampled_from([0.0, 0.01, 0.1, 0.3, 0.5, 0.9])


def spec_of(
    name: str = "custom", *, path: str | None = None, loader: str | None = None, **params: Any
) -> dict[str, Any]:
    return {"name": name, "path": path, "loader": loader, "val_fraction": 0.1, "test_fraction": 0.1, "params": params}


def refusal(spec: dict[str, Any], root: Path) -> str:
    with pytest.raises(DataError) as caught:
        describe(spec, root=root)
    with pytest.raises(DataError) as again:
        load(spec, root=root)
    assert str(again.value) == str(caught.value)
    return str(caught.value)


# ---- by name


def test_synthetic_data_is_the_classs_own_split_into_three(tmp_path: Path) -> None:
    spec = spec_of("synthetic_regression", n_samples=100, n_features=5, seed=42)

    splits = load(spec, root=tmp_path)
    X, y = SyntheticRegressionDataset(n_samples=100, n_features=5, seed=42).generate()

    assert describe(spec, root=tmp_path) == splits.facts == Facts("regression", 100, (5,))
    assert [len(splits.part(name)) for name in ("train", "val", "test")] == [80, 10, 10]
    for part in (splits.train, splits.val, splits.test):
        x, targets = part.take(slice(None), np.float64)
        assert x.tolist() == X[part.rows].tolist() and targets.tolist() == y[part.rows].tolist()


def test_synthetic_classes_are_described(tmp_path: Path) -> None:
    facts = describe(spec_of("synthetic_classification", n_samples=60, n_classes=4), root=tmp_path)

    assert facts == Facts("classification", 60, (10,), 4)


def test_the_datasets_seed_also_seeds_the_split(tmp_path: Path) -> None:
    rows = [load(spec_of("synthetic_regression", seed=seed), root=tmp_path).test.rows.tolist() for seed in (1, 1, 2)]

    assert rows[0] == rows[1] != rows[2]


def test_pictures_come_from_the_path_or_from_the_cache(tmp_path: Path, cache: Path) -> None:
    pictures.write_mnist(tmp_path / "data", 40, 10, seed=0)
    pictures.write_mnist(cache / "mnist", 60, 20, seed=0)

    given = load(spec_of("mnist", path="data"), root=tmp_path)
    cached = load(spec_of("mnist"), root=tmp_path)

    assert [len(given.part(name)) for name in ("train", "val", "test")] == [36, 4, 10]
    assert describe(spec_of("mnist", path="data"), root=tmp_path) == given.facts
    assert cached.facts.n_rows == 80


def test_pictures_are_normalised_unless_told_otherwise(tmp_path: Path) -> None:
    pictures.write_cifar10(tmp_path, 10, 10, seed=0)

    normal = load(spec_of("cifar10", path="."), root=tmp_path).train.take(slice(None))[0]
    plain = load(spec_of("cifar10", path=".", normalize=False), root=tmp_path).train.take(slice(None))[0]

    assert np.allclose(normal.mean(axis=(0, 1, 2)), 0, atol=1e-5)
    assert np.allclose(normal.std(axis=(0, 1, 2)), 1, atol=1e-4)
    assert plain.min() >= 0 and plain.max() <= 1


def test_pictures_have_no_test_fraction(tmp_path: Path) -> None:
    pictures.write_cifar10(tmp_path, 10, 10, seed=0)
    given_, none = ({**spec_of("cifar10", path=".", seed=3), "test_fraction": fraction} for fraction in (0.5, None))

    one, other = (load(spec, root=tmp_path) for spec in (given_, none))

    assert one.fingerprint == other.fingerprint
    assert sizes(none, other.facts) == {"train": 45, "val": 5, "test": 10}
    assert len(other.test) == 10
    assert sizes(none, Facts("classification", 20, (2,), 2)) == {"train": 18, "val": 2, "test": 0}


def test_a_file_is_normalised_when_asked(tmp_path: Path) -> None:
    np.save(tmp_path / "t.npy", np.random.default_rng(0).random((50, 4)) * 100)

    plain = load(spec_of(path="t.npy"), root=tmp_path).train.take(slice(None))[0]
    normal = load(spec_of(path="t.npy", normalize=True), root=tmp_path).train.take(slice(None))[0]

    assert plain.max() > 50
    assert np.allclose(normal.mean(axis=0), 0, atol=1e-6) and np.allclose(normal.std(axis=0), 1, atol=1e-5)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (spec_of("imagenet"), "Unknown dataset 'imagenet'"),
        (spec_of("minst"), "Did you mean 'mnist'?"),
        (spec_of("synthetic_regression", n_sample=5), "Did you mean 'n_samples'?"),
        (spec_of("synthetic_regression", n_samples=0), "'n_samples'"),
        (spec_of(path="t.npy", columns=3), "Unknown dataset parameter 'columns'"),
        (spec_of(), "has neither"),
        (spec_of(path="t.npy", loader="a:B"), "has both"),
        (spec_of("mnist"), "mnist"),
    ],
)
def test_a_section_that_names_no_data_is_refused(tmp_path: Path, spec: dict[str, Any], words: str) -> None:
    assert words in refusal(spec, tmp_path)


# ---- how many rows each part has


def rows_of(n: int, *, n_test: int) -> str:
    return f"""
import numpy as np
from autoexperiment.datasets import BaseDataset, Table

class Rows(BaseDataset):
    task = "classification"
    def load(self):
        return Table(np.zeros(({n}, 2)), np.arange({n}) % 3, n_test={n_test})
"""


@given(n=st.integers(1, 60), val=FRACTIONS, test=FRACTIONS, data=st.data())
@settings(max_examples=60, deadline=None)
def test_sizes_are_those_of_the_parts(n: int, val: float, test: float, data: st.DataObject) -> None:
    n_test = data.draw(st.integers(0, n - 1))
    table = Table(np.zeros((n, 2)), np.arange(n) % 3, n_test)
    facts = facts_of(table, task="classification")
    spec = {**spec_of(), "val_fraction": val, "test_fraction": test}

    parts = split(table, facts, val_fraction=val, test_fraction=test, seed=1, normalize=False)

    assert sizes(spec, facts) == {name: len(parts.part(name)) for name in ("train", "val", "test")}


def test_a_description_knows_the_datasets_own_test_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", sys.path[:])
    (tmp_path / "rows_with_a_test_set.py").write_text(rows_of(30, n_test=6))
    pictures.write_mnist(tmp_path / "mnist", 40, 10, seed=0)
    pictures.write_cifar10(tmp_path / "cifar", 20, 5, seed=0)
    found = {}

    for spec in (
        spec_of(loader="rows_with_a_test_set:Rows"),
        spec_of("mnist", path="mnist"),
        spec_of("cifar10", path="cifar"),
    ):
        facts = describe(spec, root=tmp_path)
        assert facts == load(spec, root=tmp_path).facts
        found[spec["name"]] = sizes(spec, facts)

    assert found == {
        "custom": {"train": 22, "val": 2, "test": 6},
        "mnist": {"train": 36, "val": 4, "test": 10},
        "cifar10": {"train": 90, "val": 10, "test": 5},
    }


@pytest.mark.parametrize(
    ("n", "n_test", "val", "part", "why"),
    [
        (40, 0, 0.0, "val", "its dataset.val_fraction is 0.0. Allowed: --split train (36 rows) or --split test (4 rows)."),
        (2, 0, 0.1, "test", "it has 2 rows, and fewer than 3 are not split. Allowed: --split train (2 rows)."),
        (1, 0, 0.1, "val", "it has 1 row, and fewer than 3 are not split. Allowed: --split train (1 row)."),
        (5, 3, 0.1, "val", "it has 2 rows beside the 3 of its own test set, and fewer than 3 are not split. "
                           "Allowed: --split train (2 rows) or --split test (3 rows)."),
    ],
)  # fmt: skip
def test_a_part_without_rows_is_refused_with_the_reason(n: int, n_test: int, val: float, part: str, why: str) -> None:
    facts, spec = Facts("regression", n, (2,), n_test=n_test), {**spec_of(), "val_fraction": val}

    with pytest.raises(DataError) as caught:
        check_part(spec, facts, part)

    assert str(caught.value) == f"The {part} part of the dataset has no rows: {why}"
    check_part(spec, facts, "train")


# ---- files


def test_paths_start_at_the_root_and_may_be_absolute(tmp_path: Path) -> None:
    (tmp_path / "root" / "data").mkdir(parents=True)
    np.save(tmp_path / "root" / "data" / "t.npy", np.ones((5, 3)))

    for path in ("data/t.npy", str(tmp_path / "root" / "data" / "t.npy")):
        assert describe(spec_of(path=path), root=tmp_path / "root") == Facts("regression", 5, (2,))


@pytest.mark.parametrize(
    ("path", "params", "words"),
    [
        ("nowhere.csv", {}, 'set "download": true'),
        ("t.xlsx", {}, "Supported: .csv, .npy, .npz, .parquet"),
        ("folder", {}, "Cannot read"),
        ("t.csv", {"task": "clustering"}, "Unknown task 'clustering'"),
        ("t.npz", {"target": "y"}, "the targets come from the array y"),
        ("folder", {"target": 1}, "the targets come from y.npy"),
        ("folder", {"sha256": "0" * 64}, "folder is a folder"),
        ("folder", {"download": True}, "are for a single file"),
        ("t.npy", {"target": "y"}, "no names of columns"),
        ("t.npy", {"target": 3}, "Target column 3"),
        ("t.npy", {"sha256": "0" * 64}, "does not have the SHA-256"),
        ("nowhere.csv", {"download": True}, '"download": true with "url" and "sha256"'),
        ("nowhere.csv", {"download": True, "url": "https://example.org/t.csv"}, '"url" needs "sha256"'),
    ],
)
def test_a_file_that_cannot_be_used_is_refused(tmp_path: Path, path: str, params: dict[str, Any], words: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "t.xlsx").touch()
    (tmp_path / "t.csv").write_text("1,2\n")
    np.save(tmp_path / "t.npy", np.ones((5, 3)))
    np.savez(tmp_path / "t.npz", X=np.ones((5, 3)), y=np.ones(5))

    assert words in refusal(spec_of(path=path, **params), tmp_path)


def test_a_file_without_read_permission_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t.csv").mkdir()  # also root cannot read a folder as a file
    (tmp_path / "t.csv" / "X.npy").mkdir()

    assert "Cannot read" in refusal(spec_of(path="t.csv"), tmp_path)


def test_a_given_hash_of_a_file_is_checked_in_any_case(tmp_path: Path) -> None:
    np.save(tmp_path / "t.npy", np.ones((5, 3)))
    digest = hashlib.sha256((tmp_path / "t.npy").read_bytes()).hexdigest()

    for form in (digest, digest.upper()):
        assert describe(spec_of(path="t.npy", sha256=form), root=tmp_path).n_rows == 5


# ---- fetched

CONTENT = b"a,b\n1,2\n3,4\n"
DIGEST = hashlib.sha256(CONTENT).hexdigest()


def test_a_missing_file_is_fetched_once(tmp_path: Path) -> None:
    with FileServer({"t.csv": CONTENT}) as server:
        spec = spec_of(path="data/t.csv", download=True, url=server.url("t.csv"), sha256=DIGEST)

        first, second = describe(spec, root=tmp_path), load(spec, root=tmp_path).facts

        assert first == second == Facts("regression", 2, (1,))
        assert len(server.requests) == 1
    assert (tmp_path / "data" / "t.csv").read_bytes() == CONTENT


def test_a_file_that_is_there_is_never_fetched_again(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(CONTENT)
    with FileServer({"t.csv": CONTENT}) as server:
        load(spec_of(path="t.csv", download=True, url=server.url("t.csv"), sha256=DIGEST), root=tmp_path)

        assert server.requests == []


def test_a_fetched_file_with_another_hash_is_refused_and_not_kept(tmp_path: Path) -> None:
    with FileServer({"t.csv": b"9,9\n"}) as server:
        spec = spec_of(path="t.csv", download=True, url=server.url("t.csv"), sha256=DIGEST)

        refusal(spec, tmp_path)

    assert not (tmp_path / "t.csv").exists()


def test_progress_of_fetching_leaves_the_output_to_programs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with FileServer({"t.csv": CONTENT}) as server:
        FileDataset(tmp_path / "t.csv", download=True, url=server.url("t.csv"), sha256=DIGEST).load()

    captured = capsys.readouterr()
    assert captured.out == "" and "t.csv" in captured.err


def test_what_must_be_fetched_is_known_before_it_is(tmp_path: Path, cache: Path) -> None:
    pictures.write_mnist(tmp_path / "mnist", 6, 4, seed=0)
    (tmp_path / "mnist" / "t10k-labels-idx1-ubyte").unlink()
    file: dict[str, Any] = {"download": True, "url": "https://example.org/t.csv", "sha256": DIGEST}
    (tmp_path / "there.csv").write_bytes(CONTENT)

    found = [
        must_fetch(spec, root=tmp_path)
        for spec in (
            spec_of("mnist", path="mnist", download=True),
            spec_of("mnist", path="mnist"),
            spec_of("cifar10", download=True),
            spec_of(path="t.csv", **file),
            spec_of(path="there.csv", **file),
            spec_of(path="t.csv", **{**file, "download": False}),
            spec_of("synthetic_regression"),
            spec_of(loader="nowhere:Rows", download=True),
        )
    ]

    assert found == [["t10k-labels-idx1-ubyte.gz"], [], ["cifar-10-python.tar.gz"], ["t.csv"], [], [], [], []]
    assert not cache.exists() and not (tmp_path / "t.csv").exists()


# ---- start-up


def test_generated_data_needs_no_reader_of_files() -> None:
    code = (
        "import sys\nfrom pathlib import Path\nfrom autoexperiment.datasets import load\n"
        "load({'name': 'synthetic_regression', 'val_fraction': 0.1, 'test_fraction': 0.1, 'params': {}}, root=Path('.'))\n"
        "heavy = {'mlx', 'pyarrow', 'pydantic', 'csv', 'zipfile', 'urllib.request', 'ssl'} & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else 0)\n"
    )

    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)

    assert answer.returncode == 0, answer.stderr
