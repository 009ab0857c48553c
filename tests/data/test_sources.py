import importlib

import pytest
from numpy.testing import assert_allclose

from research.config.data_options import DataKind, ImageData, Scaling
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


@pytest.mark.parametrize("scaling", Scaling)
def test_inputs_have_the_mean_and_the_deviation_that_are_asked_for(scaling):
    data = ImageData(scaling=scaling, input_mean=0.5, input_scale=3.0)
    dataset = load(data)
    inputs = dataset.standardization.apply(dataset.x)
    assert inputs.mean() == pytest.approx(0.5)
    if scaling is Scaling.jointly:
        assert inputs.std() == pytest.approx(3.0)
        assert dataset.mean_square == pytest.approx(0.5**2 + 3.0**2)
    assert_allclose(inputs, 3 * usual_inputs(scaling) + 0.5, atol=1e-9)


def usual_inputs(scaling):
    dataset = load(ImageData(scaling=scaling))
    return dataset.standardization.apply(dataset.x)
