"""A model's folder: the same numbers come back, and nothing in it is trusted."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoexperiment import models
from autoexperiment.datasets.base import Facts
from autoexperiment.errors import DataError
from autoexperiment.models import MLP, LinearRegression, Network, ResNet
from autoexperiment.models import folder as folders

Array = np.ndarray[Any, Any]
PICTURES = Facts("classification", 0, (8, 8, 1), 3)


def example(name: str) -> Network:
    if name == "linear_regression":
        model = LinearRegression(7, l2_regularization=0.5, n_features=3)
        model.set_arrays({"weights": np.array([1.0, 1 / 3, -2.0]), "bias": np.array([0.1])})
        return model
    if name == "resnet":
        return ResNet(8, 2, seed=7, l2_regularization=0.5, facts=PICTURES)
    facts = Facts("classification", 0, (2, 1, 2), 2)
    return MLP([4, 3, 1], "tanh", output_activation="sigmoid", seed=7, l2_regularization=0.5, facts=facts)


NAMES = ("linear_regression", "mlp", "resnet")


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A folder with a linear regression of 3 features."""
    example("linear_regression").save(tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize("name", NAMES)
def test_saved_model_comes_back_whole(tmp_path: Path, name: str) -> None:
    model = example(name)
    x = np.random.default_rng(0).normal(size=(5, *model.facts.shape))

    model.save(tmp_path / "a" / "b")
    again = models.load(tmp_path / "a" / "b")

    assert type(again) is type(model)
    assert again.config() == model.config()
    np.testing.assert_array_equal(again.predict(x), model.predict(x))
    for key, array in model.arrays().items():
        np.testing.assert_array_equal(again.arrays()[key], array)
        assert again.arrays()[key].dtype == array.dtype


@settings(max_examples=25, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 6), min_size=2, max_size=5),
    activation=st.sampled_from(["relu", "tanh", "sigmoid"]),
    seed=st.integers(0, 2**63 - 1),
    l2=st.floats(0, 1e300),
    data=st.data(),
)
def test_any_mlp_comes_back_whole(
    tmp_path_factory: pytest.TempPathFactory,
    sizes: list[int],
    activation: str,
    seed: int,
    l2: float,
    data: st.DataObject,
) -> None:
    model = MLP(sizes, activation, seed=seed, l2_regularization=l2)
    numbers = st.floats(width=32, allow_nan=False, allow_infinity=False)
    count = model.n_parameters()
    flat = np.array(data.draw(st.lists(numbers, min_size=count, max_size=count)), np.float32)
    ends = np.cumsum([int(np.prod(shape)) for shape in model.shapes().values()])[:-1]
    parts = zip(model.shapes().items(), np.split(flat, ends), strict=True)
    model.set_arrays({name: part.reshape(shape) for (name, shape), part in parts})

    folder = tmp_path_factory.mktemp("model")
    model.save(folder)
    again = models.load(folder)

    assert again.config() == model.config()
    assert [array.tobytes() for array in again.arrays().values()] == [
        array.tobytes() for array in model.arrays().values()
    ]


@pytest.mark.parametrize("name", NAMES)
def test_same_model_is_saved_as_the_same_bytes(tmp_path: Path, name: str) -> None:
    for folder in ("one", "other"):
        example(name).save(tmp_path / folder)

    files = {path.name: path.read_bytes() for path in (tmp_path / "one").iterdir()}
    assert files == {path.name: path.read_bytes() for path in (tmp_path / "other").iterdir()}
    assert files.keys() == {"config.json", *(f"{key}.npy" for key in example(name).arrays())}


def test_mlp_files_have_the_names_of_their_layers(tmp_path: Path) -> None:
    MLP([2, 3, 1]).save(tmp_path)

    names = {path.name for path in tmp_path.iterdir()}

    layers = {f"layer_{i}_{kind}.npy" for i in (0, 1) for kind in ("weights", "bias")}
    assert names == layers | {"config.json"}


def test_files_are_those_that_numpy_reads(saved: Path) -> None:
    np.testing.assert_array_equal(np.load(saved / "weights.npy", allow_pickle=False), [1.0, 1 / 3, -2.0])


def test_files_that_numpy_wrote_are_read(saved: Path) -> None:
    np.save(saved / "weights.npy", np.array([4.0, 5.0, 6.0]))

    np.testing.assert_array_equal(models.load(saved).arrays()["weights"], [4.0, 5.0, 6.0])


def test_loading_into_a_model_makes_it_the_saved_one(tmp_path: Path) -> None:
    MLP([4, 3, 1], "tanh", seed=1).save(tmp_path)
    model = MLP([4, 3, 1], "relu", seed=2)
    x = np.ones((2, 4))
    model.predict(x)

    model.load(tmp_path)

    assert model.activation == "tanh"
    np.testing.assert_array_equal(model.predict(x), MLP([4, 3, 1], "tanh", seed=1).predict(x))


def test_model_of_other_shapes_is_not_loaded_into_one(tmp_path: Path) -> None:
    MLP([4, 3, 1]).save(tmp_path)

    with pytest.raises(DataError, match=r"other shapes.*layer_0_weights \(4, 2\).*layer_0_weights \(4, 3\)"):
        MLP([4, 2, 1]).load(tmp_path)


def test_model_of_another_kind_is_not_loaded_into_one(saved: Path) -> None:
    with pytest.raises(DataError, match=r"'linear_regression'.*Needed here: 'mlp'"):
        MLP([3, 1]).load(saved)


def test_failed_loading_leaves_the_model_as_it_was(saved: Path) -> None:
    (saved / "bias.npy").write_bytes(b"")
    model = LinearRegression()

    with pytest.raises(DataError):
        model.load(saved)

    assert model.arrays() == {}


def rewrite(folder: Path, **changes: Any) -> None:
    """Change fields of config.json."""
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "vgg"}, "Unknown model 'vgg'"),
        ({"model": ["mlp"]}, "wrong kind"),
        ({"params": []}, "wrong kind"),
        ({"params": {"seed": True}}, "'seed' is True"),
        ({"params": {"seed": -1}}, "'seed' is -1"),
        ({"params": {"sede": 1}}, "Did you mean 'seed'"),
        ({"params": {"l2_regularization": "0"}}, "'l2_regularization' is '0'"),
        ({"params": {"use_gradient_descent": 1}}, "'use_gradient_descent' is 1"),
        ({"task": "clustering"}, "wrong kind"),
        ({"task": "classification", "n_classes": 2}, "predicts numbers"),
        ({"row_shape": [3, 1]}, "wrong kind"),
        ({"row_shape": [3.0]}, "wrong kind"),
        ({"row_shape": [-3]}, "wrong kind"),
        ({"row_shape": "abc"}, "wrong kind"),
        ({"row_shape": []}, "wrong kind"),
        ({"row_shape": 3}, "wrong kind"),
        # 2**64 numbers, which count as none where whole numbers have 64 bits
        ({"row_shape": [2**21, 2**21, 2**22], "params": {"use_gradient_descent": True}}, "would have"),
        ({"row_shape": [4]}, r"shape \(3,\). Needed: float64 of shape \(4,\)"),
        ({"row_shape": [2**31 - 1] * 3, "params": {"use_gradient_descent": True}}, "would have"),
        ({"n_classes": -1}, "wrong kind"),
        ({"n_classes": None}, "wrong kind"),
        ({"more": 1}, "nothing else"),
    ],
)
def test_configuration_that_is_not_ours_is_refused(saved: Path, changes: dict[str, Any], message: str) -> None:
    rewrite(saved, **changes)

    with pytest.raises(DataError, match=message) as caught:
        models.load(saved)

    assert str(saved) in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "not valid JSON"),
        (b"[" * 100_000, "not valid JSON"),
        (b'{"model": NaN}', "not valid JSON"),
        (b"\xff\xfe\x00", "not valid JSON"),
        (b"9" * 5000, "not valid JSON"),
        (b"[]", "no model's configuration"),
        (b"null", "no model's configuration"),
        (b"{}", "no model's configuration"),
    ],
)
def test_configuration_that_is_no_json_object_is_refused(saved: Path, text: bytes, message: str) -> None:
    (saved / "config.json").write_bytes(text)

    with pytest.raises(DataError, match=message):
        models.load(saved)


class Planted:
    """Writes a file when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return Path.touch, (self.target,)


@pytest.mark.parametrize("form", ["bare", "in an array"])
def test_pickle_is_refused_and_not_run(saved: Path, tmp_path: Path, form: str) -> None:
    planted = Planted(tmp_path / "ran")
    if form == "bare":
        (saved / "weights.npy").write_bytes(pickle.dumps(planted))
    else:
        np.save(saved / "weights.npy", np.array([planted, planted, planted], object), allow_pickle=True)

    with pytest.raises(DataError, match=r"weights\.npy"):
        models.load(saved)

    assert not (tmp_path / "ran").exists()


def npy(header: str, numbers: bytes = bytes(24)) -> bytes:
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode() + numbers


RIGHT = "{'descr': '<f8', 'fortran_order': False, 'shape': (3,), }\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(b"", "no array", id="empty"),
        pytest.param(b"\x93NUMPY", "no array", id="cut in the magic"),
        pytest.param(npy(RIGHT)[:20], "no array", id="cut in the header"),
        pytest.param(npy(RIGHT, bytes(23)), "23 bytes", id="cut in the numbers"),
        pytest.param(npy(RIGHT, bytes(25)), "25 bytes", id="a byte too long"),
        pytest.param(npy(RIGHT.replace("(3,)", "(2,)"), bytes(16)), r"shape \(2,\)", id="too few"),
        pytest.param(npy(RIGHT.replace("(3,)", "(3, 1)")), r"shape \(3, 1\)", id="one more axis"),
        pytest.param(npy(RIGHT.replace("(3,)", "(1000000000000,)")), "shape", id="a terabyte claimed"),
        pytest.param(npy(RIGHT.replace("<f8", "<f4"), bytes(12)), "<f4", id="float32"),
        pytest.param(npy(RIGHT.replace("<f8", ">f8")), ">f8", id="the other byte order"),
        pytest.param(npy(RIGHT.replace("<f8", "<i8")), "<i8", id="whole numbers"),
        pytest.param(npy(RIGHT.replace("<f8", "|O")), r"\|O", id="objects"),
        pytest.param(npy(RIGHT.replace("(3,)", "(__import__('os').getpid(),)")), "no array", id="code"),
        pytest.param(npy(RIGHT.replace("(3,)", "(" * 900)), "no array", id="brackets"),
        pytest.param(npy(RIGHT[:-1] + " " * 60_000 + "\n"), "no array", id="a huge header"),
        pytest.param(b"\x93NUMPY\x02\x00\xff\xff\xff\xff" + RIGHT.encode(), "no array", id="a header of 4 GB claimed"),
        pytest.param(npy(RIGHT).replace(b"NUMPY\x01", b"NUMPY\x03"), "no array", id="another version"),
        pytest.param(
            b"\x93NUMPY\x01\x00\xff\xff" + RIGHT[:-1].encode().ljust(999) + b"\n" + bytes(24),
            "no array",
            id="a false length",
        ),
        pytest.param(b"PK\x03\x04" + bytes(50), "no array", id="a zip file"),
        pytest.param(npy(RIGHT, np.array([1, np.nan, 2]).tobytes()), "NaN or infinite", id="nan"),
        pytest.param(npy(RIGHT, np.array([1, np.inf, 2]).tobytes()), "NaN or infinite", id="inf"),
    ],
)
def test_array_file_that_is_not_exactly_right_is_refused(saved: Path, content: bytes, message: str) -> None:
    (saved / "weights.npy").write_bytes(content)

    with pytest.raises(DataError, match=message) as caught:
        models.load(saved)

    assert str(saved / "weights.npy") in str(caught.value)


@settings(max_examples=60, deadline=None)
@given(place=st.integers(0, 151), value=st.integers(0, 255), end=st.integers(0, 152))
def test_damaged_array_file_is_refused_or_has_finite_numbers(
    tmp_path_factory: pytest.TempPathFactory, place: int, value: int, end: int
) -> None:
    folder = tmp_path_factory.mktemp("model")
    example("linear_regression").save(folder)
    file = folder / "weights.npy"
    blob = bytearray(file.read_bytes())
    blob[place] = value
    file.write_bytes(blob[: max(end, place)] if end % 2 else blob)

    try:
        weights = models.load(folder).arrays()["weights"]
    except DataError:
        return

    assert weights.shape == (3,)
    assert np.isfinite(weights).all()


def test_columns_first_order_is_refused(tmp_path: Path) -> None:
    MLP([2, 2, 1]).save(tmp_path)
    np.save(tmp_path / "layer_0_weights.npy", np.asfortranarray(np.array([[1, 2], [3, 4]], np.float32)))

    with pytest.raises(DataError, match="in C order"):
        models.load(tmp_path)


def test_sparse_file_of_a_terabyte_is_not_read(saved: Path) -> None:
    (saved / "weights.npy").write_bytes(npy(RIGHT))
    os.truncate(saved / "weights.npy", 10**12)

    with pytest.raises(DataError, match="bytes of numbers"):
        models.load(saved)


@pytest.mark.parametrize("name", ["weights.npy", "config.json"])
@pytest.mark.parametrize("kind", ["link", "pipe", "folder", "missing"])
def test_what_is_no_plain_file_is_refused(saved: Path, name: str, kind: str) -> None:
    target = saved / name
    moved = target.rename(saved.parent / name)
    if kind == "link":
        target.symlink_to(moved)
    elif kind == "pipe":
        os.mkfifo(target)
    elif kind == "folder":
        target.mkdir()

    with pytest.raises(DataError, match=name):
        models.load(saved)


def test_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere/config\.json is missing"):
        LinearRegression().load(tmp_path / "nowhere")


def test_a_configuration_without_end_is_not_read(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folders, "_CONFIG_BYTES", 1000)
    (saved / "config.json").write_bytes(b" " * 1001)

    with pytest.raises(DataError, match="longer than 1,000 bytes"):
        models.load(saved)


def test_names_of_classes_come_back(tmp_path: Path) -> None:
    facts = Facts("classification", 0, (4,), 2, classes=("no", "yes"))
    MLP([4, 2], facts=facts).save(tmp_path)

    assert models.load(tmp_path).facts == facts


@pytest.mark.parametrize("names", [["a"], ["a", "a"], ["a", 1], "ab", None, {"a": 0, "b": 1}])
def test_names_that_are_not_one_for_each_class_are_refused(tmp_path: Path, names: Any) -> None:
    MLP([4, 2]).save(tmp_path)
    rewrite(tmp_path, classes=names)

    with pytest.raises(DataError, match="wrong kind"):
        models.load(tmp_path)


def test_a_model_without_weights_is_not_saved(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="linear_regression has no weights yet, so there is nothing to save"):
        LinearRegression().save(tmp_path / "model")

    assert not (tmp_path / "model").exists()
