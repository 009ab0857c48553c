"""The user's arrays: a .npz file with x and y."""

import io
import zipfile
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from research.config.data_options import ArrayData, Scaling
from research.data.compatibility import check_data
from research.data.sources import describe, load
from research.data.splits import choose_test_positions

from ..builders import make_config

X = np.arange(600, dtype=np.float32).reshape(100, 3, 2)
WIDE = X.astype(np.float64)
Y = np.arange(100) % 4
TWO_CLASSES = np.arange(100) % 2


def settings(path, **changes):
    return ArrayData(path=str(path), **changes)


def network_inputs(dataset, dtype: Any = np.float32):
    """What the network reads of the training examples."""
    arrays = dataset.arrays(dtype)
    return (arrays["x"].astype(dtype) - arrays["offset"]) * arrays["scale"]


@pytest.fixture
def file(tmp_path):
    return tmp_path / "a.npz"


def test_arrays_are_split_in_a_fixed_order_and_nothing_is_lost(file):
    np.savez(file, x=X, y=Y)
    dataset = load(settings(file))
    rows = np.vstack([dataset.x, dataset.eval_x])
    labels = np.concatenate([dataset.y, dataset.eval_y])
    order = np.argsort(rows[:, 0])
    expected_rows = X.reshape(100, 6)
    assert_array_equal(rows[order], expected_rows)
    assert_array_equal(labels[order], Y)
    assert len(dataset.eval_x) == 10
    assert dataset.y.dtype == np.int32


def test_whole_numbers_are_classes_and_inputs_are_standardized(file):
    np.savez(file, x=X, y=Y)
    dataset = load(settings(file))
    assert dataset.shape == (3, 2)
    assert dataset.classes == 4
    assert not dataset.is_regression
    assert dataset.class_counts == np.bincount(dataset.y).tolist()
    assert dataset.mean_square == pytest.approx(1)


def test_a_test_split_in_the_file_is_used(file):
    x_test = X[:7] + 1
    y_test = Y[:7]
    np.savez(file, x=X, y=Y, x_test=x_test, y_test=y_test)
    dataset = load(settings(file))
    assert len(dataset.x) == 100
    assert_array_equal(dataset.eval_x, x_test.reshape(7, 6))


FLOAT_TARGETS = [
    np.linspace(-1, 1, 100),
    np.linspace([0, 1], [1, 1], 100),
]


@pytest.mark.parametrize("targets", FLOAT_TARGETS)
def test_targets_that_are_not_integers_are_regression_targets(file, targets):
    np.savez(file, x=X, y=targets)
    dataset = load(settings(file))
    outputs = targets.size // 100
    assert dataset.is_regression
    assert dataset.classes == outputs
    assert dataset.y.shape == (90, outputs)
    assert dataset.class_counts is None


def test_a_file_with_two_arrays_of_one_name_is_refused(file):
    np.savez(file, x=X, y=Y)
    content = io.BytesIO()
    np.save(content, X + 1)
    with zipfile.ZipFile(file, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("x.npy", content.getvalue())
    with pytest.raises(ValueError, match="must hold each array once, got x, y, x"):
        describe(settings(file))


def test_classes_are_said_to_be_no_targets_under_a_loss_for_targets(file, capsys):
    np.savez(file, x=X, y=Y)
    check_data(make_config({"data": "arrays", "data.path": str(file), "train.batch_size": 8}))
    assert capsys.readouterr().err == ""
    changes = {"data": "arrays", "data.path": str(file), "train.batch_size": 8, "loss": "mse"}
    for _ in range(2):
        check_data(make_config(changes))
    assert capsys.readouterr().err == (
        f"fathom: {file}: y holds whole numbers, which are classes, so loss=mse compares outputs "
        "with 1 for the right class and 0 for others: y.astype(float) makes targets of them\n"
    )


def test_rows_of_whole_numbers_are_said_to_be_no_tokens(file, capsys):
    np.savez(file, x=X.astype(int).reshape(100, 6), y=Y)
    changes = {"data": "arrays", "data.path": str(file), "train.batch_size": 8}
    check_data(make_config(changes))
    assert capsys.readouterr().err == ""
    check_data(make_config(changes | {"model": "transformer"}))
    assert "read as numbers, and not as tokens of a text" in capsys.readouterr().err


@pytest.mark.parametrize("mean", [-1e5, 1e30])
def test_a_mean_next_to_which_inputs_would_be_the_same_is_refused(mean):
    message = "data.input_mean must be between -20000 and 20000 .float32 would round away"
    with pytest.raises(ValueError, match=message):
        check_data(make_config({"data.input_mean": mean, "data.input_scale": 2.0}))
    check_data(make_config({"data.input_mean": mean, "precision": "float64"}))


PICKLED = np.array([{}, {}], object)
WRONG_CONTENT = {
    "pickled objects": {"x": PICKLED, "y": [0, 1]},
    "pickled targets": {"x": X[:2], "y": PICKLED},
    "no x": {"a": [0]},
    "lengths": {"x": X, "y": Y[:9]},
    "words": {"x": ["a", "b"], "y": [0, 1]},
    "not finite": {"x": [np.nan, 1], "y": [0, 1]},
    "other names": {"X_train": X, "y_train": Y, "X_test": X},
    "names of targets": {"labels": Y, "images": X},
    "names of four arrays": {"x_train": X, "y_train": Y, "x_test": X, "y_test": Y},
    "names of six arrays": {
        "X_train": X,
        "X_val": X,
        "X_test": X,
        "y_train": Y,
        "y_val": Y,
        "y_test": Y,
    },
    "arrays without names": {"arr_0": X, "arr_1": Y},
    "a type that is not NumPy's": {"x": X.astype(ml_dtypes.bfloat16), "y": Y},
    "words for classes": {"x": X, "y": np.array(list("abcd"))[Y]},
    "complex numbers": {"x": WIDE * 1j, "y": Y},
    "dates": {"x": Y.astype("M8[s]"), "y": Y},
    "columns": {"x": np.zeros(100, [("a", "f4"), ("b", "i4")]), "y": Y},
    "negative classes": {"x": X, "y": Y - 1},
    "shapes": {"x": X, "y": Y, "x_test": X[:, 0], "y_test": Y},
    "half a test split": {"x": X, "y": Y, "x_test": X},
    "two kinds of targets": {"x": X, "y": Y, "x_test": X, "y_test": Y / 2},
    "outputs": {"x": X, "y": X[:, 0], "x_test": X, "y_test": X[:, 0, 0]},
    "no features": {"x": X[:, :0], "y": Y},
    "constant inputs": {"x": np.full((100, 6), 0.1), "y": Y},
    "one example again and again": {"x": np.repeat(X[:1], 100, axis=0), "y": Y},
    "one class": {"x": X, "y": np.full(100, 3)},
    "one target": {"x": X, "y": np.full((100, 2), 0.5)},
    "inputs that are subnormal": {"x": WIDE * 1e-313, "y": Y},
    "a label that would wrap to 1": {"x": X, "y": Y + 2**32},
    "a label beyond int32": {"x": X, "y": Y + 2**31},
    "a label beyond int64": {"x": X, "y": Y.astype(np.uint64) + 2**63},
    "a label that would allocate gigabytes": {"x": X, "y": Y + 10**9},
    "a test label that would wrap": {"x": X, "y": Y, "x_test": X, "y_test": Y + 2**32},
    "inputs near the end of float64": {"x": WIDE * 3e305, "y": Y},
    "inputs beyond float64": {"x": WIDE * np.longdouble("1e4000"), "y": Y},
    "inputs that hardly vary": {"x": WIDE * 1e-306, "y": Y},
    "a target beyond float32": {"x": X, "y": WIDE[:, 0, 0] * 1e300},
    "a target whose square is beyond float32": {"x": X, "y": WIDE[:, 0, 0] * 1e30},
    "test inputs far away": {"x": X, "y": Y, "x_test": WIDE * 1e40, "y_test": Y},
}
MESSAGES = {
    "pickled objects": "x holds pickled objects, which are never read",
    "pickled targets": "y holds pickled objects, which are never read",
    "no x": "must hold x and y, got a",
    "lengths": "must hold the same number of examples, at least two, got 100 and 9",
    "words": "x must hold real numbers, got <U1: x.astype(float) reads numbers that are",
    "not finite": "x must be finite, but x[0] is nan, and 1 of its 2 numbers are not finite",
    "other names": "got X_train, y_train, X_test: numpy.savez(file, x=X_train, y=y_train) makes",
    "names of targets": "numpy.savez(file, x=images, y=labels) makes such a file",
    "names of four arrays": "x=x_train, y=y_train, x_test=x_test, y_test=y_test) makes such a file",
    "names of six arrays": "x=X_train, y=y_train, x_test=X_test, y_test=y_test) makes such a file",
    "arrays without names": "got arr_0, arr_1: numpy.savez(file, x=arr_0, y=arr_1) makes such a",
    "a type that is not NumPy's": "got |V2: save x.astype('float32'), whatever its type was",
    "words for classes": "y must hold real numbers, got <U1: numpy.unique(y, return_inverse=True)",
    "complex numbers": "got complex128: numpy.stack([x.real, x.imag], -1) makes two of each",
    "dates": "got datetime64[s]: x.astype('int64') counts from a date on",
    "columns": "numpy.lib.recfunctions.structured_to_unstructured(x) makes columns",
    "negative classes": "y must be [n] with classes from 0 on, got classes from -1 on",
    "shapes": "x_test must be [n, 3, 2] like x, got [n, 2]",
    "half a test split": "must hold both x_test and y_test, or neither",
    "two kinds of targets": "y_test must be int64 like y, got float64",
    "outputs": "y_test must hold 2 numbers for each example like y, got 1",
    "no features": "must hold numbers for each example, got the shapes [100, 0, 2] and [100]",
    "constant inputs": "x must vary, but all examples are the same",
    "one example again and again": "x must vary, but all examples are the same",
    "one target": "y must vary, but all targets are the same",
    "inputs that are subnormal": "x must vary by more than 1e-300",
    "one class": "y must hold at least two classes, got only 3",
    "a label that would wrap to 1": "y must hold classes from 0 to 99999, got 4294967299",
    "a label beyond int32": "y must hold classes from 0 to 99999, got 2147483651",
    "a label beyond int64": "y must hold classes from 0 to 99999, got 9223372036854775811",
    "a label that would allocate gigabytes": "y must hold classes from 0 to 99999, got 1000000003",
    "a test label that would wrap": "y_test must hold classes from 0 to 99999, got 4294967299",
    "inputs near the end of float64": "x must hold numbers between -1e+307 and 1e+307, got 1.797",
    "inputs beyond float64": "x must hold numbers between -1e+307 and 1e+307, got inf",
    "inputs that hardly vary": "x must vary by more than 1e-300",
    "a target beyond float32": "y must hold numbers between -1e+18 and 1e+18, got 5.94e+302",
    "a target whose square is beyond float32": "y must hold numbers between -1e+18 and 1e+18",
    "test inputs far away": "the test split must be in the range of the training split",
}


@pytest.mark.parametrize("case", WRONG_CONTENT)
def test_a_file_that_holds_something_else_is_refused_in_one_line(file, case):
    np.savez(file, **WRONG_CONTENT[case])
    with pytest.raises(ValueError) as refused:
        describe(settings(file))
    message = str(refused.value)
    assert MESSAGES[case] in message
    assert str(file) in message
    assert "\n" not in message


def single_array():
    """What ``numpy.save`` writes, under the name of an archive."""
    content = io.BytesIO()
    np.save(content, X)
    return content.getvalue()


def encrypted_archive():
    """An archive whose first flag says that a password is needed."""
    content = io.BytesIO()
    np.savez(content, x=X, y=Y)
    archive = bytearray(content.getvalue())
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        archive[archive.index(signature) + offset] |= 1
    return bytes(archive)


NO_ARCHIVES = [b"", b"PK\x03\x04 cut short", b"hello", single_array(), encrypted_archive()]


@pytest.mark.parametrize("content", NO_ARCHIVES, ids=range(len(NO_ARCHIVES)))
def test_a_damaged_file_is_refused_by_name(file, content):
    file.write_bytes(content)
    with pytest.raises(ValueError, match=f"{file} is not a .npz file, or it is damaged"):
        describe(settings(file))


def test_a_member_that_is_no_array_is_refused_by_name(file):
    np.savez(file, x=X)
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr("y", "0 1 2")
    with pytest.raises(ValueError, match=f"^{file}: y must be an array, as numpy.savez writes it$"):
        describe(settings(file))


@pytest.mark.parametrize("names", [("X_test", "Y_test"), ("x_val", "y_val"), ("labels",)])
def test_arrays_of_other_names_are_left_out_in_one_line(file, names, capsys):
    arrays: dict[str, Any] = dict.fromkeys(names, X)
    np.savez(file, x=X, y=TWO_CLASSES, **arrays)
    describe(settings(file))
    assert capsys.readouterr().err == ""
    load(settings(file))
    assert capsys.readouterr().err == (
        f"fathom: {file}: arrays left out: {', '.join(names)} "
        "(those that are read are called x, y, x_test, y_test)\n"
    )


@pytest.mark.parametrize(("channels", "is_said"), [(1, True), (3, True), (8, False)])
def test_images_with_their_channels_first_are_said(file, channels, is_said, capsys):
    first = np.arange(100.0 * channels * 48).reshape(100, channels, 8, 6)
    np.savez(file, x=first, y=TWO_CLASSES)
    load(settings(file))
    said = f"x is read as images of {channels}×8 pixels with 6 channels; if they are 8×6 pixels"
    assert (said in capsys.readouterr().err) == is_said
    np.savez(file, x=np.moveaxis(first, 1, -1), y=TWO_CLASSES)
    load(settings(file))
    assert capsys.readouterr().err == ""


def test_classes_as_real_numbers_are_told_from_targets_of_a_regression(file):
    np.savez(file, x=X, y=Y.astype(np.float64))
    with pytest.raises(ValueError, match="numbers, not classes; whole .* classes: y.astype.int"):
        check(file)


def test_whole_numbers_beyond_32_bits_next_to_bytes_are_standardized_before_they_are_cast(file):
    small = np.arange(600).reshape(100, 6).astype(np.uint8)
    large = np.full((100, 6), 2**33)
    np.savez(file, x=small, y=Y, x_test=large, y_test=Y)
    eval_x = load(settings(file)).arrays()["eval_x"]
    expected = (2.0**33 - small.mean()) / small.std()
    assert eval_x.dtype == np.float32
    np.testing.assert_allclose(eval_x, np.full((100, 6), expected), rtol=1e-6)


def test_a_file_that_has_changed_is_read_again(file):
    np.savez(file, x=X, y=Y)
    before = load(settings(file))
    np.savez(file, x=X + WIDE, y=Y)
    assert load(settings(file)) is not before
    assert load(settings(file)).fingerprint() != before.fingerprint()


def test_arrays_need_a_path():
    with pytest.raises(ValueError, match="^data.path must be .*, got none$"):
        describe(ArrayData())


SHIFTED = {
    "a large offset": WIDE / 100 + 1e9,
    "a larger offset": WIDE + 1e12,
    "unix times": X.astype(np.int64) + 1_700_000_000,
    "times in nanoseconds": X.astype(np.int64) + 1_700_000_000_000_000_000,
    "the end of uint64": X.astype(np.uint64) + np.uint64(2**64 - 600),
    "both ends of int64": np.where(WIDE < 300, WIDE - 2.0**63, 2.0**63 - 1024 - WIDE).astype(
        np.int64
    ),
    "large numbers": WIDE * 1e300,
    "small numbers": WIDE * 1e-200,
    "small numbers far from zero": WIDE * 1e-7 + 1.0,
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("case", SHIFTED)
def test_inputs_are_standardized_before_they_are_cast(file, case, dtype):
    """The oracle computes with fractions of the range, which Python's integers keep exactly."""
    x = SHIFTED[case]
    np.savez(file, x=x, y=Y)

    dataset = load(settings(file))
    inputs = network_inputs(dataset, dtype)

    numbers = [int(n) if x.dtype.kind != "f" else float(n) for n in x.ravel().tolist()]
    smallest = min(numbers)
    fractions = np.array([n - smallest for n in numbers]) / float(max(numbers) - smallest)
    train = np.isin(np.arange(100), choose_test_positions(100)[0])
    expected = fractions.reshape(100, 6)[train]
    expected = (expected - expected.mean()) / expected.std()
    assert inputs.dtype == dtype
    assert_allclose(inputs, expected, atol=2e-6)
    check_data(make_config({"data": "arrays", "data.path": str(file), "train.batch_size": 8}))


def test_a_network_in_float64_reads_float64(file):
    np.savez(file, x=WIDE + 1e-12, y=WIDE[:, 0] / 3)
    dataset = load(settings(file))
    arrays = dataset.arrays(np.float64)
    inputs = network_inputs(dataset, np.float64)
    assert inputs.mean() == pytest.approx(0, abs=1e-15)
    assert inputs.std() == pytest.approx(1, rel=1e-15)
    assert arrays["y"].dtype == np.float64
    assert dataset.arrays()["y"].dtype == np.float32


def check(file, **changes):
    settings_of_data = {"data": "arrays", "data.path": str(file), "train.batch_size": 8}
    check_data(make_config(settings_of_data | changes))


ONE_LARGE_FEATURE = X.reshape(100, 6) * [1, 1, 1, 1, 1, 1e12]
ONE_OUTLIER = np.where(WIDE == 0, 1e15, WIDE)[:, :1, :1]


def test_a_feature_that_float32_would_lose_is_named_unless_it_fits(file):
    np.savez(file, x=ONE_LARGE_FEATURE, y=Y)
    with pytest.raises(ValueError, match="feature 0 of x is constant .* data.scaling=per_feature"):
        check(file)
    check(file, **{"data.scaling": "per_feature"})
    check(file, precision="float64")
    inputs = network_inputs(load(settings(file, scaling=Scaling.per_feature)))
    assert_allclose(inputs.std(axis=0), 1, rtol=1e-6)


FAR_APART = [1e20, 1, 1e9]  # units of features: in float64, only one of them is left
WITH_OFFSETS = [1, 1000, 1000]


@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_a_wider_format_is_advised_only_where_it_keeps_every_feature(file, precision):
    np.savez(file, x=WIDE.reshape(200, 3) % 7 * FAR_APART, y=np.arange(200) % 2)
    with pytest.raises(ValueError, match="other numbers are so much larger") as caught:
        check(file, precision=precision)
    assert str(caught.value).startswith(f"{file}: in {precision}, feature 1 of x is constant")
    assert str(caught.value).endswith("so much larger: set data.scaling=per_feature")
    check(file, precision=precision, **{"data.scaling": "per_feature"})


@pytest.mark.parametrize("precision", ["bfloat16", "mixed_bfloat16"])
def test_a_feature_that_a_short_format_would_lose_is_named(file, precision):
    np.savez(file, x=WIDE.reshape(200, 3) % 2 + WITH_OFFSETS, y=np.arange(200) % 2)
    check(file)
    with pytest.raises(ValueError, match="in bfloat16, feature 0 of x is constant") as caught:
        check(file, precision=precision)
    assert str(caught.value).endswith(": set data.scaling=per_feature, or use precision=float32")
    check(file, precision=precision, **{"data.scaling": "per_feature"})


@pytest.mark.parametrize("scaling", ["jointly", "per_feature"])
def test_examples_that_one_outlier_would_make_equal_are_refused(file, scaling):
    np.savez(file, x=ONE_OUTLIER, y=Y, x_test=X[:, :1, :1], y_test=Y)
    with pytest.raises(ValueError, match="feature 0 of x is constant .*: take its logarithm, or"):
        check(file, **{"data.scaling": scaling})


@pytest.mark.parametrize("targets", [1e9 + WIDE[:, 0] / 1e3, WIDE[:, 0] * 1e-60])
def test_targets_that_float32_would_make_equal_are_refused(file, targets):
    np.savez(file, x=X, y=targets)
    with pytest.raises(ValueError, match="in float32, y is constant"):
        check(file, loss="mse")
    check(file, loss="mse", precision="float64")


def test_a_class_without_a_training_example_is_said_in_one_line(file, capsys):
    np.savez(file, x=X, y=3 * TWO_CLASSES)
    load(settings(file))
    assert capsys.readouterr().err == (
        "fathom: data=arrays: 2 of 4 classes have no example among the 90 training examples: 1, 2\n"
    )


def test_a_class_without_an_evaluation_example_is_said_in_one_line(file, capsys):
    np.savez(file, x=X, y=Y + 1, x_test=X + WIDE, y_test=TWO_CLASSES + 1)
    load(settings(file))
    [of_training, of_evaluation] = capsys.readouterr().err.splitlines()
    assert of_training.endswith("classes has no example among the 100 training examples: 0")
    assert of_evaluation.endswith("classes have no example among the 100 evaluation examples: 3, 4")


def test_a_line_that_two_runs_of_a_process_share_is_said_once(file, capsys):
    np.savez(file, x=X, y=Y, x_test=WIDE, y_test=TWO_CLASSES, names=Y)
    load(settings(file, limit=20))
    first = capsys.readouterr().err.splitlines()
    load(settings(file, limit=30))
    second = capsys.readouterr().err.splitlines()
    assert any("among the 100 evaluation examples: 2, 3" in line for line in first)
    assert any("arrays left out: names" in line for line in first)
    assert not set(first) & set(second)


def test_the_verb_fits_a_single_class_without_an_example(file, capsys):
    np.savez(file, x=X, y=Y + 1)
    load(settings(file))
    assert "1 of 5 classes has no example" in capsys.readouterr().err


def test_one_hot_numbers_are_told_how_they_become_classes(file):
    np.savez(file, x=X, y=np.eye(4)[Y])
    with pytest.raises(ValueError, match=r"of one-hot rows y\.argmax\(axis=1\)"):
        check(file)


def test_gray_images_without_channels_are_told_how_they_get_one(file):
    np.savez(file, x=X, y=Y)
    with pytest.raises(
        ValueError, match=r"3×2 numbers without channels: x\[..., None\] makes gray"
    ):
        check(file, **{"data.crop": 1})


@pytest.mark.parametrize("changes", [{"limit": 30}, {"split": "train[:30]"}])
def test_a_part_of_sorted_arrays_holds_every_class(file, changes):
    np.savez(file, x=X, y=np.sort(Y))
    counts = load(settings(file, **changes)).class_counts
    assert counts is not None
    assert min(counts) > 2
    assert sum(counts) == 30
