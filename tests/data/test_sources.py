import importlib

import pytest

from research.config.data_options import DataKind, ImageData
from research.data.sources import load
from research.data.tfds_directory import OFFLINE_DATASETS


@pytest.mark.parametrize("name", OFFLINE_DATASETS)
def test_every_offline_dataset_is_a_module_that_describes_and_loads_it(name):
    module = importlib.import_module(f"research.data.{name}")
    assert callable(module.describe)
    assert callable(getattr(module, f"load_{name}"))


def test_every_offline_dataset_can_be_selected():
    assert set(OFFLINE_DATASETS) <= set(DataKind.__members__)


def test_equal_settings_give_the_same_object_and_others_another():
    assert load(ImageData(limit=30)) is load(ImageData(limit=30))
    assert load(ImageData(limit=30)) is not load(ImageData(limit=31))
