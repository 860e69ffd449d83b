"""Models by name: what does not fit the data is said before anything is loaded or trained."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from autoexperiment import models
from autoexperiment.datasets.base import Facts
from autoexperiment.errors import DataError

ROWS = Facts("regression", 100, (5,))
CLASSES = Facts("classification", 100, (5,), 3)
TWO_CLASSES = Facts("classification", 100, (5,), 2)
PICTURES = Facts("classification", 100, (8, 9, 1), 10)

FITTING: list[tuple[str, dict[str, Any], Facts]] = [
    ("linear_regression", {}, ROWS),
    ("linear_regression", {"seed": 1, "use_gradient_descent": True, "l2_regularization": 2}, ROWS),
    ("linear_regression", {}, Facts("regression", 100, (8, 8, 3))),
    ("mlp", {"layer_sizes": [5, 1]}, ROWS),
    ("mlp", {"layer_sizes": [5, 4, 1], "output_activation": "sigmoid", "activation": "tanh"}, ROWS),
    ("mlp", {"layer_sizes": [5, 1], "output_activation": None}, TWO_CLASSES),
    ("mlp", {"layer_sizes": [5, 1], "output_activation": "sigmoid"}, TWO_CLASSES),
    ("mlp", {"layer_sizes": [5, 2], "output_activation": "softmax"}, TWO_CLASSES),
    ("mlp", {"layer_sizes": [5, 3], "output_activation": "sigmoid"}, CLASSES),
    ("mlp", {"layer_sizes": [72, 10]}, PICTURES),
    ("resnet", {}, PICTURES),
    ("resnet", {"depth": 8, "width": 3}, Facts("regression", 100, (8, 8, 2))),
]

UNFIT: list[tuple[str, dict[str, Any], Facts, str]] = [
    ("vgg", {}, ROWS, "Unknown model 'vgg'. Known: linear_regression, mlp, resnet"),
    ("linear_regression", {}, CLASSES, "predicts numbers, and the dataset is a classification"),
    ("linear_regression", {"seed": 2**63}, ROWS, "'seed' is 9223372036854775808. Allowed: a whole number from 0"),
    ("linear_regression", {"l2_regularization": -0.1}, ROWS, "'l2_regularization' is -0.1"),
    ("linear_regression", {"l2_regularization": float("nan")}, ROWS, "'l2_regularization' is nan"),
    ("linear_regression", {"l2_regularization": float("inf")}, ROWS, "'l2_regularization' is inf"),
    ("linear_regression", {"l2_regularization": True}, ROWS, "'l2_regularization' is True"),
    ("mlp", {}, ROWS, "Model 'mlp' requires 'layer_sizes' parameter"),
    ("mlp", {"layer_sizes": [5]}, ROWS, "'layer_sizes' is [5]. Allowed: a list of at least 2"),
    ("mlp", {"layer_sizes": 5}, ROWS, "'layer_sizes' is 5"),
    ("mlp", {"layer_sizes": [5, 0, 1]}, ROWS, "'layer_sizes' is [5, 0, 1]"),
    ("mlp", {"layer_sizes": [5, True]}, ROWS, "'layer_sizes' is [5, True]"),
    ("mlp", {"layer_sizes": [5, 2.0, 1]}, ROWS, "'layer_sizes' is [5, 2.0, 1]"),
    (
        "mlp",
        {"layer_sizes": [5, 1], "activation": "gelu"},
        ROWS,
        "'activation' is 'gelu'. Allowed: relu, tanh, sigmoid",
    ),
    ("mlp", {"layer_sizes": [5, 1], "output_activation": "relu"}, ROWS, "Allowed: null, sigmoid, softmax"),
    ("mlp", {"layer_sizes": [5, 1], "activaton": "relu"}, ROWS, "Did you mean 'activation'?"),
    ("mlp", {"layer_sizes": [10, 1]}, ROWS, "begins with 10, and a row of the dataset has 5 features. Set its first"),
    ("mlp", {"layer_sizes": [5, 2]}, ROWS, "ends with 2, for a regression. Set its last number to 1"),
    ("mlp", {"layer_sizes": [5, 1]}, CLASSES, "ends with 1, for 3 classes. Set its last number to 3"),
    ("mlp", {"layer_sizes": [5, 3]}, TWO_CLASSES, "for 2 classes. Set its last number to 2 or 1"),
    ("mlp", {"layer_sizes": [5, 1], "output_activation": "softmax"}, ROWS, "'softmax', which is always 1"),
    ("mlp", {"layer_sizes": [5, 1], "output_activation": "softmax"}, TWO_CLASSES, "'softmax', which is always 1"),
    ("mlp", {"layer_sizes": [5, 1]}, Facts("classification", 9, (5,), 1), "has 1 classes. A classification needs"),
    ("mlp", {"layer_sizes": [5, 3]}, Facts("classification", 9, (5,), 0), "has 0 classes. A classification needs"),
    ("mlp", {"layer_sizes": [5, 50_000, 50_000, 1]}, ROWS, "would have 2,500,400,001 parameters"),
    ("resnet", {}, ROWS, "needs pictures, rows of shape (height, width, channels)"),
    ("resnet", {}, Facts("classification", 9, (7, 30, 3), 2), "have 7 x 30 pixels. Model 'resnet' needs 8 x 8"),
    ("resnet", {}, Facts("classification", 9, (30, 7, 3), 2), "have 30 x 7 pixels"),
    ("resnet", {"depth": 9}, PICTURES, "'depth' is 9. Allowed: 8, 14, 20, 32, 44, 56"),
    ("resnet", {"depth": 20.0}, PICTURES, "'depth' is 20.0"),
    ("resnet", {"width": 0}, PICTURES, "'width' is 0. Allowed: a whole number from 1 to 4096"),
    ("resnet", {"width": 4096, "depth": 56}, PICTURES, "parameters. Allowed: up to 1,000,000,000"),
    ("resnet", {}, Facts("classification", 9, (8, 8, 3), 0), "has 0 classes"),
]


@pytest.mark.parametrize(("name", "params", "facts"), FITTING)
def test_what_fits_has_no_faults_and_is_made(name: str, params: dict[str, Any], facts: Facts) -> None:
    model = models.make({"name": name, "params": params}, facts)

    assert models.check({"name": name, "params": params}, facts) == []
    assert model.name == name
    assert params.items() <= model.params().items()
    assert (model.facts.task, model.facts.shape, model.facts.n_classes) == (facts.task, facts.shape, facts.n_classes)


@pytest.mark.parametrize(("name", "params", "facts", "fault"), UNFIT)
def test_what_does_not_fit_is_said_and_not_made(name: str, params: dict[str, Any], facts: Facts, fault: str) -> None:
    faults = models.check({"name": name, "params": params}, facts)

    assert len(faults) == 1
    assert fault in faults[0]
    with pytest.raises(DataError) as caught:
        models.make({"name": name, "params": params}, facts)
    assert faults[0] in str(caught.value)


def test_faults_are_said_together() -> None:
    spec = {"name": "mlp", "params": {"layer_sizes": [3, 2], "output_activation": "softmax"}}

    faults = models.check(spec, ROWS)

    assert [fault.split(",")[0] for fault in faults] == [
        "'layer_sizes' begins with 3",
        "'layer_sizes' ends with 2",
        "'output_activation' is 'softmax'",
    ]


def test_constructor_refuses_what_a_configuration_may_not_say() -> None:
    with pytest.raises(DataError, match="'seed' is -1"):
        models.LinearRegression(seed=-1)
    with pytest.raises(DataError, match="'activation' is 'gelu'"):
        models.MLP([2, 1], "gelu")
    with pytest.raises(DataError, match="'depth' is 9"):
        models.ResNet(9, facts=PICTURES)


def test_long_value_is_shown_short() -> None:
    (fault,) = models.check({"name": "mlp", "params": {"layer_sizes": "x" * 100_000}}, ROWS)

    assert len(fault) < 300


def test_checking_does_without_mlx(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from autoexperiment import models\n"
        "from autoexperiment.datasets.base import Facts\n"
        "pictures = Facts('classification', 9, (8, 8, 1), 2)\n"
        "assert not models.check({'name': 'resnet', 'params': {}}, pictures)\n"
        "assert not models.check({'name': 'mlp', 'params': {'layer_sizes': [64, 1]}}, pictures)\n"
        "model = models.make({'name': 'mlp', 'params': {'layer_sizes': [64, 1]}}, pictures)\n"
        "model.initial()\n"
        "sys.exit('mlx.core' in sys.modules)\n"
    )

    answer = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)

    assert answer.returncode == 0, answer.stderr


def test_mlx_comes_after_its_blas(tmp_path: Path) -> None:
    code = (
        "import numpy as np\n"
        "from autoexperiment.models import MLP\n"
        "MLP([2, 1]).predict(np.ones((1, 2)))\n"
        "from autoexperiment import blas\n"
        "assert 'imported before' not in blas.loaded().reason, blas.loaded()\n"
    )

    answer = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)

    assert answer.returncode == 0, answer.stderr


def test_name_that_the_package_does_not_have_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="VGG"):
        models.VGG  # noqa: B018
