"""Label noise, and examples without a label."""

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from research.config.data_options import ImageData
from research.data.dataset import LabeledArrays, select_splits
from research.data.sources import load

FRACTIONS = [0.0, 0.3, 1.0]


@pytest.fixture(scope="module")
def clean():
    """The digits without label noise."""
    return load(ImageData())


def load_noisy(fraction, **changes):
    return load(ImageData(label_noise=fraction, **changes))


@pytest.mark.parametrize("fraction", FRACTIONS)
def test_label_noise_changes_its_fraction_of_the_training_labels_alone(clean, fraction):
    """One in ten replacements is the right label."""
    noisy = load_noisy(fraction)
    is_changed = clean.y != noisy.y
    assert is_changed.mean() == pytest.approx(0.9 * fraction, abs=0.04)
    assert_array_equal(clean.x, noisy.x)
    assert_array_equal(clean.eval_y, noisy.eval_y)


@pytest.mark.parametrize("fraction", FRACTIONS)
def test_more_noise_keeps_the_labels_that_less_noise_changed(clean, fraction):
    noisy = load_noisy(fraction)
    noisier = load_noisy(min(1.0, fraction + 0.2))
    is_changed = noisy.y != clean.y
    assert_array_equal(noisier.y[is_changed], noisy.y[is_changed])


@pytest.mark.parametrize("fraction", FRACTIONS)
def test_noisy_labels_are_the_same_in_every_run_and_under_a_limit(fraction):
    noisy = load_noisy(fraction)
    again = load_noisy(fraction)
    few = load_noisy(fraction, limit=50)
    assert_array_equal(noisy.y, again.y)
    assert_array_equal(noisy.y[:50], few.y)


def test_examples_without_a_label_are_refused_by_their_split():
    x = np.zeros((100, 6))
    splits = {
        "train": LabeledArrays(x, np.arange(100) % 4),
        "unsupervised": LabeledArrays(x, np.full(100, -1)),
    }
    sizes = {"train": 100, "unsupervised": 100}
    data = ImageData(split="unsupervised", eval_split="train")
    message = "^data.split must have labels: those of unsupervised are missing$"
    with pytest.raises(ValueError, match=message):
        select_splits(data, sizes, splits.__getitem__, classes=4)
