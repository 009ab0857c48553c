import jax.numpy as jnp
import numpy as np
import pytest

from research.config.data_options import Data, Scaling
from research.config.schema import Config
from research.config.validation import check
from research.data.digits import SPLITS, load_digits
from research.data.noise import load_noise
from research.data.sources import load
from research.training.objective import normalize_inputs


@pytest.fixture(scope="module")
def digits():
    return load_digits(Data())


def test_the_split(digits):
    assert len(digits.x) == len(digits.y) == SPLITS["train"] == 1400
    assert len(digits.eval_x) == len(digits.eval_y) == 397
    assert digits.x.shape[1] == digits.eval_x.shape[1] == 64


def test_every_digit_of_the_source_is_in_one_split_once(digits):
    from sklearn import datasets

    images, labels = datasets.load_digits(return_X_y=True)
    wanted = np.column_stack([images, labels])
    ours = np.column_stack(
        [np.vstack([digits.x, digits.eval_x]), np.concatenate([digits.y, digits.eval_y])]
    )
    assert np.array_equal(ours[np.lexsort(ours.T)], wanted[np.lexsort(wanted.T)])


def test_no_training_example_is_held_out(digits):
    rows = {row.tobytes() for row in digits.x}
    assert not rows & {row.tobytes() for row in digits.eval_x}


def test_both_splits_hold_every_class_in_like_shares(digits):
    """Binomial: the share of a class in 397 draws has a standard deviation of 1.5 %."""
    for labels in (digits.y, digits.eval_y):
        assert np.bincount(labels, minlength=10) / len(labels) == pytest.approx(0.1, abs=0.05)


def test_inputs_have_mean_0_and_mean_square_1(digits):
    inputs = (digits.x.astype(float) - digits.offset) * digits.scale
    assert inputs.mean() == pytest.approx(0, abs=1e-12)
    assert (inputs**2).mean() == pytest.approx(1, rel=1e-12) == digits.mean_square


def test_each_pixel_by_itself_has_mean_0_and_mean_square_1_but_those_that_never_change(digits):
    alone = load(Data(scaling=Scaling.per_feature))
    inputs = (digits.x - alone.offset) * alone.scale
    changes = np.ptp(digits.x, axis=0) > 0
    assert 0 < np.sum(changes) < 64 and np.array_equal(alone.x, digits.x)
    np.testing.assert_allclose(inputs.mean(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose((inputs**2).mean(axis=0), changes, rtol=1e-12)
    assert alone.mean_square == pytest.approx(changes.mean(), rel=1e-12)
    assert (
        np.abs((alone.eval_x - alone.offset) * alone.scale).max() < 100
    )  # also where a pixel never changed before
    assert (load(Data()).offset, load(Data()).scale) == (digits.offset, digits.scale)


def test_the_network_reads_each_pixel_by_its_own_scale(digits, make_architecture):
    alone = load(Data(scaling=Scaling.per_feature))
    arrays = {name: jnp.asarray(array) for name, array in alone.arrays().items()}
    read = normalize_inputs(make_architecture(shape=(8, 8, 1)), arrays, arrays["x"])
    np.testing.assert_allclose(read, (digits.x - alone.offset) * alone.scale, rtol=1e-5, atol=1e-5)


def test_what_is_stored_is_small_and_exact(digits):
    assert digits.x.dtype == np.uint8 and digits.y.dtype == np.int32
    assert digits.x.min() == 0 and digits.x.max() == 16


def test_a_limit_keeps_the_first_training_examples_and_all_that_are_held_out(digits):
    few = load_digits(Data(limit=50))
    assert np.array_equal(few.x, digits.x[:50]) and np.array_equal(few.eval_x, digits.eval_x)
    assert few.mean_square == pytest.approx(1, rel=1e-12)
    assert few.fingerprint() != digits.fingerprint() == load_digits(Data()).fingerprint()


@pytest.mark.parametrize("splits", [("trian", "test"), ("train", "tset"), ("", "test")])
def test_a_split_that_does_not_exist_is_refused_by_name(splits):
    config = Config()
    config.data.split, config.data.eval_split = splits
    wrong = "split" if splits[1] == "test" else "eval_split"
    with pytest.raises(ValueError, match=f"^data.{wrong} must be one of train, test, got "):
        check(config)


PREPARES = """
import sys
from research.data.digits import load_digits
from research.config.data_options import Data, Scaling
from research.data.sources import load
from research.training.objective import read_inputs
print(load_digits(Data()).fingerprint(), "tensorflow" in sys.modules)
"""


def test_three_processes_prepare_one_folder_at_once_and_none_needs_tensorflow(
    digits, tmp_path, process
):
    three = [process("-c", PREPARES, TFDS_DATA_DIR=str(tmp_path / "fresh")) for _ in range(3)]
    said = [one.communicate() for one in three]
    assert [out for out, _ in said] == [f"{digits.fingerprint()} False\n"] * 3, said
    assert [err for _, err in said] == [""] * 3


def test_noise_is_the_same_for_every_run_of_its_sizes():
    one = load_noise(Data(shape=[2, 3], classes=4, examples=100))
    same = load_noise(Data(shape=[2, 3], classes=4, examples=100))
    assert one.fingerprint() == same.fingerprint()
    assert one.x.shape == one.eval_x.shape == (100, 6) and one.shape == (2, 3)
    assert set(one.y) == set(one.eval_y) == {0, 1, 2, 3}
    assert not {row.tobytes() for row in one.x} & {row.tobytes() for row in one.eval_x}


def test_a_limit_of_noise_leaves_the_held_out_examples_as_they_are():
    one = load_noise(Data(shape=[3], classes=2, examples=100))
    few = load_noise(Data(shape=[3], classes=2, examples=100, limit=10))
    assert np.array_equal(few.x, one.x[:10]) and np.array_equal(few.eval_x, one.eval_x)
    assert np.array_equal(load_noise(Data(shape=[3], classes=2, examples=100, limit=1000)).x, one.x)


def test_decoded_rows_that_were_cut_short_are_decoded_again(digits, tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    load_digits(Data())
    (kept,) = tmp_path.rglob("decoded-train.npz")
    whole = kept.read_bytes()
    kept.write_bytes(whole[: len(whole) // 2])
    assert load_digits(Data()).fingerprint() == digits.fingerprint()
    assert len(kept.read_bytes()) == len(whole)
