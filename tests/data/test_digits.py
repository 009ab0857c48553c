import jax.numpy as jnp
import numpy as np
import pytest

from research.config.data_settings import Data, Scaling
from research.config.schema import Config
from research.config.validation import check
from research.data.digits import SPLITS, load_digits
from research.data.sources import load
from research.training.objective import normalize_inputs


@pytest.fixture(scope="module")
def digits():
    return load_digits(Data())


@pytest.fixture(scope="module")
def per_feature():
    """The digits, standardized for each pixel separately."""
    return load(Data(scaling=Scaling.per_feature))


def row_set(rows):
    return {row.tobytes() for row in rows}


def test_the_sizes_of_the_splits(digits):
    assert len(digits.x) == len(digits.y) == SPLITS["train"] == 1400
    assert len(digits.eval_x) == len(digits.eval_y) == 397
    assert digits.x.shape[1] == digits.eval_x.shape[1] == 64


def sort_rows(rows):
    return rows[np.lexsort(rows.T)]


def test_every_digit_of_the_source_is_in_one_split_once(digits):
    from sklearn import datasets

    images, labels = datasets.load_digits(return_X_y=True)
    expected = np.column_stack([images, labels])
    all_images = np.vstack([digits.x, digits.eval_x])
    all_labels = np.concatenate([digits.y, digits.eval_y])
    actual = np.column_stack([all_images, all_labels])
    assert np.array_equal(sort_rows(actual), sort_rows(expected))


def test_no_training_example_is_in_the_test_split(digits):
    assert row_set(digits.x).isdisjoint(row_set(digits.eval_x))


def test_both_splits_hold_every_class_equally_often(digits):
    """Binomial: the fraction of a class in 397 examples has a standard deviation of 1.5 %."""
    for labels in (digits.y, digits.eval_y):
        fractions = np.bincount(labels, minlength=10) / len(labels)
        assert fractions == pytest.approx(0.1, abs=0.05)


def test_inputs_have_mean_0_and_mean_square_1(digits):
    inputs = (digits.x.astype(float) - digits.offset) * digits.scale
    assert inputs.mean() == pytest.approx(0, abs=1e-12)
    assert (inputs**2).mean() == pytest.approx(1, rel=1e-12) == digits.mean_square


def test_each_pixel_has_mean_0_and_mean_square_1_unless_it_is_constant(digits, per_feature):
    inputs = (digits.x - per_feature.offset) * per_feature.scale
    varies = np.ptp(digits.x, axis=0) > 0
    assert 0 < np.sum(varies) < 64
    np.testing.assert_allclose(inputs.mean(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose((inputs**2).mean(axis=0), varies, rtol=1e-12)
    assert per_feature.mean_square == pytest.approx(varies.mean(), rel=1e-12)


def test_a_pixel_that_is_constant_in_training_stays_small_in_evaluation(per_feature):
    inputs = (per_feature.eval_x - per_feature.offset) * per_feature.scale
    assert np.abs(inputs).max() < 100


def test_scaling_per_feature_leaves_the_examples_and_the_usual_dataset_alone(digits, per_feature):
    usual = load(Data())
    assert np.array_equal(per_feature.x, digits.x)
    assert usual.offset == digits.offset
    assert usual.scale == digits.scale


def test_the_network_reads_each_pixel_in_its_scale(digits, per_feature, make_architecture):
    arrays = {name: jnp.asarray(array) for name, array in per_feature.arrays().items()}
    architecture = make_architecture(shape=(8, 8, 1))
    inputs = normalize_inputs(architecture, arrays, arrays["x"])
    expected = (digits.x - per_feature.offset) * per_feature.scale
    np.testing.assert_allclose(inputs, expected, rtol=1e-5, atol=1e-5)


def test_what_is_stored_is_small_and_exact(digits):
    assert digits.x.dtype == np.uint8
    assert digits.y.dtype == np.int32
    assert digits.x.min() == 0
    assert digits.x.max() == 16


def test_a_limit_keeps_the_first_training_examples_and_the_whole_test_split(digits):
    few = load_digits(Data(limit=50))
    assert np.array_equal(few.x, digits.x[:50])
    assert np.array_equal(few.eval_x, digits.eval_x)
    assert few.mean_square == pytest.approx(1, rel=1e-12)


def test_the_fingerprint_is_that_of_the_examples(digits):
    assert load_digits(Data()).fingerprint() == digits.fingerprint()
    assert load_digits(Data(limit=50)).fingerprint() != digits.fingerprint()


@pytest.mark.parametrize(
    ("setting", "split"),
    [("split", "trian"), ("eval_split", "tset"), ("split", "")],
)
def test_a_split_that_does_not_exist_is_refused_by_name(setting, split):
    config = Config()
    setattr(config.data, setting, split)
    with pytest.raises(ValueError, match=f"^data.{setting} must be one of train, test, got "):
        check(config)


PREPARE = """
import sys
from research.data.digits import load_digits
from research.config.data_settings import Data
print(load_digits(Data()).fingerprint(), "tensorflow" in sys.modules)
"""


def test_three_processes_prepare_one_folder_at_once_and_none_needs_tensorflow(
    digits, tmp_path, process
):
    processes = []
    for _ in range(3):
        processes.append(process("-c", PREPARE, TFDS_DATA_DIR=str(tmp_path / "fresh")))
    for each in processes:
        assert each.communicate() == (f"{digits.fingerprint()} False\n", "")


def test_cached_rows_that_were_cut_short_are_decoded_again(digits, tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    load_digits(Data())
    [cache] = tmp_path.rglob("decoded-train.npz")
    content = cache.read_bytes()
    cache.write_bytes(content[: len(content) // 2])
    assert load_digits(Data()).fingerprint() == digits.fingerprint()
    assert len(cache.read_bytes()) == len(content)
