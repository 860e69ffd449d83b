"""Datasets of a user's own class: found, checked, and blamed with file and line."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import autoexperiment.models.losses  # noqa: F401  # MLX, which cannot be imported again after `clean_imports`
from autoexperiment.datasets import BaseDataset, describe, load
from autoexperiment.datasets.base import Facts
from autoexperiment.errors import DataError

GOOD = """
import numpy as np
from autoexperiment.datasets import BaseDataset, Table

class Prices(BaseDataset):
    def __init__(self, rows=20, seed=None):
        self.rows, self.seed = rows, seed

    def load(self):
        X = np.random.default_rng(self.seed or 0).random((self.rows, 3))
        return Table(X, X.sum(axis=1))
"""
CLASS = """
import numpy as np
from autoexperiment.datasets import BaseDataset, Facts, Table

class Data(BaseDataset):
    task = {task!r}

    def load(self):
        {body}
"""


@pytest.fixture(autouse=True)
def clean_imports() -> Iterator[None]:
    path, modules = sys.path[:], set(sys.modules)
    yield
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        if not name.startswith("autoexperiment"):
            del sys.modules[name]


def spec_of(loader: str = "my_data:Data", **params: Any) -> dict[str, Any]:
    return {"name": "custom", "path": None, "loader": loader, "val_fraction": 0.1, "test_fraction": 0.1,
            "params": params}  # fmt: skip


def write(root: Path, source: str, name: str = "my_data.py") -> Path:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(source)
    return path


def write_load(root: Path, body: str, *, task: str = "regression") -> Path:
    return write(root, CLASS.format(body=body, task=task))


def refusal(root: Path, loader: str = "my_data:Data", **params: Any) -> str:
    with pytest.raises(DataError) as caught:
        load(spec_of(loader, **params), root=root)
    return str(caught.value)


def test_only_datasets_of_the_module_itself_are_offered(tmp_path: Path) -> None:
    write(tmp_path, "class Slow:\n    pass\n" + GOOD)

    message = refusal(tmp_path, "my_data:Price")

    assert "Known: Prices. Did you mean 'Prices'?" in message


def test_a_module_without_a_dataset_is_told_how_to_write_one(tmp_path: Path) -> None:
    write(tmp_path, "from autoexperiment.datasets import BaseDataset, SyntheticRegressionDataset\n")

    message = refusal(tmp_path)

    assert message.startswith("There is no class 'Data' in ") and "my_data.py, nor any other" in message
    assert message.endswith("Write: class Data(autoexperiment.datasets.BaseDataset)")


def test_a_class_in_the_workspace_is_loaded_with_its_parameters(tmp_path: Path) -> None:
    write(tmp_path, GOOD, "data/prices.py")

    splits = load(spec_of("data.prices:Prices", rows=30), root=tmp_path)

    assert (len(splits.train), len(splits.val), len(splits.test)) == (24, 3, 3)
    assert splits.facts == Facts("regression", 30, (3,))
    assert describe(spec_of("data.prices:Prices", rows=30), root=tmp_path) == splits.facts


def test_normalize_stays_here_and_seed_goes_to_the_class_too(tmp_path: Path) -> None:
    write(tmp_path, GOOD)

    plain = load(spec_of("my_data:Prices"), root=tmp_path)
    seeded = load(spec_of("my_data:Prices", seed=7), root=tmp_path)
    normalised = load(spec_of("my_data:Prices", normalize=True), root=tmp_path)

    assert plain.test.rows.tolist() != seeded.test.rows.tolist()
    assert plain.train.take(slice(0, 1))[0].tolist() != seeded.train.take(slice(0, 1))[0].tolist()
    assert normalised.train.take(slice(None), np.float64)[0].mean() == pytest.approx(0)
    assert plain.test.rows.tolist() == load(spec_of("my_data:Prices", seed=42), root=tmp_path).test.rows.tolist()


def test_nothing_in_the_workspace_takes_the_place_of_an_installed_module(tmp_path: Path) -> None:
    write(tmp_path, "raise RuntimeError('imported')", "colorsys.py")  # of the standard library, and rarely imported
    write(tmp_path, "import colorsys\n" + GOOD)

    load(spec_of("my_data:Prices"), root=tmp_path)

    assert sys.path[-1] == str(tmp_path)


def test_a_class_of_an_installed_package_is_found(tmp_path: Path) -> None:
    loader = "autoexperiment.datasets.synthetic:SyntheticRegressionDataset"

    assert load(spec_of(loader, n_samples=50), root=tmp_path).facts.n_rows == 50


@pytest.mark.parametrize(
    ("loader", "words"),
    [
        ("my_data", 'not of the form "module:Class"'),
        ("my_data:", 'not of the form "module:Class"'),
        (":Data", 'not of the form "module:Class"'),
        ("my_data:a.b", 'not of the form "module:Class"'),
        ("nowhere:Data", "no module 'nowhere'"),
        ("my_data.deeper:Data", "'my_data.deeper'"),
        ("my_data:Price", "Did you mean 'Prices'?"),
        ("my_data:np", "does not implement the BaseDataset interface"),
        ("json:JSONDecoder", "does not implement the BaseDataset interface"),
    ],
)
def test_a_class_that_is_not_there_is_refused(tmp_path: Path, loader: str, words: str) -> None:
    write(tmp_path, GOOD)

    assert words in refusal(tmp_path, loader)


@pytest.mark.parametrize(
    ("source", "line", "words"),
    [
        ("import numpy\nimport not_installed_at_all\n", 2, "No module named 'not_installed_at_all'"),
        ("x = 1\ny = x / 0\n", 2, "ZeroDivisionError"),
        ("x = (\n", 1, "SyntaxError"),
        ("import sys\n\nsys.exit('no')\n", 3, "SystemExit: no"),
    ],
)
def test_a_module_that_fails_is_blamed_with_its_line(tmp_path: Path, source: str, line: int, words: str) -> None:
    path = write(tmp_path, source)

    message = refusal(tmp_path)

    assert f"{path}, line {line}: " in message and words in message


def test_a_method_that_fails_deep_in_a_library_is_blamed_where_the_user_wrote_it(tmp_path: Path) -> None:
    path = write_load(tmp_path, "return np.load('/nowhere/at/all.npy')")

    message = refusal(tmp_path)

    assert f"{path}, line 9: FileNotFoundError" in message


def test_a_parameter_that_the_class_does_not_take_is_refused(tmp_path: Path) -> None:
    write(tmp_path, GOOD)

    message = refusal(tmp_path, "my_data:Prices", columns=3)

    assert "unexpected keyword argument 'columns'" in message and "my_data:Prices" in message


def test_a_class_that_lacks_load_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "from autoexperiment.datasets import BaseDataset\nclass Data(BaseDataset):\n    pass\n")

    assert "abstract" in refusal(tmp_path)


def test_the_users_own_refusal_passes_as_it_is(tmp_path: Path) -> None:
    write_load(tmp_path, "from autoexperiment.errors import DataError; raise DataError('buy the data first')")

    assert refusal(tmp_path) == "buy the data first"


@pytest.mark.parametrize(
    ("body", "task", "words"),
    [
        ("return np.ones((3, 2)), np.ones(3)", "regression", "load() gave a tuple"),
        ("return None", "regression", "load() gave a NoneType"),
        ("return Table([[1.0]], [1.0])", "regression", "must be numpy arrays"),
        ("return Table(np.ones((3, 2)), [1.0, 2.0, 3.0])", "regression", "and one is a list"),
        ("import mlx.core as mx; return Table(mx.ones((3, 2)), np.ones(3))", "regression", "one is a mlx.core.array"),
        ("return Table(np.ma.masked_less(np.ones((3, 2)), 2), np.ones(3))", "regression", "MaskedArray"),
        ("return Table(np.ones((3, 0)), np.ones(3))", "regression", "a row has no numbers"),
        ("return Table(np.ones((3, 1)), np.array([0, 2, 1]), classes=('a', 'b'))", "classification", "classes is ('a'"),
        (
            "return Table(np.ones((3, 1)), np.array([0, 1, 1]), classes=('a', 'a'))",
            "classification",
            "a different text",
        ),
        ("return Table(np.ones((3, 1)), np.array([0, 1, 1]), classes=('a', 1))", "classification", "a different text"),
        (
            "return Table(np.ones((3, 1)), np.array([0, 1, 1]), classes=np.ones(2))",
            "classification",
            "a different text",
        ),
        ("return Table(np.ones((3, 1)), np.array([0, 1, 1]), classes=None)", "classification", "a different text"),
        ("return Table(np.ones((3, 1)), np.ones(3), classes=('a', 'b'))", "regression", "in a classification"),
        ("return Table(np.ones((3, 2)), np.ones(4))", "regression", "y has shape (4,)"),
        ("return Table(np.ones((3, 2), object), np.ones(3))", "regression", "type object"),
        ("return Table(np.ones((3, 2)), np.array(['a', 'b', 'c']))", "regression", "y holds <U1"),
        ("return Table(np.ones((3, 2)), np.ones(3), 3)", "regression", "n_test is 3"),
        ("return Table(np.full((3, 2), np.nan), np.ones(3))", "regression", "value nan in row 0, column 0"),
        ("return Table(np.ones((0, 2)), np.ones(0))", "regression", "has no rows"),
        ("return Table(np.ones((3, 2)), np.ones(3))", "classification", "not float64"),
        ("return Table(np.ones((3, 2)), np.array([0, -1, 1]))", "classification", "class -1 in row 1"),
        ("return Table(np.ones((3, 2)), np.ones(3))", "clustering", "Unknown task 'clustering'"),
    ],
)
def test_a_table_that_is_not_sound_is_refused_by_load_and_by_describe(
    tmp_path: Path, body: str, task: str, words: str
) -> None:
    write_load(tmp_path, body, task=task)

    assert words in refusal(tmp_path)
    with pytest.raises(DataError) as caught:
        describe(spec_of(), root=tmp_path)
    assert words in str(caught.value)


def test_rows_that_the_class_marks_as_its_test_set_stay_it(tmp_path: Path) -> None:
    write_load(tmp_path, "return Table(np.ones((30, 2)), np.arange(30) % 3, n_test=10)", task="classification")

    splits = load(spec_of(), root=tmp_path)

    assert splits.test.rows.tolist() == list(range(20, 30))
    assert splits.facts.n_classes == 3


def test_a_class_may_name_its_classes(tmp_path: Path) -> None:
    body = "return Table(np.ones((4, 2)), np.array([0, 1, 1, 0]), classes=('no', 'yes', 'perhaps'))"
    write_load(tmp_path, body, task="classification")

    assert load(spec_of(), root=tmp_path).facts == Facts("classification", 4, (2,), 3, classes=("no", "yes", "perhaps"))


@pytest.mark.parametrize(
    "facts",
    [
        "Facts('classification', 4, (2,), 2)",
        "Facts('classification', 4, (2,), 2, classes=['no', 'maybe'])",
        "Facts('classification', 4, (2,), 3, classes=['no', 'yes'])",
    ],
)
def test_names_that_the_table_does_not_have_are_refused(tmp_path: Path, facts: str) -> None:
    body = "return Table(np.ones((4, 2)), np.array([0, 1, 1, 0]), classes=('no', 'yes'))"
    path = write_load(tmp_path, body, task="classification")
    path.write_text(path.read_text() + OWN_FACTS.format(facts=facts))

    assert "Make the two agree" in refusal(tmp_path)
    path.write_text(path.read_text().replace(facts, "Facts('classification', 4, [2], 2, classes=['no', 'yes'])"))
    del sys.modules["my_data"]
    assert load(spec_of(), root=tmp_path).facts.classes == ("no", "yes")


OWN_FACTS = """
    def facts(self):
        return {facts}
"""


def test_facts_of_the_classs_own_need_no_loading_and_may_know_more_classes(tmp_path: Path) -> None:
    path = write_load(tmp_path, "return Table(np.ones((4, 2)), np.array([0, 1, 2, 0]))", task="classification")
    path.write_text(path.read_text() + OWN_FACTS.format(facts="Facts('classification', 4, (2,), 5)"))

    assert load(spec_of(), root=tmp_path).facts.n_classes == 5
    path.write_text(path.read_text().replace("return Table(", "raise RuntimeError("))
    assert describe(spec_of(), root=tmp_path) == Facts("classification", 4, (2,), 5)


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ("Facts('classification', 5, (2,), 3)", "Make the two agree"),
        ("Facts('classification', 4, (3,), 3)", "Make the two agree"),
        ("Facts('classification', 4, (2,), 2)", "Make the two agree"),
        ("Facts('classification', 4, (2,), 3, n_test=1)", "Make the two agree"),
        ("Facts('regression', 4, (2,))", "Needed: Facts of the task 'classification'"),
        ("{'n_rows': 4}", "Needed: Facts of the task 'classification'"),
    ],
)
def test_facts_that_the_table_does_not_show_are_refused(tmp_path: Path, facts: str, words: str) -> None:
    path = write_load(tmp_path, "return Table(np.ones((4, 2)), np.array([0, 1, 2, 0]))", task="classification")
    path.write_text(path.read_text() + OWN_FACTS.format(facts=facts))

    assert words in refusal(tmp_path)


def test_the_interface_is_what_the_package_exports() -> None:
    assert BaseDataset.__abstractmethods__ == {"load"}
