"""Configurations for tests: a small one, changes to it, and random sound ones."""

from __future__ import annotations

import copy
from typing import Any

from hypothesis import strategies as st

from autoexperiment.config import ConfigLoader
from autoexperiment.errors import ConfigError

GONE = object()
SMALL: dict[str, Any] = {
    "name": "first",
    "dataset": {"name": "synthetic_regression", "params": {"n_samples": 100, "n_features": 5}},
    "model": {"name": "linear_regression"},
}
CLASSES = {"name": "synthetic_classification", "params": {}}
MLP = {"name": "mlp", "params": {"layer_sizes": [5, 1]}}
TABLE = {"name": "custom", "path": "data/prices.csv"}
LOADER = {"name": "custom", "loader": "my_data:Prices"}


def changed(changes: dict[str, Any], base: dict[str, Any] = SMALL) -> dict[str, Any]:
    """A copy of a configuration with values at dotted places; GONE takes one away."""
    made = copy.deepcopy(base)
    for dotted, value in changes.items():
        *way, last = dotted.split(".")
        inside = made
        for part in way:
            inside = inside.setdefault(part, {})
        if value is GONE:
            del inside[last]
        else:
            inside[last] = copy.deepcopy(value)
    return made


def faults(value: Any) -> list[str]:
    """The sentences about a configuration, without the title; [] when it is sound."""
    try:
        ConfigLoader.load_from_dict(value)
    except ConfigError as error:
        title, *lines = str(error).split("\n  - ")
        assert title == "Configuration validation failed:"
        return lines
    return []


SEEDS = st.integers(0, 2**63 - 1)
COUNTS = st.integers(1, 1000)
NUMBERS = st.floats(1e-30, 1e30)
ZERO_UP = st.one_of(st.just(0), NUMBERS)
# `1e3` is text for the dumper, which follows YAML 1.1, and a number for YAML 1.2
TEXTS = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=20).filter(
    lambda text: text[0] not in "+-.0123456789"
)
PATHS = TEXTS.filter(lambda text: not text.startswith("~"))


def _section(needed: dict[str, Any] | None = None, **optional: Any) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries(needed or {}, optional=optional)


def _dataset(name: str, params: Any, needed: Any = None, **optional: Any) -> st.SearchStrategy[dict[str, Any]]:
    shares: dict[str, Any] = {"val_fraction": st.floats(0, 0.4), "test_fraction": st.floats(0, 0.4)}
    if name in ("mnist", "cifar100"):
        shares["test_fraction"] = st.none()
    return _section({"name": st.just(name), **(needed or {})}, params=params, **shares, **optional)


_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**12), 10**12)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)
_PICTURES = {"normalize": st.booleans(), "download": st.booleans(), "seed": SEEDS}
_REGRESSION = _section(
    {"n_features": st.integers(5, 50), "n_samples": COUNTS}, n_informative=st.none() | st.integers(1, 5),
    noise_std=ZERO_UP.filter(lambda size: size <= 1e15), seed=SEEDS,
)  # fmt: skip
_CLASSES = _section(
    {"n_samples": st.integers(10, 99)},
    n_classes=st.integers(2, 10),
    class_sep=NUMBERS.filter(lambda size: size <= 1e15),
    n_informative=st.integers(1, 10),
)
_TABLES = _section(
    task=st.sampled_from(["regression", "classification"]), target=st.none() | st.integers(0, 9) | TEXTS,
    normalize=st.booleans(), seed=SEEDS,
)  # fmt: skip
_DATASETS = st.one_of(
    _dataset("synthetic_regression", _REGRESSION, path=st.none()),
    _dataset("synthetic_classification", _CLASSES),
    _dataset("custom", _TABLES, {"path": st.sampled_from(["/a/b.csv", "c d.NPY", "x.npz", "y.parquet", "folder", "é/"])}),
    _dataset("custom", _section({"sha256": st.just("ab" * 32)}, download=st.booleans()), {"path": st.just("a.csv")}),
    _dataset("custom", st.dictionaries(TEXTS.filter(lambda t: t not in ("normalize", "seed")), _JSON, max_size=3),
             {"loader": st.just("a.b_2:C")}),
    _dataset("mnist", _section(**_PICTURES), path=st.none() | PATHS),
    _dataset("cifar100", _section(**_PICTURES, labels=st.sampled_from(["fine", "coarse"]))),
)  # fmt: skip
_SIZES = st.lists(COUNTS, min_size=1, max_size=4).map(lambda sizes: [*sizes, 2])
_WORDS = st.sampled_from(["relu", "tanh", "sigmoid"])
_MODELS = st.one_of(
    _section({"name": st.just("linear_regression")},
             params=_section(seed=SEEDS, use_gradient_descent=st.booleans(), l2_regularization=ZERO_UP)),
    _section({"name": st.just("mlp"), "params": _section({"layer_sizes": _SIZES}, activation=_WORDS,
             output_activation=st.sampled_from([None, "sigmoid", "softmax"]), seed=SEEDS)}),
    _section({"name": st.just("resnet")}, params=_section(depth=st.sampled_from([8, 14, 20, 32, 44, 56]), width=COUNTS)),
)  # fmt: skip
CONFIGS = _section(
    {"name": st.from_regex(r"[A-Za-z][A-Za-z0-9_-]{4,20}", fullmatch=True), "dataset": _DATASETS, "model": _MODELS},
    description=st.none() | TEXTS,
    training=_section(epochs=COUNTS, batch_size=COUNTS, learning_rate=NUMBERS, seed=SEEDS,
                      optimizer=st.sampled_from(["adam", "sgd", "rmsprop", "adamw"]), timeout_s=st.none() | NUMBERS.filter(
                          lambda seconds: seconds < 1e9)),
    output=_section(directory=st.sampled_from(["runs", "a/b", "a/../b", "."]), save_checkpoints=st.booleans(),
                    checkpoint_frequency=COUNTS, save_logs=st.booleans()),
)  # fmt: skip
