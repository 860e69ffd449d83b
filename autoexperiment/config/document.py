"""What an experiment's configuration is: one class for each of its objects, with every default and every rule.

A rule between two fields belongs to the later one, and looks at the earlier ones as far as they are sound, so that
all faults of a configuration are found in one go.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Any, Literal, dataclass_transform

from pydantic import (
    AfterValidator,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_serializer,
)

from autoexperiment.config.fields import (
    MOST,
    TABLE_SUFFIXES,
    ClassCount,
    Column,
    DataPath,
    Deviation,
    Directory,
    Distance,
    Fraction,
    Informative,
    LayerSize,
    Loader,
    Name,
    NonNegative,
    PositiveInteger,
    PositiveNumber,
    Seconds,
    Section,
    Seed,
    Sha256,
    TablePath,
    Text,
    Url,
    Width,
    broken,
    check_json,
    is_folder,
    needs,
    needs_number,
    without_plugins,
)
from autoexperiment.config.output import check_output as check_output

if TYPE_CHECKING:
    from pydantic._internal._model_construction import ModelMetaclass
else:
    ModelMetaclass = type(Section)

MOST_DATASET_MB = 1000
MOST_PARAMETERS = 1_000_000_000
Problem = dict[str, Any]  # of pydantic: type, loc, input, ctx
Path = tuple[str | int, ...]


class _Synthetic(Section):
    n_samples: Annotated[PositiveInteger, Field(description="Rows.")] = 1000
    n_features: Annotated[PositiveInteger, Field(description="Numbers in a row.")] = 10

    @field_validator("n_features")
    @classmethod
    def _fits_into_memory(cls, n_features: int, info: ValidationInfo) -> int:
        size_mb = 8 * info.data.get("n_samples", 0) * n_features / 1e6
        if size_mb > MOST_DATASET_MB:
            raise broken(
                f"Dataset too large: estimated {size_mb:.0f} MB. "
                f"Reduce n_samples or n_features to stay under {MOST_DATASET_MB} MB"
            )
        return n_features


def _informative(n_informative: int | None, info: ValidationInfo) -> int | None:
    n_features = info.data.get("n_features", math.inf)
    if n_informative is not None and n_informative > n_features:
        raise broken(f"'n_informative' ({n_informative}) cannot exceed 'n_features' ({n_features})")
    return n_informative


_Informative = Annotated[
    Informative,
    AfterValidator(_informative),
    Field(description="Features that the targets depend on; the rest is noise. null: all."),
]
_DataSeed = Annotated[Seed, Field(description="Fixes the data and how they are split into train, val and test.")]


class SyntheticRegressionParams(_Synthetic):
    n_informative: _Informative = None
    noise_std: Annotated[Deviation, Field(description="Standard deviation of the Gaussian noise on the target.")] = 0.1
    seed: _DataSeed = 42


class SyntheticClassificationParams(_Synthetic):
    n_classes: Annotated[ClassCount, Field(description="Classes, of equal size.")] = 2
    class_sep: Annotated[Distance, Field(description="Distance of the clusters' centres; larger is easier.")] = 1.0
    n_informative: _Informative = None
    seed: _DataSeed = 42

    @field_validator("n_classes")
    @classmethod
    def _a_row_for_each(cls, n_classes: int, info: ValidationInfo) -> int:
        n_samples = info.data.get("n_samples", math.inf)
        if n_classes > n_samples:
            raise broken(
                f"'n_samples' ({n_samples}) must be >= 'n_classes' ({n_classes}), so that every class has a row"
            )
        return n_classes


class TableParams(Section):
    """Parameters of the custom dataset that reads a file."""

    task: Annotated[Literal["regression", "classification"], Field(description="What the target is.")] = "regression"
    target: Annotated[Column, Field(description="Column to predict: its name or number. null: the last.")] = None
    normalize: Annotated[bool, Field(description="Scale each feature by the train part's mean and deviation.")] = False
    sha256: Annotated[Sha256 | None, Field(description="SHA-256 of the file.")] = None
    url: Annotated[Url | None, Field(description="Where the file can be fetched from; needs `sha256`.")] = None
    download: Annotated[bool, Field(description="Fetch the file from `url` if it is missing.")] = False
    seed: _DataSeed = 42

    @field_validator("url")
    @classmethod
    def _known_content(cls, url: str | None, info: ValidationInfo) -> str | None:
        if url is not None and info.data.get("sha256", "") is None:
            raise broken("'url' needs 'sha256' beside it: what is fetched is checked before it is used")
        return url


class LoaderParams(Section, extra="allow"):
    """Keyword arguments of the custom dataset's class; two of them also say something to the harness."""

    __pydantic_extra__: dict[
        str, Annotated[Any, AfterValidator(check_json), needs("a value of JSON, without NaN and infinity")]
    ] = Field(init=False)
    normalize: Annotated[bool, Field(description="Scale each feature; not handed to the class.")] = False
    seed: Annotated[Seed | None, Field(description="Handed to the class if given; also seeds the split (42).")] = None

    @model_serializer(mode="wrap")
    def _without_absent_seed(self, serialize: Any) -> dict[str, Any]:
        whole: dict[str, Any] = serialize(self)
        return {key: value for key, value in whole.items() if not (key == "seed" and value is None)}


class PictureParams(Section):
    normalize: Annotated[bool, Field(description="Scale each channel by the train part's mean and deviation.")] = True
    download: Annotated[bool, Field(description="Fetch the files if they are missing.")] = False
    seed: _DataSeed = 42


class Cifar100Params(PictureParams):
    labels: Annotated[Literal["fine", "coarse"], Field(description="100 classes, or 20 groups of them.")] = "fine"


class _Dataset(Section):
    name: str
    path: str | None = None
    loader: str | None = None
    val_fraction: Annotated[Fraction, Field(description="Share of the rows that is evaluated after each epoch.")] = 0.1


class _SplitDataset(_Dataset):
    """A dataset without a test set of its own."""

    test_fraction: Annotated[Fraction, Field(description="Share of the rows that `mlx eval` evaluates on.")] = 0.1

    @field_validator("test_fraction")
    @classmethod
    def _something_to_train_on(cls, test_fraction: float, info: ValidationInfo) -> float:
        val_fraction = info.data.get("val_fraction", 0)
        if val_fraction + test_fraction >= 1:
            raise broken(
                f"'val_fraction' ({val_fraction:g}) and 'test_fraction' ({test_fraction:g}) leave nothing to train on. "
                "Their sum must be below 1"
            )
        return test_fraction


class SyntheticRegression(_SplitDataset):
    """A linear target with Gaussian noise."""

    name: Literal["synthetic_regression"]
    path: None = None
    loader: None = None
    params: SyntheticRegressionParams = Field(default_factory=SyntheticRegressionParams)


class SyntheticClassification(_SplitDataset):
    """Gaussian clusters, one for each class."""

    name: Literal["synthetic_classification"]
    path: None = None
    loader: None = None
    params: SyntheticClassificationParams = Field(default_factory=SyntheticClassificationParams)


class CustomTable(_SplitDataset):
    """Rows of a file of your own."""

    name: Literal["custom"]
    path: Annotated[TablePath, Field(description="A .csv, .npy, .npz or .parquet file, or a folder.")]
    loader: None = None
    params: TableParams = Field(default_factory=TableParams)

    @field_validator("params")
    @classmethod
    def _one_file(cls, params: TableParams, info: ValidationInfo) -> TableParams:
        wanted = {"sha256": params.sha256, "url": params.url, "download": params.download}
        if is_folder(info.data.get("path", "x.csv")) and any(wanted.values()):
            named = ", ".join(repr(name) for name, value in wanted.items() if value)
            raise broken(
                f"{named} in 'params' needs a file, and dataset.path is a folder. Name a file of the types "
                f"{', '.join(TABLE_SUFFIXES)}, or leave it out"
            )
        return params


class CustomLoader(_SplitDataset):
    """Rows from a class of your own."""

    name: Literal["custom"]
    path: None = None
    loader: Annotated[Loader, Field(description="A class derived from BaseDataset, as module:Class.")]
    params: LoaderParams = Field(default_factory=LoaderParams)


class _PublishedDataset(_Dataset):
    test_fraction: Annotated[None, Field(description="null: the dataset has a test set of its own.")] = None


class Pictures(_PublishedDataset):
    """MNIST or CIFAR-10 from their standard files."""

    name: Literal["mnist", "cifar10"]
    path: Annotated[DataPath | None, Field(description="Folder with the files. null: the cache folder.")] = None
    loader: None = None
    params: PictureParams = Field(default_factory=PictureParams)


class Cifar100(_PublishedDataset):
    """CIFAR-100 from its standard files."""

    name: Literal["cifar100"]
    path: Annotated[DataPath | None, Field(description="Folder with the files. null: the cache folder.")] = None
    loader: None = None
    params: Cifar100Params = Field(default_factory=Cifar100Params)


_ModelSeed = Annotated[Seed, Field(description="Fixes the initial weights.")]
_L2 = Annotated[NonNegative, Field(description="Penalty: this times the sum of squared weights over the train rows.")]


class LinearRegressionParams(Section):
    seed: _ModelSeed = 42
    use_gradient_descent: Annotated[bool, Field(description="Train by gradients instead of in closed form.")] = False
    l2_regularization: _L2 = 0.0


def _bounded(sizes: list[int]) -> list[int]:
    n_parameters = sum((a + 1) * b for a, b in pairwise(sizes))
    if n_parameters > MOST_PARAMETERS:
        raise broken(f"'layer_sizes' makes {n_parameters} parameters. Allowed: up to {MOST_PARAMETERS}")
    return sizes


class MlpParams(Section):
    layer_sizes: Annotated[
        list[LayerSize], Field(min_length=2, max_length=1000, description="Sizes: [input, hidden…, output]."),
        AfterValidator(_bounded),
        needs("a list of 2 or more positive integers: [input, hidden…, output]"),
    ]  # fmt: skip
    activation: Annotated[Literal["relu", "tanh", "sigmoid"], Field(description="Of the hidden layers.")] = "relu"
    output_activation: Annotated[Literal["sigmoid", "softmax"] | None, Field(description="Of the output.")] = None
    lora_rank: Annotated[
        PositiveInteger | None,
        needs_number("positive integer", f"1 to {MOST}, or null to train the weights themselves"),
        Field(description="Keep the first weights and train an update of this rank. null: train the weights."),
    ] = None
    seed: _ModelSeed = 42
    l2_regularization: _L2 = 0.0

    @field_validator("output_activation")
    @classmethod
    def _several_outputs(cls, output_activation: str | None, info: ValidationInfo) -> str | None:
        if output_activation == "softmax" and info.data.get("layer_sizes", [0])[-1] == 1:
            raise broken(
                "Invalid value for 'output_activation': softmax of one output is always 1. "
                "Use sigmoid, or as many outputs as there are classes"
            )
        return output_activation

    @model_serializer(mode="wrap")
    def _without_absent_rank(self, serialize: Any) -> dict[str, Any]:
        whole: dict[str, Any] = serialize(self)
        return {key: value for key, value in whole.items() if not (key == "lora_rank" and value is None)}


class ResNetParams(Section):
    depth: Annotated[Literal[8, 14, 20, 32, 44, 56], Field(description="Layers: 6n + 2.")] = 20
    width: Annotated[
        Width, Field(description="Channels of the first stage; the others have 2 and 4 times as many.")
    ] = 16
    seed: _ModelSeed = 42
    l2_regularization: _L2 = 0.0


class LinearRegression(Section):
    """Least squares, in closed form or by gradients."""

    name: Literal["linear_regression"]
    params: LinearRegressionParams = Field(default_factory=LinearRegressionParams)


class Mlp(Section):
    """A multi-layer perceptron."""

    name: Literal["mlp"]
    params: MlpParams


class ResNet(Section):
    """A residual network for small pictures."""

    name: Literal["resnet"]
    params: ResNetParams = Field(default_factory=ResNetParams)


class Training(Section):
    epochs: Annotated[PositiveInteger, Field(description="Passes over the train rows.")] = 10
    batch_size: Annotated[PositiveInteger, Field(description="Rows of one step.")] = 32
    learning_rate: Annotated[PositiveNumber, Field(description="Step size.")] = 0.001
    optimizer: Literal["adam", "sgd", "rmsprop", "adamw"] = "adam"
    seed: Annotated[Seed, Field(description="Fixes the order of the rows.")] = 42
    timeout_s: Annotated[Seconds, Field(description="The run is ended after so many seconds. null: never.")] = None


class Output(Section):
    directory: Annotated[Directory, Field(description="Folder of all runs, relative to the workspace's root.")] = (
        "outputs"
    )
    save_checkpoints: bool = True
    checkpoint_frequency: Annotated[PositiveInteger, Field(description="A checkpoint after so many epochs.")] = 1
    save_logs: Annotated[bool, Field(description="Keep the training process's output as run.log.")] = True


_TABLE, _LOADER = "table", "loader"
DATASETS: Mapping[str, type[Section]] = {
    "synthetic_regression": SyntheticRegression, "synthetic_classification": SyntheticClassification,
    "custom": CustomTable, "mnist": Pictures, "cifar10": Pictures, "cifar100": Cifar100,
}  # fmt: skip
MODELS: Mapping[str, type[Section]] = {"linear_regression": LinearRegression, "mlp": Mlp, "resnet": ResNet}


def _form(value: object) -> str | None:
    """The tag of a dataset's form: the name of its class. None: no dataset is called so."""
    form = form_of(DATASETS, value) if isinstance(value, dict) else type(value)
    return form.__name__ if form else None


def form_of(forms: Mapping[str, type[Section]], value: object) -> type[Section] | None:
    """The class that an object with a `name` is checked against; None if its name is missing or unknown."""
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        return None
    form = forms.get(value["name"])
    return CustomLoader if form is CustomTable and value.get("loader") is not None else form


Dataset = Annotated[
    Annotated[SyntheticRegression, Tag("SyntheticRegression")]
    | Annotated[SyntheticClassification, Tag("SyntheticClassification")]
    | Annotated[CustomTable, Tag("CustomTable")]
    | Annotated[CustomLoader, Tag("CustomLoader")]
    | Annotated[Pictures, Tag("Pictures")]
    | Annotated[Cifar100, Tag("Cifar100")],
    Discriminator(_form),
]
Model = Annotated[LinearRegression | Mlp | ResNet, Field(discriminator="name")]


@dataclass_transform(kw_only_default=True, field_specifiers=(Field,))
class _Checked(ModelMetaclass):
    """Makes `ExperimentConfig(…)` refuse what the loader refuses, in its words, instead of pydantic's."""

    def __call__(cls, **values: Any) -> Any:
        from autoexperiment.config.loader import ConfigLoader

        return ConfigLoader.load_from_dict(values)


class ExperimentConfig(Section, metaclass=_Checked):
    """One experiment: data, a model, how it is trained, and where the run is written.

    Raises: ConfigError: with all faults. `model_copy(update=…)` checks nothing: it is for values that are checked.
    """

    name: Annotated[Name, Field(description="The experiment's name: the folder of its runs.")]
    description: Annotated[Text | None, Field(description="For people.")] = None
    dataset: Dataset
    model: Model
    training: Training = Field(default_factory=Training)
    output: Output = Field(default_factory=Output)


def check(value: object) -> ExperimentConfig | list[Problem]:
    """The configuration that a JSON value is, or everything that is wrong with it, with `loc` as its place there."""
    try:
        with without_plugins():
            return ExperimentConfig.model_validate(value)
    except ValidationError as error:
        return [{**found, "loc": _place(found["loc"])} for found in error.errors(include_url=False)]


def _place(loc: Path) -> Path:
    """Without the tag of the form that a dataset or a model has."""
    return loc[:1] + loc[2:] if loc[:1] in (("dataset",), ("model",)) else loc


def sections(value: object) -> dict[Path, type[Section]]:
    """The classes that the parts of a configuration are checked against, as far as its names are known."""
    found: dict[Path, type[Section]] = {(): ExperimentConfig, ("training",): Training, ("output",): Output}
    for key, forms in (("dataset", DATASETS), ("model", MODELS)):
        form = form_of(forms, value.get(key)) if isinstance(value, dict) else None
        if form:
            params = form.model_fields["params"].annotation
            found |= {(key,): form, (key, "params"): params} if isinstance(params, type) else {}
    return found
