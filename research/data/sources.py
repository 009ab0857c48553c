"""From the settings to a dataset."""

import dataclasses
import functools
import importlib

from research.config.data_options import Data, Scaling
from research.data.dataset import Dataset, DatasetInfo, fit_standardization_per_feature
from research.data.tfds_directory import OFFLINE_DATASETS


def describe(data: Data) -> DatasetInfo:
    """What is known before the data is loaded. A dataset of the catalogue is prepared if needed.

    Raises:
        ValueError: The data is missing, or it does not fit the settings.
    """
    module = importlib.import_module(f"research.data.{_module_name(data)}")
    return module.describe(data)


def load(data: Data) -> Dataset:
    """The dataset. Equal settings give the same object.

    Raises:
        ValueError: The data is missing or damaged, or it does not fit the settings.
    """
    return _load_cached(data)


@functools.lru_cache(maxsize=8)
def _load_cached(data: Data) -> Dataset:
    name = _module_name(data)
    module = importlib.import_module(f"research.data.{name}")
    load_dataset = getattr(module, f"load_{name}")
    dataset = load_dataset(data)
    if getattr(data, "scaling", Scaling.jointly) is Scaling.jointly:
        return dataset
    offset, scale = fit_standardization_per_feature(dataset.x)
    return dataclasses.replace(dataset, offset=offset, scale=scale)


def _module_name(data: Data) -> str:
    """The module of this package that describes and loads the dataset."""
    name = data.name.name
    return name if name in OFFLINE_DATASETS else "catalog"
