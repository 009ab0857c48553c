"""From the settings to a dataset."""

import dataclasses
import functools
import importlib
from pathlib import Path

from research.config.data_options import Data, Scaling
from research.config.paths import expand_home
from research.data.dataset import Dataset, DatasetInfo, check_not_constant
from research.data.image_files import last_change
from research.data.standardize import fit_standardization_per_feature
from research.data.surprises import report_surprises
from research.data.tfds_directory import OFFLINE_DATASETS


def describe(data: Data) -> DatasetInfo:
    """What is known before the data is loaded. A dataset of the catalogue is prepared if needed.

    Raises:
        ValueError: The data is missing, or it does not fit the settings.
    """
    module = importlib.import_module(f"research.data.{_module_name(data)}")
    return module.describe(data)


def load(data: Data) -> Dataset:
    """The dataset. Equal settings give the same object, unless its files have changed.

    Lines on standard error say what may be unexpected, such as a class without training example.

    Raises:
        ValueError: The data is missing or damaged, or it does not fit the settings.
    """
    return _load_cached(data, _find_files(data))


def last_change_of(data: Data) -> int | None:
    """When the user's own files were last changed, in ns; None for other data."""
    files = _find_files(data)
    return None if files is None else files[1]


def _find_files(data: Data) -> tuple[Path, int] | None:
    """Where the user's own files are, and when they were last changed; None for other data."""
    path = getattr(data, "path", None)
    if not path:
        return None
    place = expand_home(path).absolute()
    return place, last_change(place)


@functools.lru_cache(maxsize=8)
def _load_cached(data: Data, files: tuple[Path, int] | None) -> Dataset:
    """Loads a dataset. ``files`` is part of the cache key only, so a change is noticed."""
    name = _module_name(data)
    module = importlib.import_module(f"research.data.{name}")
    load_dataset = getattr(module, f"load_{name}")
    dataset = _standardize(load_dataset(data), data)
    is_per_feature = getattr(data, "scaling", Scaling.jointly) is not Scaling.jointly
    report_surprises(dataset, is_per_feature=is_per_feature)
    return _set_moments(dataset, data)


def _standardize(dataset: Dataset, data: Data) -> Dataset:
    """The dataset, standardized as the settings say."""
    if getattr(data, "scaling", Scaling.jointly) is Scaling.jointly:
        return dataset
    standardization = fit_standardization_per_feature(dataset.x)
    check_not_constant(dataset.name, standardization)
    return dataclasses.replace(dataset, standardization=standardization)


def _set_moments(dataset: Dataset, data: Data) -> Dataset:
    """The dataset with the mean and the standard deviation of inputs that the settings say."""
    mean = getattr(data, "input_mean", 0.0)
    scale = getattr(data, "input_scale", 1.0)
    if (mean, scale) == (0.0, 1.0):
        return dataset
    if dataset.vocabulary:
        raise ValueError(
            "data.input_mean must be 0 and data.input_scale 1 (the examples of "
            f"data={dataset.name} are tokens), got {mean:g} and {scale:g}"
        )
    standardization = dataset.standardization.with_moments(mean, scale)
    return dataclasses.replace(dataset, standardization=standardization)


def _module_name(data: Data) -> str:
    """The module of this package that describes and loads the dataset."""
    name = data.name.name
    return name if name in OFFLINE_DATASETS else "catalog"
