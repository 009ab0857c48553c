import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from research.config.data_options import ImageData, Scaling
from research.data.compatibility import check_data
from research.data.digits import SPLITS, load_digits
from research.data.sources import load
from research.training.objective import normalize_inputs

from ..builders import make_config
from .rows import have_common_rows


@pytest.fixture(scope="module")
def digits():
    return load_digits(ImageData())


@pytest.fixture(scope="module")
def per_feature():
    """The digits, standardized for each pixel separately."""
    return load(ImageData(scaling=Scaling.per_feature))


def test_the_sizes_of_the_splits(digits):
    assert SPLITS == {"train": 1400, "test": 397}
    assert digits.x.shape == (1400, 64)
    assert digits.y.shape == (1400,)
    assert digits.eval_x.shape == (397, 64)
    assert digits.eval_y.shape == (397,)


def sort_rows(rows):
    return rows[np.lexsort(rows.T)]


def test_every_digit_of_the_source_is_in_one_split_once(digits):
    from sklearn import datasets

    images, labels = datasets.load_digits(return_X_y=True)
    expected = np.column_stack([images, labels])
    all_images = np.vstack([digits.x, digits.eval_x])
    all_labels = np.concatenate([digits.y, digits.eval_y])
    actual = np.column_stack([all_images, all_labels])
    assert_array_equal(sort_rows(actual), sort_rows(expected))


def test_no_training_example_is_in_the_test_split(digits):
    assert not have_common_rows(digits.x, digits.eval_x)


def test_both_splits_hold_every_class_equally_often(digits):
    """Binomial: the fraction of a class in 397 examples has a standard deviation of 1.5 %."""
    for labels in (digits.y, digits.eval_y):
        counts = np.bincount(labels, minlength=10)
        fractions = counts / len(labels)
        assert fractions == pytest.approx(0.1, abs=0.05)


def standardize(rows, dataset):
    standardization = dataset.standardization
    return (rows.astype(float) - standardization.offset) * standardization.scale


def test_inputs_have_mean_0_and_mean_square_1(digits):
    inputs = standardize(digits.x, digits)
    mean_square = (inputs**2).mean()
    assert inputs.mean() == pytest.approx(0, abs=1e-12)
    assert mean_square == pytest.approx(1, rel=1e-12) == digits.mean_square


def test_each_pixel_has_mean_0_and_mean_square_1_unless_it_is_constant(digits, per_feature):
    inputs = standardize(digits.x, per_feature)
    mean = inputs.mean(axis=0)
    mean_square = (inputs**2).mean(axis=0)
    varies = np.ptp(digits.x, axis=0) > 0
    assert 0 < varies.sum() < 64
    assert_allclose(mean, 0, atol=1e-12)
    assert_allclose(mean_square, varies, rtol=1e-12)
    assert per_feature.mean_square == pytest.approx(varies.mean(), rel=1e-12)


def test_a_pixel_that_is_constant_in_training_stays_small_in_evaluation(per_feature):
    inputs = standardize(per_feature.eval_x, per_feature)
    assert np.abs(inputs).max() < 100


def test_scaling_per_feature_leaves_the_examples_and_the_usual_dataset_alone(digits, per_feature):
    usual = load(ImageData())
    assert_array_equal(per_feature.x, digits.x)
    assert usual.standardization == digits.standardization


def test_the_network_reads_each_pixel_in_its_scale(digits, per_feature, make_architecture):
    arrays = jax.tree.map(jnp.asarray, per_feature.arrays())
    architecture = make_architecture(shape=(8, 8, 1))
    inputs = normalize_inputs(architecture, arrays, arrays["x"])
    expected = standardize(digits.x, per_feature)
    assert_allclose(inputs, expected, rtol=1e-5, atol=1e-5)


def test_a_network_in_float64_reads_the_digits_in_float64(digits, make_architecture):
    architecture = make_architecture(shape=(8, 8, 1), dtype="float64")
    with jax.enable_x64(True):
        arrays = jax.tree.map(jnp.asarray, digits.arrays(np.float64))
        inputs = normalize_inputs(architecture, arrays, arrays["x"])
    assert inputs.dtype == np.float64
    assert_allclose(inputs, standardize(digits.x, digits), rtol=1e-14, atol=1e-14)


def test_what_is_stored_is_small_and_exact(digits):
    assert digits.x.dtype == np.uint8
    assert digits.y.dtype == np.int32
    assert digits.x.min() == 0
    assert digits.x.max() == 16


def test_a_limit_keeps_the_first_training_examples_and_the_whole_test_split(digits):
    few = load_digits(ImageData(limit=50))
    assert_array_equal(few.x, digits.x[:50])
    assert_array_equal(few.eval_x, digits.eval_x)
    assert few.mean_square == pytest.approx(1, rel=1e-12)


def test_the_fingerprint_is_that_of_the_examples(digits):
    again = load_digits(ImageData())
    few = load_digits(ImageData(limit=50))
    assert again.fingerprint() == digits.fingerprint()
    assert few.fingerprint() != digits.fingerprint()


@pytest.mark.parametrize(
    ("setting", "split"),
    [("split", "trian"), ("eval_split", "tset"), ("split", "")],
)
def test_a_split_that_does_not_exist_is_refused_by_name(setting, split):
    config = make_config({f"data.{setting}": split})
    with pytest.raises(ValueError, match=f"^data.{setting} must be one of train, test, got "):
        check_data(config)


PREPARE = """
import sys
from research.data.digits import load_digits
from research.config.data_options import ImageData
print(load_digits(ImageData()).fingerprint(), "tensorflow" in sys.modules)
"""


def test_three_processes_prepare_one_folder_at_once_and_none_needs_tensorflow(
    digits, tmp_path, process
):
    data_dir = str(tmp_path / "fresh")
    processes = []
    for _ in range(3):
        processes.append(process("-c", PREPARE, TFDS_DATA_DIR=data_dir))
    for each in processes:
        assert each.communicate() == (f"{digits.fingerprint()} False\n", "")


@pytest.mark.slow
def test_where_the_home_cannot_be_written_the_digits_are_the_same(digits, tmp_path, process):
    """As in a container whose user has none: the first command of the README works there."""
    home = tmp_path / "home"
    home.touch()
    started = process("-c", PREPARE, TFDS_DATA_DIR="", HOME=str(home), TMPDIR=str(tmp_path))
    assert started.communicate() == (f"{digits.fingerprint()} False\n", "")
    assert not list(tmp_path.glob("fathom-*"))  # TFDS leaves folders of its own


def test_cached_rows_that_were_cut_short_are_decoded_again(digits, tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    load_digits(ImageData())
    [cache] = tmp_path.rglob("decoded-train.npz")
    content = cache.read_bytes()
    cache.write_bytes(content[: len(content) // 2])
    again = load_digits(ImageData())
    assert again.fingerprint() == digits.fingerprint()
    assert len(cache.read_bytes()) == len(content)
